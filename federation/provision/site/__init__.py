"""A site in use: its shell together with its batch system.

In: a ``Site`` record. Out: a machine that takes jobs, with an installed endpoint (``bootstrap``) and a route
from its nodes to the broker (``network``).
"""
