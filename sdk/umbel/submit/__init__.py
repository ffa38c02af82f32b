"""From ``Executor.submit`` to a finished future: the threads behind an executor.

In: single calls. Out: a few large submissions (``sender``, which sends each with ``submitter``), and futures
resolved from the long poll of the task group (``follower``). ``session`` joins both; ``pending`` maps tasks
to waiting futures.
``canceller`` sends cancellations; ``ending`` and ``spool`` keep what is unsent when the interpreter exits.
"""
