"""Passes the site's settings of pip on to uv, which reads neither ``pip.conf`` nor ``PIP_*`` variables."""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

#: Settings of pip, and the variables of uv with the same meaning.
_NAMES = {
    "index-url": "UV_INDEX_URL",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}


def files(environ: Mapping[str, str]) -> list[Path]:
    """Return pip's settings files, the most important one last."""
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen is not None:
        return [] if chosen == os.devnull else [Path("/etc/pip.conf"), Path(chosen)]
    home = Path(environ.get("HOME") or Path.home())
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return [
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        config / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]


def for_uv(environ: Mapping[str, str], read: Iterable[Path] | None = None) -> dict[str, str]:
    """Return variables for uv with pip's settings: those of ``environ`` before those of its files."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(files(environ) if read is None else read)
    except (configparser.Error, UnicodeDecodeError):
        parser.clear()  # pip reports the damaged file when it is used
    found: dict[str, str] = {}
    for section in ("global", "install"):
        for name, variable in _NAMES.items():
            if parser.has_option(section, name):
                found[variable] = parser.get(section, name)
    for name, variable in _NAMES.items():
        value = environ.get("PIP_" + name.upper().replace("-", "_"))
        if value:
            found[variable] = value
    if found.get("UV_NO_INDEX", "").lower() in ("", "0", "false", "no", "off"):
        found.pop("UV_NO_INDEX", None)
    else:
        found["UV_NO_INDEX"] = "1"
    # uv separates paths by commas, everything else by spaces; pip separates all by white space
    return {
        variable: (",".join if variable == "UV_FIND_LINKS" else " ".join)(value.split())
        for variable, value in found.items()
    }
