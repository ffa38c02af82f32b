"""The service's REST API as Python methods.

In: Python values. Out: HTTP requests that are safe to repeat (``transport``), one method per route
(``routes``, ``client``), outcomes and streams read from the answers.
"""
