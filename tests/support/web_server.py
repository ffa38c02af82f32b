"""The embedded web server in a thread of the test, for the API of ``tests.support.api``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.support.api import Api
from webapp.app import create_app
from webapp.channel import Channel
from webapp.connections import Front
from webapp.serve import listen


@contextmanager
def serving(api: Api, connections: int = 1000) -> Iterator[int]:
    """Serve the API of ``api`` on 127.0.0.1; yield the port."""
    front = Front(api.fed, connections)
    app = create_app(api.fed, api.notifier, places=connections // 2)
    sockets: dict[int, object] = {}
    settings = replace(api.fed.settings, port=0)
    server = listen(app, settings, sockets, front)
    stopped = threading.Event()

    def loop() -> None:
        while not stopped.is_set():
            server.asyncore.loop(timeout=0.2, map=sockets, use_poll=True, count=1)

    thread = threading.Thread(target=loop, name="web-server")
    thread.start()
    try:
        yield int(server.effective_port)
    finally:
        api.notifier.stop()
        front.parking.wait_until_empty(5)
        stopped.set()
        server.pull_trigger()
        thread.join(10)
        server.task_dispatcher.shutdown(timeout=5)
        front.stop()
        for item in list(sockets.values()):
            end = getattr(item, "handle_close" if isinstance(item, Channel) else "close")
            end()
