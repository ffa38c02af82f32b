"""Sphinx: plain reST, no extension, no download. ``make docs`` builds it and takes warnings for errors."""

project = "Umbel"
copyright = "the Umbel authors"
version = release = "0.1.0"
root_doc = "index"
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Your functions on your machines", "page_width": "1040px"}
highlight_language = "none"
