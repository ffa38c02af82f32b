"""A deterministic simulation of the service: ledger, dispatch, collector and sweeper, on a fake clock.

A seed chooses a schedule: clients submit, cancel and poll; nodes start, work, die, restart and are suspended;
the broker refuses, loses, doubles, delays and reorders; between two transactions of a service process, it is
killed, or another one runs. Product code runs as it is, on SQLite and on a store in memory instead of Redis
(``store``). After each step the ledger must agree with itself and with what clients and nodes have seen
(``world.World.check``); once the faults end, every task must end.

``make simulate SEEDS=20000`` runs that many schedules; ``python -m tests.simulation SEED`` replays one.
"""
