"""What to do: pure functions from demand, blocks and policy to actions.

In: a view of one endpoint (demand, blocks, memory of failures) and its policy. Out: a decision with its
reason. No clock, no input or output, except ``demand``, which reads the ledger.
"""
