"""The provisioner: batch jobs on clusters, submitted over SSH as an endpoint's queue grows.

A reconciler: observe (``planning.demand``, ``observe``), decide (``planning.decide``, pure), act
(``actions``). In: demand from the ledger, block states from the scheduler. Out: jobs submitted, drained,
cancelled. ``reconciler`` is the loop; ``api`` is what the REST API and the commands call.
"""
