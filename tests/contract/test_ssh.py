"""The connection to a site, against a real sshd on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from federation.provision.connection import keys, ssh
from federation.provision.connection.shell import SiteError, Unreachable
from federation.provision.connection.ssh import SSHShell, host_key
from federation.provision.connection.tunnel import Tunnel
from federation.provision.records.sites import SiteSettings
from federation.provision.site.network import Installation, Network
from tests.support.sshd import PROGRAM, Sshd
from tests.support.wait import wait_until

pytestmark = pytest.mark.skipif(
    PROGRAM is None or not shutil.which("ssh-keygen"), reason="not installed: sshd"
)
ID = "0123abcd-0000-4000-8000-000000000000"
Start = Callable[..., Sshd]


@pytest.fixture
def key(tmp_path: Path) -> paramiko.PKey:
    return keys.site_key(tmp_path, ID)


@pytest.fixture
def start(tmp_path: Path, key: paramiko.PKey) -> Iterator[Start]:
    """Start an sshd that knows our key; ``tunnel``: as ``add`` prints the line for such a site."""
    made: list[Sshd] = []

    def one(more: str = "", *, tunnel: bool = False, line: str = "") -> Sshd:
        sshd = Sshd(tmp_path / f"sshd{len(made)}", more)
        made.append(sshd)
        sshd.allow(line or keys.authorized_line(key, "umbel:test", tunnel=tunnel))
        return sshd

    yield one
    for sshd in made:
        sshd.stop()


@pytest.fixture
def site(start: Start, key: paramiko.PKey) -> Iterator[SSHShell]:
    shell = SSHShell([start().hop], [key])
    yield shell
    shell.close()


@pytest.fixture
def broker() -> Iterator[int]:
    """Port of something that answers PING as a broker does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if connection.recv(64):
                    connection.sendall(b"-NOAUTH Authentication required.\r\n")

    threading.Thread(target=serve, daemon=True).start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.settimeout(10)
        connection.sendall(b"PING\r\n")
        return connection.recv(64)


def test_commands_and_files(site: SSHShell, tmp_path: Path) -> None:
    done = site.run(
        ["sh", "-c", 'printf "%s|" "$@"; cat; exit 7', "sh", "a b", "$HOME", "'", "*"], input="in"
    )
    assert (done.code, done.out.strip()) == (7, "a b|$HOME|'|*|in")
    site.write(f"{tmp_path}/new/file", b"secret" * 1000)
    assert (tmp_path / "new/file").stat().st_mode & 0o777 == 0o600
    assert site.read(f"{tmp_path}/new/file", tail=6) == b"secret"
    assert site.read(f"{tmp_path}/nothing") == b""


def test_what_login_shells_print_is_cut_off(start: Start, key: paramiko.PKey) -> None:
    """A forced command stands for the start-up files of a shell: it prints before and after."""
    noise = 'echo Submitted batch job 7; echo noise >&2; sh -c \\"$SSH_ORIGINAL_COMMAND\\"; echo bye'
    line = f'command="{noise}" {key.get_name()} {key.get_base64()} x'
    shell = SSHShell([start(line=line).hop], [key])
    assert shell.run(["echo", "hello"]).out.strip() == "hello"
    shell.close()


def test_a_command_that_takes_too_long_is_given_up_and_the_next_one_works(site: SSHShell) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match="sleep 60"):
        site.run(["sleep", "60"], timeout=1.0)
    assert time.monotonic() - began < 20
    assert site.run(["echo", "x"]).out.strip() == "x"


def test_a_broken_connection_is_healed_and_one_is_enough(start: Start, key: paramiko.PKey) -> None:
    sshd = start()
    shell = SSHShell([sshd.hop], [key])
    for _ in range(5):
        assert shell.run(["true"]).code == 0
    assert sshd.log.count("Accepted publickey") == 1
    sshd.cut()
    # it may be noticed by the command that is then lost; the one after it works in any case
    try:
        shell.run(["true"])
    except Unreachable:
        pass
    assert shell.run(["echo", "again"]).out.strip() == "again"
    sshd.stop()
    with pytest.raises(Unreachable):
        shell.run(["true"])
    sshd.start()
    assert shell.run(["echo", "again"]).out.strip() == "again"
    shell.close()


def test_a_silent_machine_is_noticed_by_its_silence(
    start: Start, key: paramiko.PKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection stands and nothing answers, as behind a firewall that forgot it."""
    monkeypatch.setattr(ssh, "CONNECT_TIMEOUT", 2.0)
    sshd = start()
    shell = SSHShell([sshd.hop], [key])
    shell.run(["true"])
    held = [pid for pid in _family(sshd)]
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unreachable):
            shell.run(["true"], timeout=2.0)
    finally:
        for pid in held:
            os.kill(pid, signal.SIGCONT)
    assert shell.run(["echo", "x"]).out.strip() == "x"
    shell.close()


def _family(sshd: Sshd) -> list[int]:
    import psutil

    listener = psutil.Process(int((sshd.folder / "pid").read_text()))
    return [listener.pid, *(child.pid for child in listener.children(recursive=True))]


def test_host_keys_are_pinned(start: Start, key: paramiko.PKey) -> None:
    sshd, other = start(), start()
    assert host_key(sshd.address) == sshd.hop.host_key
    shell = SSHShell([replace(sshd.hop, host_key=other.hop.host_key)], [key])
    with pytest.raises(Unreachable, match="host key of"):
        shell.run(["true"])
    assert "Accepted" not in sshd.log


def test_a_key_that_is_not_allowed_says_what_to_do(start: Start, tmp_path: Path) -> None:
    stranger = keys.site_key(tmp_path / "other", ID)
    with pytest.raises(Unreachable, match="authorized_keys"):
        SSHShell([start().hop], [stranger]).run(["true"])


def test_through_jump_hosts(start: Start, key: paramiko.PKey) -> None:
    """Each may only forward; their keys are pinned as well."""
    line = f"{key.get_name()} {key.get_base64()} x"
    first, second, last = start(line=line), start(line=line), start()
    shell = SSHShell([first.hop, second.hop, last.hop], [key])
    done = shell.run(["sh", "-c", 'echo "$SSH_CONNECTION"'])
    assert done.out.split()[-1] == str(last.port)
    first.cut()
    try:
        shell.run(["true"])
    except Unreachable:
        pass
    assert shell.run(["echo", "again"]).out.strip() == "again", "the whole way is healed"
    shell.close()
    wrong = replace(first.hop, host_key=last.hop.host_key)
    with pytest.raises(Unreachable, match="host key of"):
        SSHShell([wrong, second.hop, last.hop], [key]).run(["true"])


@pytest.mark.skipif(not shutil.which("ssh-agent"), reason="not installed: ssh-agent")
def test_with_the_keys_of_an_agent(
    start: Start, key: paramiko.PKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.DEVNULL)
    try:
        wait_until(place.exists, 20.0, what="ssh-agent")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        with pytest.raises(Unreachable, match="none of 0 keys"):
            SSHShell([start().hop]).run(["true"])
        file = keys.key_file(tmp_path, ID)
        subprocess.run(["ssh-add", "-q", str(file)], check=True, capture_output=True, timeout=20)
        shell = SSHShell([start().hop])
        assert shell.run(["echo", "x"]).out.strip() == "x"
        shell.close()
    finally:
        agent.terminate()
        agent.wait(20)


def test_a_tunnel_carries_and_is_mended(start: Start, key: paramiko.PKey, broker: int) -> None:
    sshd = start(tunnel=True)
    shell = SSHShell([sshd.hop], [key])
    tunnel = Tunnel(shell, "127.0.0.1", 0, ("127.0.0.1", broker))
    tunnel.ensure_open()
    port = tunnel.port
    assert _ask(port).startswith(b"-NOAUTH")
    sshd.cut()
    wait_until(lambda: _mended(tunnel), 20.0, what="the tunnel's return")
    assert tunnel.port == port and _ask(port).startswith(b"-NOAUTH")
    shell.close()


def _mended(tunnel: Tunnel) -> bool:
    try:
        tunnel.ensure_open()
        return _ask(tunnel.port).startswith(b"-NOAUTH")
    except (SiteError, OSError):
        return False


def test_an_sshd_that_keeps_tunnels_to_itself_is_found_out(
    start: Start, key: paramiko.PKey, broker: int
) -> None:
    """It says yes and listens on loopback: 127.0.0.2 stands for the address that nodes see."""
    shell = SSHShell([start("GatewayPorts no", tunnel=True).hop], [key])
    with pytest.raises(SiteError, match="GatewayPorts clientspecified"):
        Tunnel(shell, "127.0.0.2", 0, ("127.0.0.1", broker)).ensure_open()
    shell.close()
    shell = SSHShell([start("GatewayPorts clientspecified", tunnel=True).hop], [key])
    tunnel = Tunnel(shell, "127.0.0.2", 0, ("127.0.0.1", broker))
    tunnel.ensure_open()
    assert tunnel.host == "127.0.0.2"
    shell.close()


def test_a_key_without_the_right_to_forward_says_so(start: Start, key: paramiko.PKey, broker: int) -> None:
    shell = SSHShell([start().hop], [key])
    with pytest.raises(SiteError, match="reverse tunnel"):
        Tunnel(shell, "127.0.0.1", 0, ("127.0.0.1", broker)).ensure_open()
    shell.close()


@pytest.fixture
def place(tmp_path: Path) -> Installation:
    """Where ``umbel-endpoint`` of these sources is found."""
    (tmp_path / "env/bin").mkdir(parents=True)
    program = shutil.which("umbel-endpoint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("not installed: umbel-endpoint")
    (tmp_path / "env/bin/umbel-endpoint").symlink_to(program)
    return Installation(str(tmp_path / "umbel"), str(tmp_path / "env"), "hpc")


def _network(shell: SSHShell, here: int, public: int, **settings: object) -> Network:
    chosen = SiteSettings.from_dict(
        {"address": "ssh://a@b", "scheduler": "slurm", "relay_listen": ["127.0.0.1"], **settings}
    )
    return Network(shell, chosen, ID, ("127.0.0.1", here), ("127.0.0.1", public))


def _stop_relay(shell: SSHShell, place: Installation) -> None:
    words = ["env", f"UMBEL_HOME={place.folder}", f"{place.env}/bin/umbel-endpoint", "relay", "hpc", "--stop"]
    assert shell.run(words).code == 0


def test_ways_when_the_login_node_reaches_the_broker(
    start: Start, key: paramiko.PKey, broker: int, place: Installation
) -> None:
    shell = SSHShell([start().hop], [key])
    try:
        network = _network(shell, broker, broker)
        direct, relay = network.routes(place)
        assert direct == "direct=" and relay.startswith("relay=127.0.0.1:")
        assert _ask(int(relay.rpartition(":")[2])).startswith(b"-NOAUTH")
        assert network.routes(place, confirmed=relay) == [relay, direct]
        # a relay that died is started again, where it was
        _stop_relay(shell, place)
        network.ensure_relay(relay)
        assert _ask(int(relay.rpartition(":")[2])).startswith(b"-NOAUTH")
        # without blocks nothing of ours runs there, and it comes back with the first one
        network.stop_relay()
        with pytest.raises(OSError):
            _ask(int(relay.rpartition(":")[2]))
        assert network.routes(place, confirmed=relay)[0] == relay
        assert _ask(int(relay.rpartition(":")[2])).startswith(b"-NOAUTH")
        assert _network(shell, broker, broker, network="direct").routes(place) == []
        # no relay is needed any more
        assert _network(shell, broker, broker).routes(place, confirmed="direct=") == ["direct="]
    finally:
        _stop_relay(shell, place)
        shell.close()


def test_a_relay_before_a_tunnel_where_the_login_node_has_no_way_out(
    start: Start, key: paramiko.PKey, broker: int, place: Installation
) -> None:
    """And its sshd listens on loopback alone, as most do."""
    shell = SSHShell([start("GatewayPorts no", tunnel=True).hop], [key])
    try:
        (way,) = _network(shell, broker, 1, tunnel_bind="127.0.0.2").routes(place)
        assert way.startswith("relay=127.0.0.1:")
        assert _ask(int(way.rpartition(":")[2])).startswith(b"-NOAUTH")
    finally:
        _stop_relay(shell, place)
        shell.close()
