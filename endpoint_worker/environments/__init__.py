"""Environments: what functions need beside their code, built once and kept.

======== ====================================================================
settings table ``[environments]`` of ``endpoint.toml``
store    the cache on disk: locks between workers, failures, what was used last
build    making one with uv, or with venv and pip
======== ====================================================================
"""
