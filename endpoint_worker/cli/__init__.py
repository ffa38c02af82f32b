"""The ``umbel-endpoint`` command and what it does to the machine.

In: the words of a command line. Out: a configured folder, a registration with the service, a running
worker, a systemd unit, a relay, a diagnosis (``doctor``).
"""
