"""Benchmarks of Umbel and other task systems on the same workloads: ``make bench``.

``python -m benchmarks`` makes a virtual environment for each peer, then runs rounds; in each round every
system gets a session of its own (``benchmarks.session``, started with the interpreter of its environment),
which starts the system, runs works, checks every result and prints one JSON record per run.
``docs/explanation/performance.rst`` explains the works and how to read the tables.

What a session imports (``session``, ``clock``, ``works``, ``functions``, ``processes``, ``redis_server``,
``peers``) needs nothing but the standard library and the peer itself.
"""
