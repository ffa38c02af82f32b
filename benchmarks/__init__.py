"""Benchmarks of Umbel and other task systems on the same works: ``make bench``.

``python -m benchmarks`` creates a virtual environment for each peer, then runs rounds. In each round every
system has its own session (``benchmarks.session``, started with the interpreter of its environment), which
starts the system, runs works, checks every result and prints one JSON record per run.
``docs/performance.rst`` explains the works and how to read the tables.

The modules of a session (``session``, ``clock``, ``works``, ``functions``, ``processes``, ``redis_server``,
``peers``) import the standard library and the peer only.
"""
