"""``/packages/``: the simple repository API over a directory of wheels, open to all and closed around it."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import socket
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin

import pytest
from werkzeug.test import TestResponse

from federation.packages import build, directory
from tests.contract.test_api_errors import refused
from tests.contract.test_api_serve import Server
from tests.support import wheels
from tests.support.api import Api

OWN = f"/packages/umbel/{build.WHEEL}"


@pytest.fixture(scope="module")
def own_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build(tmp_path_factory.mktemp("dist"))


@pytest.fixture
def packages(api: Api, tmp_path: Path, own_wheel: Path) -> Path:
    """The service's directory with its own wheel and two others."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / own_wheel.name).write_bytes(own_wheel.read_bytes())
    wheels.make(folder, "Some_Thing", "1.0+local")
    wheels.make(folder, "zoo", "2.0")
    return folder


class Page(HTMLParser):
    """The links of a page and its commands."""

    def __init__(self, answer: TestResponse):
        super().__init__()
        assert answer.status_code == 200 and answer.mimetype == "text/html"
        self.links: dict[str, str] = {}
        self.commands: list[str] = []
        self._href: str | None = None
        self._pre = False
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._href = dict(attrs).get("href") if tag == "a" else None
        self._pre = tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        self._href, self._pre = None, False

    def handle_data(self, data: str) -> None:
        if self._href is not None:
            self.links[data] = self._href
        if self._pre:
            self.commands.append(data)


def test_the_root_has_one_link_for_each_project_and_the_command(api: Api, packages: Path) -> None:
    page = Page(api.anybody("GET", "/packages/", base_url="http://lab.example:8642"))
    assert page.links == {"some-thing": "some-thing/", "umbel": "umbel/", "zoo": "zoo/"}
    digest = hashlib.sha256((packages / build.WHEEL).read_bytes()).hexdigest()
    url = f"http://lab.example:8642{OWN}#sha256={digest}"
    assert page.commands == [
        f'pip install "umbel @ {url}"',
        f'pip install "umbel[endpoint] @ {url}"',
        'pip install --no-index --find-links "http://lab.example:8642/packages/all" "umbel[endpoint]"',
    ]


@pytest.mark.parametrize("path", ["/packages/umbel/", "/packages/some-thing/", "/packages/all"])
def test_every_link_leads_to_a_file_with_its_hash(api: Api, packages: Path, path: str) -> None:
    links = Page(api.anybody("GET", path)).links
    names = {file.name for file in packages.glob("*.whl")}
    project = path.split("/")[2].replace("-", "_")
    assert set(links) == {n for n in names if path.endswith("all") or n.lower().startswith(project)}
    for name, href in links.items():
        url, _, fragment = urljoin(path, href).partition("#")
        answer = api.anybody("GET", url, buffered=True)
        assert answer.status_code == 200 and unquote(url).endswith(f"/{name}")
        assert answer.data == (packages / name).read_bytes()
        assert fragment == f"sha256={hashlib.sha256(answer.data).hexdigest()}"


def test_a_file_comes_with_length_type_and_hash(api: Api, packages: Path) -> None:
    content = (packages / build.WHEEL).read_bytes()
    answer = api.anybody("GET", OWN, buffered=True)
    assert answer.data == content
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert "Set-Cookie" not in answer.headers

    head = api.anybody("HEAD", OWN, buffered=True)
    assert head.data == b"" and head.headers["Content-Length"] == str(len(content))
    again = api.anybody("GET", OWN, headers={"If-None-Match": answer.headers["ETag"]}, buffered=True)
    assert again.status_code == 304 and again.data == b""
    assert Page(api.anybody("GET", "/packages/umbel/"))
    assert api.anybody("HEAD", "/packages/").status_code == 200


def test_no_file_stays_open(api: Api, packages: Path) -> None:
    """More requests of each kind than files may be open at a time."""
    etag = api.anybody("GET", OWN, buffered=True).headers["ETag"]
    for _ in range(directory.DOWNLOADS + 5):
        assert api.anybody("GET", OWN, buffered=True).status_code == 200
        assert api.anybody("HEAD", OWN, buffered=True).status_code == 200
        answer = api.anybody("GET", OWN, headers={"If-None-Match": etag}, buffered=True)
        assert answer.status_code == 304
        answer = api.anybody("GET", OWN.replace("/umbel/", "/zoo/"), buffered=True)
        refused(answer, 404, "NOT_FOUND")


def test_a_token_is_neither_needed_nor_looked_at(api: Api, packages: Path) -> None:
    for caller in (api.anybody, api.ada, api.caller("umb_wrong")):
        for path in ("/packages/", "/packages/all", "/packages/umbel/", OWN):
            assert caller("GET", path, buffered=True).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/packages/", "/packages/all", "/packages/umbel/", OWN])
def test_nothing_can_be_changed(api: Api, packages: Path, method: str, path: str) -> None:
    before = {file.name: file.read_bytes() for file in packages.iterdir()}
    refused(api.ada(method, path), 405, "METHOD_NOT_ALLOWED")
    assert {file.name: file.read_bytes() for file in packages.iterdir()} == before


@pytest.mark.parametrize(
    "path",
    [
        "umbel/../client.json",
        "umbel/..%2f..%2fclient.json",
        "..%2fclient.json",
        "%2e%2e/client.json",
        "umbel/%2e%2e/%2e%2e/client.json",
        "umbel/..%5cclient.json",
        "umbel%2f" + build.WHEEL + "%00",
        "umbel/%00" + build.WHEEL,
        "umbel/" + build.WHEEL + "/",
        "umbel/" + build.WHEEL + "%0a",
        "umbel/" + build.WHEEL.upper(),
        "umbel/.built.json",
        "umbel/.lock",
        "umbel/link-1.0-py3-none-any.whl",
        "link/link-1.0-py3-none-any.whl",
        "link/",
        "zoo/" + build.WHEEL,
        "Umbel/",
        "Some_Thing/",
        "some%2fthing/",
        "none/",
        "%F0%9F%8C%BF%ff/",
        "a" * 5000 + "/",
        "umbel/" + "a" * 5000 + ".whl",
    ],
)
def test_what_is_not_a_package_does_not_exist(api: Api, packages: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "client.json").write_text('{"token": "umb_secret"}')
    (packages / "link-1.0-py3-none-any.whl").symlink_to(tmp_path / "client.json")
    error = refused(api.anybody("GET", f"/packages/{path}"), 404, "NOT_FOUND")
    assert "umb_secret" not in str(error) and str(tmp_path) not in str(error) and len(str(error)) < 1000


def test_a_path_without_its_last_slash_leads_to_the_page(api: Api, packages: Path) -> None:
    for path in ("/packages", "/packages/umbel"):
        answer = api.anybody("GET", path)
        assert answer.status_code == 308
        # without scheme and host, which a proxy may have changed
        assert answer.headers["Location"] == f"{path}/"
    query = api.anybody("GET", "/packages?a=/b", base_url="http://[::1]:8642")
    assert query.headers["Location"] == "/packages/?a=/b"
    for host in ("[zz", 'a"><b>', "a/b"):
        answer = api.anybody("GET", "/packages", headers={"Host": host})
        assert answer.status_code in (308, 400) and answer.headers.get("Location", "/").startswith("/")
    for path in ("//packages", "//lab.example//packages", "/packages//umbel", "/packages//%5clab.example"):
        location = api.anybody("GET", path).headers.get("Location", "/")
        assert location.startswith("/") and location[1:2] not in ("/", "\\"), location


@pytest.mark.parametrize("host", ['a";rm -rf "', "<script>", "a b", "$(id)", "a`id`", "a/b", "a:1:2", "a:x"])
def test_a_host_that_must_not_get_into_a_command_is_refused(api: Api, packages: Path, host: str) -> None:
    answer = api.anybody("GET", "/packages/", headers={"Host": host})
    refused(answer, 400, "BAD_REQUEST")


@pytest.mark.parametrize("host", ["lab.example", "10.0.0.1:8642", "[::1]:8642", "lab-1.example:8080"])
def test_the_command_has_the_readers_host_and_scheme(api: Api, packages: Path, host: str) -> None:
    for scheme, headers in [
        ("http", {"Host": host}),
        ("https", {"Host": host, "X-Forwarded-Proto": "https"}),
        ("https", {"Host": host, "X-Forwarded-Proto": "HTTPS, http"}),
        ("http", {"Host": host, "X-Forwarded-Proto": "javascript"}),
        ("http", {"Host": host, "X-Forwarded-Proto": "http, https"}),
    ]:
        page = Page(api.anybody("GET", "/packages/", headers=headers))
        assert f"{scheme}://{host}{OWN}#" in page.commands[0]
        # a shell would read the brackets of an IPv6 address as a pattern
        for command in page.commands:
            assert not re.search(r"[][$`!*?]", re.sub(r'"[^"$`!]*"', "", command)), command
    page = Page(api.anybody("GET", "/packages/", base_url=f"https://{host}"))
    assert f"https://{host}{OWN}#" in page.commands[0]


def test_a_service_without_wheels_says_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Path:
        raise build.BuildError("no setuptools in /secret/place")

    monkeypatch.setattr(build, "build", fail)
    answer = api.anybody("GET", "/packages/")
    page = Page(answer)
    assert page.links == {} and page.commands == []
    assert "make build" in answer.text and "/secret/place" not in answer.text
    assert Page(api.anybody("GET", "/packages/all")).links == {}
    refused(api.anybody("GET", "/packages/umbel/"), 404, "NOT_FOUND")
    refused(api.anybody("GET", OWN), 404, "NOT_FOUND")


def test_the_wheel_is_built_by_the_first_who_asks(api: Api, tmp_path: Path, own_wheel: Path) -> None:
    assert not (tmp_path / "packages").exists()
    answer = api.anybody("GET", OWN, buffered=True)
    assert answer.status_code == 200 and answer.data == own_wheel.read_bytes()
    assert (tmp_path / "packages" / build.WHEEL).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "packages").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def server(tmp_path: Path, broker_url: str) -> Iterator[Server]:
    server = Server(tmp_path, broker_url)
    yield server
    server.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_slow_readers_of_a_large_file_take_no_memory_and_no_threads(server: Server, tmp_path: Path) -> None:
    name, size = "large-1.0-py3-none-any.whl", 64 << 20
    (tmp_path / "packages").mkdir()
    with (tmp_path / "packages" / name).open("wb") as file:
        file.truncate(size)
    request = f"GET /packages/large/{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    assert b"Content-Length: 67108864\r\n" in _begun(server, request, close=True)[1]
    connection = server.connect()
    for _ in range(directory.DOWNLOADS + 1):
        connection.request("HEAD", f"/packages/large/{name}")
        head = connection.getresponse()
        assert (head.status, head.read()) == (200, b"")
    connection.close()
    before = _memory(server.process.pid)
    readers, answers = [], []
    for _ in range(directory.DOWNLOADS // 2 + 1):
        reader, answer = _begun(server, request)
        readers.append(reader)
        answers.append(answer.split(b" ")[1])
    # an address gets a place only while more are free than it has
    assert answers == [b"200"] * (directory.DOWNLOADS // 2) + [b"503"]
    # others are served meanwhile
    assert server.request("GET", "/v1/whoami")[0] == 200
    assert _memory(server.process.pid) - before < size
    for reader in readers:
        reader.close()
    for _ in range(100):
        reader, answer = _begun(server, request, close=True)
        if answer.startswith(b"HTTP/1.1 200 "):
            return
    raise AssertionError("the places of readers that are gone stay occupied")


@pytest.mark.skipif(sys.platform != "linux", reason="waitress reads with poll")
def test_a_file_that_is_cut_while_it_is_sent_ends_the_connection(server: Server, tmp_path: Path) -> None:
    """The server must not try for ever to send what is gone."""
    file = tmp_path / "packages" / "large-1.0-py3-none-any.whl"
    file.parent.mkdir()
    with file.open("wb") as out:
        out.truncate(64 << 20)
    request = f"GET /packages/large/{file.name} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    reader, answer = _begun(server, request, window=1 << 20)
    assert answer.startswith(b"HTTP/1.1 200 ")
    os.truncate(file, 1000)
    total = 0
    with reader:  # recv raises a TimeoutError while the connection stays open
        while part := reader.recv(1 << 20):
            total += len(part)
    assert total < 64 << 20


def _begun(
    server: Server, request: bytes, *, close: bool = False, window: int = 4096
) -> tuple[socket.socket, bytes]:
    """Send a request and read only the beginning of the answer."""
    reader = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    reader.sendall(request)
    answer = reader.recv(2048)
    if close:
        reader.close()
    return reader, answer


def _memory(pid: int) -> int:
    """Resident memory of a process without what it shares."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def test_the_page_keeps_to_its_policy(api: Api, packages: Path) -> None:
    text = api.anybody("GET", "/packages/").text
    assert not re.search(r"<(script|style|iframe|base)|\bon\w+=|style=", text)
    assert api.anybody("GET", "/static/packages.css", buffered=True).status_code == 200
