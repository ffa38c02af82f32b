"""Helpers for files, processes and connections that all parts of Umbel use.

In: paths, process ids. Out: the home directory and private files (``files``), processes that end with their
parent (``processes``), options of Redis connections (``redis``). The SDK, the endpoint and the service import
it; it imports none of them.
"""
