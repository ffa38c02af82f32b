"""The ``umbel`` command.

In: the arguments of a command line. Out: tables for people, JSON for programs, an exit code. ``main``,
``endpoint`` and ``logs`` have the commands; all of them print with ``output``.
"""
