"""The database rows of sites and blocks, and the settings in them.

In: settings that a user gave, changes that the reconciler saw. Out: ``Site`` and ``Block`` values.
"""
