"""Batch systems: one module per system, all implementing ``base.Scheduler``.

In: a ``JobSpec`` and a shell on the site. Out: a job script, the id of the submitted job, the states of jobs.
"""
