"""The service's REST API as Python methods.

In: Python values. Out: HTTP requests, repeated where that is safe (``transport``); one method per route
(``routes``, ``task_routes``, ``elastic_routes``), joined by ``client``; values, exceptions and streams from
the answers (``outcome``, ``streams``).
"""
