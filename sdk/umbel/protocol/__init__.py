"""The contract between the parts of Umbel: what crosses a border, and how it is named and signed.

This package does no input or output: no sockets, no files, no clock reads except through arguments.
It imports nothing of Umbel outside itself; the server, the endpoints and the SDK all import it.

========== ==================================================================
states     the life of a task and the moves that are allowed
errors     one error base, codes, and their HTTP statuses
envelope   signed bytes: how bundles and reports travel
messages   the records inside the envelopes: bundles, reports, outcomes
names      ids, Redis keys, Celery task and queue names
limits     sizes and times that both sides must agree on
version    the protocol's version and how versions meet
========== ==================================================================
"""
