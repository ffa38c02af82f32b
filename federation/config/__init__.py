"""The settings of a server process.

In: ``umbel.toml``, ``UMBEL_*`` variables, flags. Out: one frozen ``Settings`` object.
"""
