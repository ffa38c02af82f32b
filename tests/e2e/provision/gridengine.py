"""A real GridEngine of its own, in network namespaces: it wants nodes with names and addresses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support import scripts
from tests.support.embedded import free_port
from tests.support.wait import wait_until

from .network import Network
from .processes import end

INSTALLED = Path("/var/lib/gridengine")
SHARED = Path("/usr/share/gridengine")
BOOTSTRAP = """\
admin_user              sgeadmin
default_domain          none
ignore_fqdn             false
spooling_method         berkeleydb
spooling_lib            libspoolb
spooling_params         {folder}/database
binary_path             /usr/sbin
qmaster_spool_dir       {folder}/qmaster
security_mode           none
listener_threads        2
worker_threads          2
scheduler_threads       1
"""
#: What is not as GridEngine's own defaults are: no mail, and answers within seconds.
CONFIGURATION = {"mailer": "/bin/true", "load_report_time": "00:00:05", "max_unheard": "00:00:30"}
SCHEDULER = {
    "schedule_interval": "0:0:2",
    "flush_submit_sec": "1",
    "flush_finish_sec": "1",
    "job_load_adjustments": "NONE",
}
QUEUE = {
    "hostlist": "@blocks",
    "slots": "1",
    "shell_start_mode": "unix_behavior",
    "pe_list": "NONE",
    "load_thresholds": "NONE",
    "shell": "/bin/sh",
}


class GridEngine:
    """Master on ``login``, one job at a time on each of ``nodes``."""

    def __init__(self, folder: Path, network: Network, nodes: tuple[str, ...] = ("cn1", "cn2")):
        self.folder, self._network, self._nodes = folder, network, nodes
        root = folder / "root"
        (root / "e2e/common").mkdir(parents=True)
        for name in ("bin", "utilbin", "lib", "util"):
            (root / name).symlink_to(INSTALLED / name)
        for name in ("qmaster/job_scripts", "database", "execd"):
            (folder / name).mkdir(parents=True)
        self.variables = {
            "SGE_ROOT": str(root),
            "SGE_CELL": "e2e",
            "SGE_QMASTER_PORT": str(free_port()),
            "SGE_EXECD_PORT": str(free_port()),
        }
        self._environ = {**os.environ, **self.variables, "EDITOR": str(folder / "edit")}
        self._write_files()
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                shutil.chown(path, "sgeadmin", "sgeadmin")
        self._fill_database()
        self._start()

    def _write_files(self) -> None:
        common = self.folder / "root/e2e/common"
        (common / "bootstrap").write_text(BOOTSTRAP.format(folder=self.folder))
        (common / "act_qmaster").write_text("login\n")
        values = {**CONFIGURATION, "execd_spool_dir": str(self.folder / "execd")}
        lines = (SHARED / "default-configuration").read_text().splitlines()
        text = "\n".join(_with(line, values) for line in lines) + "\n"
        (self.folder / "configuration").write_text(text.replace("flush_time=00:00:15", "flush_time=00:00:00"))
        # qconf has its templates changed by an editor and wants to see that time has passed
        edit = 'sed -i -f "$EDITS" "$1" && touch -d "+2 seconds" "$1"'
        scripts.write(self.folder / "edit", edit)
        (self.folder / "group").write_text(f"group_name @blocks\nhostlist {' '.join(self._nodes)}\n")
        for number, name in enumerate(self._nodes):
            # distinct on every node: they share this machine's process table, and a job ends by its group id
            (self.folder / name).write_text(f"gid_range {61000 + 100 * number}-{61099 + 100 * number}\n")

    def _fill_database(self) -> None:
        def run(program: str, *words: str) -> None:
            account = ["setpriv", "--reuid=sgeadmin", "--regid=sgeadmin", "--clear-groups"]
            command = [*account, f"/usr/lib/gridengine/{program}", *words]
            subprocess.run(command, env=self._environ, check=True, capture_output=True, timeout=30)

        run("spoolinit", "berkeleydb", "libspoolb", str(self.folder / "database"), "init")
        run("spooldefaults", "configuration", str(self.folder / "configuration"))
        run("spooldefaults", "complexes", str(SHARED / "util/resources/centry"))
        run("spooldefaults", "usersets", str(SHARED / "util/resources/usersets"))
        run("spooldefaults", "managers", "sgeadmin", "root")

    def _start(self) -> None:
        self._on("login", "sge_qmaster")
        wait_until(lambda: "login" in self.call("qconf", "-sh"), 20.0, what="qmaster", interval=0.2)
        for name in self._nodes:
            self.call("qconf", "-ah", name)
            self.call("qconf", "-Aconf", str(self.folder / name))
            self.edit("-ae", hostname=name)
        self.call("qconf", "-as", "login")
        self.call("qconf", "-Ahgrp", str(self.folder / "group"))
        self.edit("-aq", "e2e", **QUEUE)
        self.edit("-msconf", **SCHEDULER)
        for name in self._nodes:
            self._on(name, "sge_execd")
        wait_until(self._ready, 60.0, what="GridEngine's nodes", interval=0.3)

    def _ready(self) -> bool:
        """Whether no queue is in a state other than none: ``au`` means that its node has not spoken."""
        rows = [line.split() for line in self.call("qstat", "-f").splitlines() if line.startswith("e2e@")]
        return len(rows) == len(self._nodes) and all(len(row) == 5 and row[3] != "-NA-" for row in rows)

    def _on(self, node: str, *words: str) -> None:
        subprocess.run([*self._network.wrap(node), *words], env=self._environ, check=True, timeout=30)

    def edit(self, *words: str, **values: str) -> None:
        """``qconf WORDS`` with an editor that sets these values."""
        script = self.folder / "edits"
        script.write_text("".join(f"s|^{name}[ \t].*|{name} {value}|\n" for name, value in values.items()))
        self._environ["EDITS"] = str(script)
        self.call("qconf", *words)

    def limit_jobs(self, most: int) -> None:
        """Let an account have at most so many jobs; 0: any number."""
        self.edit("-mconf", max_u_jobs=str(most))

    def call(self, *words: str) -> str:
        """Run a GridEngine command as root on the login node; return all it says."""
        command = [*self._network.wrap("login"), *words]
        done = subprocess.run(command, env=self._environ, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def jobs(self) -> list[str]:
        """States of all jobs that have not ended."""
        rows = [line.split() for line in self.call("qstat", "-u", "*").splitlines()[2:]]
        return [row[4] for row in rows if len(row) > 4]

    def stop(self) -> None:
        """End everything."""
        self.call("qdel", "-f", "-u", "*")
        for name in self._nodes:
            end(self.folder / f"execd/{name}/execd.pid")
        end(self.folder / "qmaster/qmaster.pid")


def _with(line: str, values: dict[str, str]) -> str:
    name = line.split(maxsplit=1)[0] if line.strip() else ""
    return f"{name} {values[name]}" if name in values else line
