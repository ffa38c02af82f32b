"""Simulate a cluster in virtual time, to evaluate a policy.

In: a policy and a trace of demand. Out: run times and costs, as a table or a plot.
"""
