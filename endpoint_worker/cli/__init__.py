"""The ``umbel-endpoint`` command and its effects on the machine.

In: a command line. Out: a configured directory, a registration with the service, a running worker, a systemd
unit, a relay, a diagnosis (``doctor``).
"""
