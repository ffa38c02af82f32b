"""The database rows of sites and blocks, and the settings in them.

In: settings from users, state changes from the reconciler. Out: ``Site`` and ``Block`` values.
"""
