"""Sizes (bytes) and times (seconds) that several parts of Umbel agree on."""

from __future__ import annotations

#: Largest body of an HTTP request; a larger one is answered with 413.
MAX_REQUEST_BYTES = 12 * 1024 * 1024
#: Largest serialized call (arguments) and largest serialized result.
MAX_PAYLOAD_BYTES = 10 * 1024 * 1024
#: Largest serialized function.
MAX_FUNCTION_BYTES = 10 * 1024 * 1024
#: Maximum number of calls in one submission.
MAX_CALLS_PER_SUBMISSION = 10_000
#: Maximum number of functions whose calls are in one submission.
MAX_FUNCTIONS_PER_SUBMISSION = 256
#: A larger body of a bundle is stored under its own Redis key instead of inside the Celery message.
INLINE_BODY_BYTES = 64 * 1024
#: A bundle's body is filled up to this size (a larger call is a bundle of its own).
BUNDLE_BODY_BYTES = 1024 * 1024
#: Maximum number of calls in one bundle.
MAX_CALLS_PER_BUNDLE = 1000
#: Maximum number of slots of one node that a call may request.
MAX_CORES = 4096
#: A bundle expires this long after it was signed.
BUNDLE_LIFETIME = 7 * 86400.0
#: A larger report is written in pieces of at most this size under its own Redis key; the list of reports gets
#: a pointer to it.
INLINE_REPORT_BYTES = 256 * 1024
#: Maximum number of slots of a worker node.
MAX_SLOTS = 65_536
#: Maximum number of outcomes in one report.
MAX_OUTCOMES = 20_000
#: Largest report. One result, its output and its items fit. Larger ones are rejected without being read.
MAX_REPORT_BYTES = 32 * 1024 * 1024
#: A worker pushes no outcomes while its endpoint's list has this many unread reports.
MAX_UNREAD_REPORTS = 512
#: Lifetime of the pieces of a large report in Redis.
PARTS_LIFETIME = 86400.0
#: Interval of a worker node's beats, and time without one after which the node is considered lost.
HEARTBEAT_INTERVAL = 5.0
NODE_LOST_AFTER = 60.0
#: Longest time until a long poll is answered.
MAX_WAIT = 30.0
#: How often a task is started at most, unless its submission sets another number.
DEFAULT_MAX_ATTEMPTS = 3
#: Largest number of an attempt.
MAX_ATTEMPT = 32_767
#: How much of a call's standard output and error is kept: default and maximum.
DEFAULT_OUTPUT_BYTES = 64 * 1024
MAX_OUTPUT_BYTES = 1024 * 1024
#: With fewer open files a runner cannot load a function.
FEWEST_FILES = 32
#: Maximum number of items that one call may yield, and their largest size in all. An item may be as large as
#: a result.
MAX_STREAM_ITEMS = 100_000
MAX_STREAM_BYTES = 64 * 1024 * 1024
