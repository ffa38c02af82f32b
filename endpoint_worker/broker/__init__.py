"""Connections to the broker.

In: the registered URL and the routes by which a node may reach it. Out: a Redis client, and the Celery
transport that survives months of failures.
"""
