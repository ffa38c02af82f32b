"""What every ``concurrent.futures.Executor`` promises, and what Umbel's promises beside it.

The tests take an executor from the fixture ``service`` and know nothing of what is behind it. Here that is
the service in memory; to run the same tests against another one, import them into a module beside a
``conftest.py`` with a fixture ``service`` of its own (see ``work.Service``).
"""
