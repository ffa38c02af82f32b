"""Environments: packages and Python versions that functions need, built once and cached.

======== ====================================================================
settings table ``[environments]`` of ``endpoint.toml``
store    the cache on disk: locks between workers, failures, times of last use
build    builds one with uv, or with venv and pip
======== ====================================================================
"""
