"""Random work under random kills, and afterwards proof from the logs that every promise was kept.

``load`` runs jobs and writes the client's log, ``calls`` is what runs on the endpoint and writes the log of
the functions, ``nemesis`` kills processes, ``history`` reads the logs and says what is wrong. ``make soak``
runs it for a quarter of an hour, ``make e2e`` for about a minute.
"""
