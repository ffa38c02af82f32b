"""A complete federation on one machine: ``python -m federation up``.

In: a home directory. Out: a broker, web server, collector, sweeper, provisioner, endpoint and Flower as
supervised child processes, with their keys, accounts and log files.
"""
