"""Decide what to do: pure functions from demand, blocks and policy to actions.

In: a view of one endpoint (demand, blocks, planner state) and its policy. Out: a decision with its reason.
Nothing here reads a clock or does I/O, except ``demand``, which reads the ledger.
"""
