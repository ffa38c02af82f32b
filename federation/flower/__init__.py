"""Celery Flower over all endpoints.

In: the endpoints' Celery events. Out: the Flower pages, and controls for one endpoint's workers where the
service allows them.
"""
