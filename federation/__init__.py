"""The federation layer: how the service manages tasks, endpoints and blocks. No Flask, no user code.

::

    webapp ──▶ ledger ──▶ dispatch ──▶ broker ──▶ the endpoint's Celery queue
                 ▲                                             │
                 └── services.collector ◀── broker ◀── reports list (all endpoints)

Each folder is one step of that journey or one supporting subject; its docstring states its input and output.
``context.Federation`` contains what every server process needs. Imports between folders point one way: see
the ``layers`` contracts in ``setup.cfg``.
"""
