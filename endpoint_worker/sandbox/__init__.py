"""Isolation of a runner's process: none, bubblewrap, or a container.

In: the ``[sandbox]`` settings and a start line. Out: the command that starts the runner inside
(``launchers``), the channel to the worker (``channel``), and a copy of the pure-Python packages that a runner
needs in an interpreter without them (``runtime_copy``). ``bootstrap`` and the copied packages run in any
Python 3.10 or later of an image, with nothing installed.
"""
