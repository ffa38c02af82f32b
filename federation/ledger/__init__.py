"""The ledger: the authoritative record of every task; everything else is transport.

In: submissions, cancellations, verified reports, and the clock. Out: tasks in their states, results, logs and
items to read, bundles to send, ids of groups that changed.
"""
