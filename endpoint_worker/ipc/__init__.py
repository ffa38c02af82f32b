"""Everything shared by the supervisor and one runner process: memory, a socket and an output pipe.

In and out: progress in shared memory, frames with calls and outcomes, the bytes that calls write, the items
that calls yield. Both sides load this folder, so it imports neither user code nor Celery.
"""
