"""Which runner runs which bundle, and when.

In: verified jobs and commands (cancel, resize, stop). Out: bundles assigned to idle runners, the pool of
runners kept at its size, jobs handed back that no runner may take.
"""
