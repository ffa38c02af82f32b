"""``python -m federation COMMAND``: the server's programs. Each has a ``--help`` option."""

# Only syntax and imports that old Python versions accept: they must get as far as the version check.
import importlib
import os
import sys

USAGE = """\
usage: python -m federation COMMAND [OPTION...]

  up         run a complete federation on this machine: broker, API, collector, sweeper and one endpoint
  collect    write the reports of the endpoints into the ledger
  sweep      requeue lost tasks, expire overdue tasks and delete old ones, periodically
  provision  submit and cancel the batch jobs of elastic endpoints (provision simulate: try out a policy)
  web        serve the API (python -m webapp.serve)
  flower     show the Celery workers and messages of all endpoints in a browser
"""
MODULES = {
    "up": "federation.standalone.up",
    "collect": "federation.services.collector",
    "sweep": "federation.services.sweeper",
    "provision": "federation.provision.cli.main",
    "flower": "federation.flower.main",
}


def main(argv):  # type: (list[str]) -> int
    """Run one command; return its exit code (2: usage error)."""
    if sys.version_info < (3, 10):
        version = ".".join(str(part) for part in sys.version_info[:3])
        return _fail("Umbel needs Python 3.10 or newer; %s is Python %s." % (sys.executable, version))
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command == "web":
        # a separate program, started by name because this layer must not import it
        os.execv(sys.executable, [sys.executable, "-m", "webapp.serve", *rest])
    if command not in MODULES:
        return _fail("Unknown command '%s'; 'python -m federation --help' lists the commands." % command)
    try:
        module = importlib.import_module(MODULES[command])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("federation", "webapp"):
            raise  # a bug in Umbel
        return _fail(
            "Python module '%s' is missing: install with \"pip install -e '.[endpoint,server]'\" in the "
            "release tree, or use the Python of its virtual environment." % error.name
        )
    return module.main(rest) or 0


def _fail(sentence):  # type: (str) -> int
    sys.stderr.write(sentence + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
