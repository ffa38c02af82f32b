"""One worker process: the Celery application, its pool and its life from start to shutdown.

In: settings and credentials. Out: a consuming Celery worker, heartbeats with the node's inventory, an
orderly end.
"""
