"""``python -m federation COMMAND``: the programs of the server; each explains itself with ``--help``."""

# No syntax and no import here that an old Python does not know: it must live long enough to say so.
import importlib
import os
import sys

USAGE = """\
usage: python -m federation COMMAND [OPTION...]

  up       run a whole federation on this machine: broker, API, collector, sweeper and one endpoint
  collect  take the reports of the endpoints into the ledger
  sweep    put right what was lost, expired or forgotten, again and again
  provision  start and end the batch jobs of elastic endpoints (provision simulate: try a policy out)
  web      serve the API (python -m webapp.serve)
  flower   show the Celery workers and messages of all endpoints in a browser
"""
MODULES = {
    "up": "federation.standalone.up",
    "collect": "federation.services.collector",
    "sweep": "federation.services.sweeper",
    "provision": "federation.provision.cli.main",
    "flower": "federation.flower.main",
}


def main(argv):  # type: (list[str]) -> int
    """Run one command; return its exit code (2: it cannot be run as asked)."""
    if sys.version_info < (3, 10):
        version = ".".join(str(part) for part in sys.version_info[:3])
        return _refuse("Umbel needs Python 3.10 or newer; %s is Python %s." % (sys.executable, version))
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command == "web":
        # another program, which this layer knows by its name only
        os.execv(sys.executable, [sys.executable, "-m", "webapp.serve", *rest])
    if command not in MODULES:
        return _refuse("There is no command '%s'; 'python -m federation --help' lists them." % command)
    try:
        module = importlib.import_module(MODULES[command])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("federation", "webapp"):
            raise  # a fault of Umbel itself
        return _refuse(
            "Python module '%s' is missing: install with \"pip install -e '.[endpoint,server]'\" in the "
            "release tree, or use the Python of its virtual environment." % error.name
        )
    return module.main(rest) or 0


def _refuse(sentence):  # type: (str) -> int
    sys.stderr.write(sentence + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
