"""The code blocks of README.rst and the manual."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tests.architecture.sources import ROOT

#: Every page of prose; the blocks in them are run, or say why not.
PAGES = [
    "README.rst",
    "CONTRIBUTING.rst",
    "tests/README.rst",
    *sorted(
        str(file.relative_to(ROOT))
        for file in (ROOT / "docs").rglob("*.rst")
        if "_build" not in file.relative_to(ROOT).parts
    ),
]
_BLOCK = re.compile(r"( *)\.\. (?:code-block|code|sourcecode|highlight):: *(\S*) *")
#: A literal block that shows commands: it should be a code block.
_COMMAND = re.compile(r" +(?:umbel|umbel-endpoint|make|python|pip|curl|export) ")
_MARK = re.compile(r" *\.\. not run:(.*)")


@dataclass(frozen=True)
class Block:
    """One block. ``caption``: name of the file that it shows; ``reason``: why it is not run (None: it is)."""

    line: int
    language: str
    caption: str | None
    reason: str | None
    text: str


@lru_cache(maxsize=None)
def blocks(page: str) -> tuple[Block, ...]:
    """All code blocks of a page, in order."""
    return tuple(_find((ROOT / page).read_text(encoding="utf-8").splitlines()))


def marks(page: str) -> int:
    """How many "not run" marks a page has, wherever they are."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    return sum(1 for line in lines if _MARK.match(line))


def hides_commands(page: str) -> bool:
    """Whether a page has commands in a literal block, where no test finds them."""
    literal = False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        literal = literal and (not line or line.startswith(" "))
        if literal and _COMMAND.match(line):
            return True
        literal = literal or (line.endswith("::") and not line.lstrip().startswith(".."))
    return False


def _find(lines: list[str]) -> Iterator[Block]:
    for number, line in enumerate(lines):
        start = _BLOCK.fullmatch(line)
        if start is None:
            continue
        body = []
        for following in lines[number + 1 :]:
            if following.strip() and not following.startswith(start[1] + "   "):
                break
            body.append(following)
        options = [row.strip() for row in body[: body.index("")]] if "" in body else []
        captions = [option.removeprefix(":caption:").strip() for option in options if ":caption:" in option]
        mark = _MARK.fullmatch(lines[number - 1]) if number else None
        yield Block(
            line=number + 1,
            language=start[2],
            caption=captions[0] if captions else None,
            reason=mark[1].strip() if mark else None,
            text=textwrap.dedent("\n".join(body[len(options) :])).strip("\n") + "\n",
        )
