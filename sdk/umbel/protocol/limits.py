"""Sizes (bytes) and times (seconds) that more than one part must agree on."""

from __future__ import annotations

#: Largest body of an HTTP request; more is answered 413.
MAX_REQUEST_BYTES = 12 * 1024 * 1024
#: Largest serialized call (arguments) and largest serialized result.
MAX_PAYLOAD_BYTES = 10 * 1024 * 1024
#: Largest serialized function.
MAX_FUNCTION_BYTES = 10 * 1024 * 1024
#: Most calls in one submission.
MAX_CALLS_PER_SUBMISSION = 10_000
#: Above this size the body of a bundle travels beside its Celery message, under a Redis key of its own.
INLINE_BODY_BYTES = 64 * 1024
#: A bundle's body is filled up to this size (one larger call still makes a bundle of its own).
BUNDLE_BODY_BYTES = 1024 * 1024
#: Most calls in one bundle.
MAX_CALLS_PER_BUNDLE = 1000
#: Most slots of one node that a call may ask for.
MAX_CORES = 4096
#: A bundle is run only within this time after it was signed.
BUNDLE_LIFETIME = 7 * 86400.0
#: How often a worker node reports that it lives, and after how much silence it is taken for dead.
HEARTBEAT_INTERVAL = 5.0
NODE_LOST_AFTER = 60.0
#: A long poll is answered after at most this long.
MAX_WAIT = 30.0
#: A task is started at most this often unless its submission says otherwise.
DEFAULT_MAX_ATTEMPTS = 3
#: Bytes kept of what one call writes to standard output and error: by default, and at most.
DEFAULT_OUTPUT_BYTES = 64 * 1024
MAX_OUTPUT_BYTES = 1024 * 1024
#: With fewer open files a runner cannot load functions.
FEWEST_FILES = 32
#: Most items that one call may yield, and most bytes of them all; each may be as large as a result.
MAX_STREAM_ITEMS = 100_000
MAX_STREAM_BYTES = 64 * 1024 * 1024
