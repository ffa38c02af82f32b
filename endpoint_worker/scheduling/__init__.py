"""Which runner runs which bundle, and when.

In: verified jobs and commands (cancel, resize, stop). Out: bundles assigned to idle runners, a pool of
runners of the configured size, and returned jobs that no runner can take.
"""
