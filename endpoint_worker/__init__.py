"""One endpoint: a Celery worker on its own queue whose pool is a set of supervised runner processes.

::

    broker ──▶ node (Celery) ──▶ intake ──▶ scheduling ──▶ runners ──ipc──▶ child ──▶ the user's function
    broker ◀── reporting ◀──────────────────────┴── outcomes ◀──────────────────┘

Each folder is one step of that journey or one supporting subject; its docstring states its input and output.
Imports between folders point one way, from ``cli`` down to ``ipc``: see the ``layers`` contract in
``setup.cfg``. Start reading at ``node/node.py``.
"""
