"""Redis as the service uses it.

In: bundles to send, sets of waiting polls to wake. Out: Celery messages in the endpoints' queues, reports
taken from theirs, notifications between server processes.
"""
