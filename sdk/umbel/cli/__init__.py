"""The ``umbel`` command.

In: the words of a command line. Out: tables for people, JSON for programs, an exit code that says how it
ended. ``main`` has the commands; ``output`` is how all of them print.
"""
