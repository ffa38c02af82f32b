"""A cluster in virtual time, to try out a policy.

In: a policy and a trace of demand. Out: what it would have cost, as a table or a plot.
"""
