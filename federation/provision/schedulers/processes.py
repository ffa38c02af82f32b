"""No batch system: a block is a process on the site itself, or on one of a list of hosts.

The directory of a block's script also contains its process id (``.pid``) and, once it has ended, its exit
code (``.code``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..connection.shell import Shell, SiteError, Unreachable
from ..planning.model import BlockState
from .base import JOB_NAME, Job, JobSpec, LimitReached, NoAnswer, parsing, query, run_submit
from .template import script

_S = BlockState
_SLUG = re.compile(r"[^A-Za-z0-9.-]+")
#: Start a script in a new session; enforce its time limit, as there is no batch system to do so.
_START = """\
cd -- "$1" || exit 71
rm -f -- "$2.code" "$2.pid"
nohup setsid sh -c 'sh -- "$1.sh" & child=$!
trap : TERM
( sleep "$2"; kill -s TERM "$child"; sleep 30; kill -s KILL "$child" ) 2>/dev/null & guard=$!
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
echo "$code" > "$1.code.new" && mv -- "$1.code.new" "$1.code"
kill -s KILL -- -$$ 2>/dev/null' sh "$2" "$3" > "$2.out" 2> "$2.err" < /dev/null &
echo "$!" > "$2.pid"
echo "started $!"
"""
#: List the blocks of the directory with one command. The process id may have been reused, so the command line
#: must contain the block's name; it is empty during exec and for a zombie. The exit code is read last,
#: because a block may end during the check.
_LIST = """\
is_alive() {
  words="$(tr '\\0' ' ' 2>/dev/null < "/proc/$1/cmdline")" || return 1
  case "$words" in
    *"$2"*) return 0 ;;
    "") ! grep -q '^State:[[:space:]]*[ZX]' "/proc/$1/status" 2>/dev/null && kill -0 "$1" 2>/dev/null ;;
    *) return 1 ;;
  esac
}
cd -- "$1" 2>/dev/null || exit 0
for file in umbel-*.pid; do
  [ -f "$file" ] || continue
  name="${file%.pid}"; pid="$(cat -- "$file")"
  if [ ! -f "$name.code" ] && is_alive "$pid" "$name"; then echo "$name $pid running 0"
  elif [ -f "$name.code" ]; then echo "$name $pid ended $(cat -- "$name.code")"
  else echo "$name $pid ended 137"
  fi
done
"""
#: End blocks: SIGTERM to the session of each; SIGKILL the second time.
_END = """\
cd -- "$1" 2>/dev/null || exit 0
shift
for name in "$@"; do
  [ -f "$name.pid" ] && [ ! -f "$name.code" ] || continue
  pid="$(cat -- "$name.pid")"
  if [ -f "$name.told" ]; then signal=KILL; else signal=TERM; fi
  kill -s "$signal" -- "-$pid" 2>/dev/null
  : > "$name.told"
done
exit 0
"""


class Processes:
    """Blocks as processes of the account. ``max_running``: most that may run at once."""

    kind = "processes"

    def __init__(self, folder: str, max_running: int = 1):
        self._folder = folder
        self._max_running = max_running

    def script(self, spec: JobSpec) -> str:
        """Return the block's script. Raises BadRequest."""
        return script(JobSpec(**{**spec.__dict__, "directives": ()}), "#", [spec.name], r"\Z")

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Start a block; return its id. Raises Refused, LimitReached, OutcomeUnknown."""
        running = [job for job in self.jobs(shell, ()) if job.state is _S.RUNNING]
        if len(running) >= self._max_running:
            raise LimitReached(f"{len(running)} blocks are running, the limit is {self._max_running}")
        shell.write(f"{self._folder}/{spec.name}.sh", self.script(spec).encode(), 0o700)
        words = ["sh", "-c", _START, "sh", self._folder, spec.name, str(int(spec.walltime))]
        run_submit(shell, words, r"^started (\d+)$")
        return spec.name

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """Return all blocks of the directory. Raises NoAnswer."""
        out = query(shell, ["sh", "-c", _LIST, "sh", self._folder])
        found = []
        with parsing("the list of processes", out):
            for line in out.splitlines():
                name, _, state, code = line.split(" ")
                if JOB_NAME.match(name):
                    found.append(_job(name, state, int(code)))
        return found

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """Cancel blocks. Raises NoAnswer."""
        if ids:
            query(shell, ["sh", "-c", _END, "sh", self._folder, *ids])


def _job(name: str, state: str, code: int, host: str = "") -> Job:
    where = (host,) if host else ()
    if state == "running":
        return Job(name, name, _S.RUNNING, "", where)
    end = _S.COMPLETED if code == 0 else _S.CANCELLED if code in (130, 143) else _S.FAILED
    return Job(name, name, end, f"exit code {code}", where)


class Hosts:
    """Blocks as processes on hosts without a batch system. ``open`` returns the shell of one of ``hosts``."""

    kind = "hosts"

    def __init__(self, hosts: Sequence[str], open: Callable[[str], Shell], folder: str, per_host: int = 1):
        self._hosts = list(hosts)
        self._open = open
        # home directories may be shared, process ids are not: one directory per host
        self._on = {host: Processes(f"{folder}/{_SLUG.sub('-', host)}", per_host) for host in hosts}

    def script(self, spec: JobSpec) -> str:
        """Return the block's script. Raises BadRequest."""
        return next(iter(self._on.values())).script(spec)

    def submit(self, shell: Shell, spec: JobSpec) -> str:
        """Start a block on the first host below its limit; return ``host/name``.

        Raises LimitReached, OutcomeUnknown.
        """
        words = []
        for host in self._hosts:
            if host in spec.exclude:
                continue
            try:
                return f"{host}/{self._on[host].submit(self._open(host), spec)}"
            except (LimitReached, Unreachable, NoAnswer) as error:
                words.append(f"{host}: {error.message}")
        raise LimitReached("no host can start another block: " + "; ".join(words)[:400])

    def jobs(self, shell: Shell, known: Sequence[str]) -> list[Job]:
        """Return all blocks; on unreachable hosts they are UNKNOWN. Raises NoAnswer if all hosts are."""
        found, silent = [], []
        for host in self._hosts:
            try:
                jobs = self._on[host].jobs(self._open(host), ())
            except SiteError:
                silent.append(host)
                continue
            found += [Job(f"{host}/{job.id}", job.name, job.state, job.reason, (host,)) for job in jobs]
        for id in known:
            host, _, name = id.rpartition("/")
            if host in silent:
                found.append(Job(id, name, _S.UNKNOWN, f"host {host} is unreachable", (host,)))
        if len(silent) == len(self._hosts):
            raise NoAnswer(f"all hosts are unreachable: {', '.join(silent)}")
        return found

    def cancel(self, shell: Shell, ids: Sequence[str]) -> None:
        """Cancel blocks. Raises NoAnswer."""
        for host in self._hosts:
            names = [re.sub(r"^.*/", "", id) for id in ids if id.startswith(f"{host}/")]
            if names:
                self._on[host].cancel(self._open(host), names)
