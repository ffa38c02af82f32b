"""Helpers for files, processes, threads and connections that all parts of Umbel use.

In: paths, process ids, plain values. Out: the home directory and private files (``files``), log files on a
full disk (``log_file``), processes that end with their parent (``processes``), rarer garbage collections
(``memory``), futures that are cheap to create (``light_future``), threads that must not end in silence
(``threads``), the options of Redis connections (``redis``), checked settings (``settings``, for the endpoint
and the service only). The SDK, the endpoint and the service import it; it imports none of them.
"""
