"""Sphinx configuration. ``make docs`` builds the pages offline and treats warnings as errors."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "sdk"), str(ROOT), str(ROOT / "docs" / "_ext")]

project = "Umbel"
copyright = "the Umbel authors"
version = release = "0.1.0"
root_doc = "index"
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Your functions on your machines", "page_width": "1040px"}
highlight_language = "none"
# quotes and dashes of commands and options stay as they are typed
smartquotes = False

# The reference is generated from docstrings, commands, the OpenAPI document and the error codes.
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "argparse_help",
    "error_codes",
    "openapi",
]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
# attributes are described once, where autodoc does not list them by themselves
napoleon_use_ivar = True
