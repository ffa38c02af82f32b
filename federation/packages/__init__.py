"""The wheels that the service serves at ``/packages/``, and how its own wheel is built.

In: the release tree, and wheel files that an administrator puts into ``$UMBEL_HOME/packages``. Out: lists of
these files with their SHA-256, open files to send, and one new wheel per release.
"""
