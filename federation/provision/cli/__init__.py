"""``python -m federation provision``.

In: command-line arguments. Out: the provisioner's process (``main``), or one change to an elastic endpoint
(``manage``).
"""
