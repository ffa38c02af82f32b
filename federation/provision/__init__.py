"""The provisioner: batch jobs on clusters, submitted over SSH as an endpoint's queue grows.

``reconciler`` is the loop for one endpoint: observe (``planning.demand``, ``observe``), decide
(``planning.decide``, a pure function), act (``actions``). In: demand from the ledger and block states from
the scheduler. Out: jobs submitted, drained and cancelled. The REST API and the commands call ``api``.
"""
