"""The first step of a bundle on the endpoint.

In: a Celery message. Out: a verified job for the supervisor, in the environment that its function needs, or a
rejection because of its signature, its expiry or the site's policy.
"""
