"""Runner processes as the supervisor sees them: started, fed, watched, limited and killed.

In: a job and the options of its runner. Out: the outcome of each call with its usage record. ``process_tree``
and ``cgroups`` find and end whatever calls leave behind.
"""
