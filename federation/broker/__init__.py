"""The service's Redis client.

In: bundles to send, ids of groups and tasks that changed. Out: Celery messages in the endpoints' queues,
reports received from endpoints, notifications between server processes.
"""
