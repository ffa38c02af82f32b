"""Runner processes as seen by the supervisor: start, assign, monitor, limit and kill.

In: a job and the options of its runner. Out: the outcome of each call with its usage record. ``process_tree``
and ``cgroups`` find and end processes that calls leave behind.
"""
