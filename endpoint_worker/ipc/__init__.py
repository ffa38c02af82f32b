"""What the supervisor and one runner process share: memory, a socket, an output pipe.

In and out: progress in shared memory, frames with calls and outcomes, the bytes that calls write, the items
that calls yield. Loaded on both sides, so nothing here imports user code or Celery.
"""
