"""From ``Executor.submit`` to a finished future: the two threads behind an executor.

In: single calls. Out: few large submissions (``sender``), and futures resolved from the long poll of the task
group (``follower``). ``session`` joins both; ``pending`` knows which future waits for which task.
"""
