"""``python -m federation provision``.

In: the words of a command line. Out: the reconciler's process (``main``), or one change to an elastic
endpoint (``manage``).
"""
