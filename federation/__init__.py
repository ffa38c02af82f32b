"""The federation layer: how the service manages tasks, endpoints and blocks. No Flask, no user code.

::

    webapp ──▶ ledger ──▶ dispatch ──▶ broker ──▶ the endpoint's Celery queue
                 ▲                                             │
                 └── services.collector ◀── broker ◀── the endpoint's reports queue

Each directory is one stop of that journey or one supporting subject; its docstring says what comes in and
what goes out. ``context.Federation`` holds what every server process needs. Imports between directories point
one way; see the ``layers`` contracts in ``setup.cfg``.
"""
