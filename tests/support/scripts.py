"""Small shell scripts that replace real programs."""

from __future__ import annotations

from pathlib import Path


def write(file: Path, script: str) -> Path:
    """Make ``file`` a program that runs these lines of shell, and its folder if there is none; return it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file
