"""The registry: users and their tokens, functions, endpoints and their broker accounts.

In: the ``Federation``, the acting user, and the object to register, read, change or delete. Out:
descriptions for the API, credentials, broker accounts. Objects of other users are reported as not found.
"""
