"""The provisioner: batch jobs on clusters behind SSH, started as an endpoint's queue grows and let go after.

A loop over elastic endpoints: observe (demand from the ledger, jobs from the scheduler), decide (a pure
function), act (submit, drain, cancel). A *block* is one batch job that starts one worker per node.
"""
