"""Run as a program: import each module named on standard input alone, in a process that has imported none.

The parent imports only what others wrote (so that hundred modules cost seconds, not minutes) and forks once
per module, as many at a time as there are processors. Prints one line per module that cannot be imported;
answers 0 when all can.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback

THIRD_PARTY = (
    "alembic click cloudpickle cryptography.hazmat.primitives.asymmetric.ed25519 "
    "cryptography.hazmat.primitives.serialization flask flask_smorest psutil redis "
    "urllib3 waitress celery.app.amqp celery.app.base celery.app.control celery.app.events celery.app.log "
    "celery.concurrency.base celery.worker.components kombu.transport.redis sqlalchemy.dialects.sqlite "
    "sqlalchemy.dialects.postgresql paramiko"
).split()


def main() -> int:
    """Return the number of modules that fail, at most 100."""
    for name in THIRD_PARTY:
        importlib.import_module(name)
    own = ("umbel", "endpoint_worker", "federation", "webapp")
    assert not [name for name in sys.modules if name.split(".")[0] in own]
    failed = running = 0
    for name in sys.stdin.read().split():
        if running == (os.cpu_count() or 1):
            failed += os.wait()[1] != 0
            running -= 1
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                importlib.import_module(name)
                status = 0
            except BaseException:  # whatever it is, SystemExit too: it is the finding
                print(f"{name}: {traceback.format_exc()}", flush=True)
            os._exit(status)
        running += 1
    failed += sum(os.wait()[1] != 0 for _ in range(running))
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())
