"""The first stop of a bundle on the endpoint.

In: a Celery message. Out: a verified job for the supervisor, in the environment that its function needs, or
a refusal by signature, expiry or site policy.
"""
