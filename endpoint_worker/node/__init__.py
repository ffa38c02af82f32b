"""One worker process: the Celery application, its pool, startup and shutdown.

In: settings and credentials. Out: a consuming Celery worker, heartbeats with the node's inventory, an orderly
shutdown.
"""
