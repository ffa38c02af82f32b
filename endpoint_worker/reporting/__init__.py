"""Reports from the node to the service.

In: outcomes, logs, items. Out: signed, numbered reports in the service's reports list, spooled on disk
until the broker has accepted them.
"""
