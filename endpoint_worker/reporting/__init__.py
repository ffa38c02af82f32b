"""Reports from the node to the service.

In: outcomes, logs, items. Out: signed, numbered reports in the endpoint's reports queue, spooled on disk
until the broker has accepted them.
"""
