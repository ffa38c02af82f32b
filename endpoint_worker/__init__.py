"""One endpoint: a Celery worker on its own queue whose pool is supervised runner processes.

::

    broker --> worker (Celery) --> intake --> supervisor --> runner process --> the user's function
    broker <-- reports (Outbox) <-------------+

========== ==================================================================
cli        the ``umbel-endpoint`` command
settings   ``endpoint.toml``: how this site runs calls
folder     an endpoint's folder: credentials, keys, pid files, spool, logs
configure  registration with the service
worker     the Celery worker, put together and started
transport  kombu's Redis transport with the repairs that a long-lived worker needs
intake     from a Celery message to a checked job
pool       the Celery pool, a door to the supervisor
supervisor the thread that owns all runners
slot       one runner process and the bundle that it runs
runs       what became of each call of a running bundle
journal    memory that supervisor and runner share
wire       frames on the socket between them
runner     the child process: the only place where user code runs
tidy       what a runner puts right between calls
reports    the outbox: signs reports, keeps them on disk until the broker has them
heartbeat  tells the service that this node lives, and hears what was cancelled
========== ==================================================================

Only ``runner`` and ``tidy`` run in the child, and only ``runner`` imports ``umbel.serialize``.
"""
