"""Reports from the node to the service.

In: outcomes, logs, items, and what the node holds. Out: signed reports in the endpoint's list, spooled on
disk until they are in the ledger, and the keys of the node in the broker.
"""
