"""One worker process: the Celery application, its pool, startup and shutdown.

In: settings and credentials. Out: a consuming Celery worker, the node's description and beats, an orderly
shutdown.
"""
