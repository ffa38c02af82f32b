"""Random work under random strikes, and afterwards proof from the logs that every promise was kept.

``load`` runs jobs and writes the client's log, ``calls`` is what runs on the endpoint and writes the log of
the functions, ``nemesis`` strikes, ``machine`` has the disks and clocks that it needs, ``history`` reads the
logs and says what is wrong. ``make soak`` runs it for a quarter of an hour, ``make e2e`` for about a minute.
"""
