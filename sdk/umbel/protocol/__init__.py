"""The contract between the parts of Umbel: messages, their signatures, names and limits.

This package does no input or output: no sockets, no files; times are arguments. It imports no other part of
Umbel; the service, the endpoints and the SDK all import it.

============ =================================================================
states       the states of a task and the allowed transitions
errors       error classes, codes and their HTTP statuses
envelope     signed bytes, in which bundles and reports travel
messages     the records inside the envelopes: bundles, reports, outcomes
records      logs, items and places in reports
compact_json JSON of the records that travel with every task
checks       types and ranges of what another party has sent
pointer      frames that stand for large reports, which lie in pieces
parcel       JSON with attached bytes in one HTTP body
environment  packages and Python version that a function needs
run_options  limits of calls, and how limits combine
names        ids, Redis keys, Celery task and queue names
limits       sizes and times that all parts agree on
version      versions of the product and of the protocol
============ =================================================================
"""
