"""What the node tells the service.

In: outcomes, logs, items. Out: signed, numbered reports in the endpoint's reports queue, spooled on disk
until the broker has taken them.
"""
