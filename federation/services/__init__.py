"""The processes that run beside the web server.

In: reports, and the clock. Out: finished tasks (``collector``), lost or overdue work put right from the
ledger (``sweeper``), and a statement whether the service works (``health``).
"""
