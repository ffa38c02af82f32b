"""Celery Flower for all endpoints.

In: the endpoints' Celery events. Out: the Flower pages and, if enabled, control commands to the workers of an
endpoint.
"""
