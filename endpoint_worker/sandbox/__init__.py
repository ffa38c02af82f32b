"""How a runner's process is isolated: not at all, by bubblewrap, or by a container.

In: the ``[sandbox]`` settings and a start line. Out: the command that starts the runner inside
(``launchers``), the channel back to the worker (``channel``), the copy of the pure-Python packages that a
runner needs in an interpreter that has none of them (``runtime_copy``). ``bootstrap`` and the copied
packages run in whatever Python 3.10 or later an image has, with nothing installed.
"""
