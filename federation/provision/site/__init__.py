"""A site in use: its shell and its batch system.

In: a ``Site`` record. Out: a machine that accepts jobs, with an installed endpoint (``bootstrap``) and a
route from its nodes to the broker (``network``).
"""
