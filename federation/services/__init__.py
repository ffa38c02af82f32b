"""The processes that run alongside the web server.

In: reports, and the clock. Out: finished tasks (``collector``), lost tasks requeued and overdue tasks expired
(``sweeper``), and the status of the service (``health``).
"""
