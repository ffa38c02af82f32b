"""What the owner of an endpoint decides, read once and frozen.

In: ``endpoint.toml`` and the credentials in the endpoint's directory. Out: typed settings (slots, limits,
site policy, sandbox, environments, hardware) and the logging set up by them.
"""
