"""Connections to the broker.

In: the registered URL and the routes by which a node may reach it. Out: a Redis client, and a Celery
transport that recovers from connection failures.
"""
