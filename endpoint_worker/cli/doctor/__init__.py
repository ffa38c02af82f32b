"""``umbel-endpoint check``: finds what prevents an endpoint from working.

In: the endpoint's directory. Out: one finding per check, each with what to do next.
"""
