"""Decisions of an endpoint's owner, read once and frozen.

In: ``endpoint.toml`` and the credentials in the endpoint's directory. Out: typed settings (slots, limits,
site policy, sandbox, environments, hardware) and logging configured by them.
"""
