"""Directive ``argparse-help``: what a command of the server prints for ``--help``.

``.. argparse-help:: provision show`` runs ``python -m federation provision show --help`` in this process.
"""

from __future__ import annotations

import importlib
import io
import os
from contextlib import redirect_stdout
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

#: Columns of the help text; NO_COLOR keeps newer versions of argparse from adding escape sequences.
ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1"}


def help_text(words: list[str]) -> str:
    """Return the output of ``python -m federation WORDS --help``. Raises ValueError if the command fails."""
    module, arguments = "federation.__main__", words
    if words == ["web"]:
        # the federation layer starts this program by its name, in a process of its own
        module, arguments = "webapp.serve", []
    output = io.StringIO()
    code: object = 0
    with redirect_stdout(output), mock.patch.dict(os.environ, ENVIRONMENT):
        try:
            code = importlib.import_module(module).main([*arguments, "--help"])
        except SystemExit as end:
            code = end.code
    if code or not output.getvalue():
        raise ValueError(f"'{' '.join(words)} --help' ended with {code!r} and printed {output.getvalue()!r}")
    return output.getvalue()


class ArgparseHelp(SphinxDirective):
    """The help of one command, as a literal block."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the block. The page is read again in each build: the command may have changed."""
        self.env.note_reread()
        text = help_text(self.arguments[0].split() if self.arguments else [])
        return [nodes.literal_block(text, text, language="none")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("argparse-help", ArgparseHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
