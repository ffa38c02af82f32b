"""Simulated worker nodes: many nodes of one endpoint in one process and one thread, without runners.

They use the endpoint worker's own modules for everything that the broker and the service see: fetches,
holdings, beats, descriptions, signed reports and their spool, and the checks of bundles. The nodes share two
connections, and a call is an echo of its first argument after a given time. What is left out: Celery's events
and remote control, and the look for cancelled calls.
"""
