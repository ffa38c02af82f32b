"""Environments: packages and Python versions that functions need, built once and cached.

In: an environment that a function needs, and the ``[environments]`` settings. Out: the Python of a directory
that ``build`` fills with uv, or with venv and pip, and that ``store`` shares between the workers of the
endpoint, with its locks, failures and times of last use.
"""
