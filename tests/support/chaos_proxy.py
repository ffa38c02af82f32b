"""A TCP proxy that is slow, silent or cut on demand, between any client and any server of a test.

::

    with ChaosProxy(("127.0.0.1", port)) as proxy:
        proxy.up.rate = 300_000          # bytes per second from the client to the server
        client = Client(f"http://127.0.0.1:{proxy.port}", token)

All attributes may be changed while connections are open.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from concurrent.futures import Future
from typing import Any

#: Bytes read at once, and the size of the sockets' buffers: small, so that a rate is felt at once.
CHUNK = 16 * 1024
_RESET, _CLOSE = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


class Direction:
    """What happens to bytes on their way in one direction.

    Attributes:
        rate: Bytes per second of all connections together. None: as fast as possible.
        delay: Seconds that each byte travels.
        hole: True: bytes are not read any more, and connections stay open.
        cut_after: Every connection is reset when this many bytes have passed it. None: never.
        passed: Bytes that have passed, of all connections.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self.delay = 0.0
        self.hole = False
        self.cut_after: int | None = None
        self.passed = 0
        self._free = 0.0

    async def turn(self, size: int) -> None:
        """Wait until ``size`` more bytes may pass."""
        while self.hole:
            await asyncio.sleep(0.02)
        self.passed += size
        if self.rate is not None:
            self._free = max(self._free, time.monotonic()) + size / self.rate
            await asyncio.sleep(self._free - time.monotonic())


class _Pair:
    """Both sockets of one connection."""

    def __init__(self, client: socket.socket, server: socket.socket):
        self.sockets = client, server
        self.open_ways = 2


class ChaosProxy:
    """Forwards connections to ``target``, a pair of host and port, or the path of a Unix socket.

    Attributes:
        port: The port on 127.0.0.1 to connect to.
        up: The direction from clients to the target.
        down: The direction from the target to clients.
        refuse: True: new connections are reset at once.
        accepted: Number of connections so far.
    """

    def __init__(self, target: tuple[str, int] | str):
        self.target = target
        self.up, self.down = Direction(), Direction()
        self.refuse = False
        self.accepted = 0
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy", daemon=True)

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        self._loop.call_soon_threadsafe(self._spawn, self._accept())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._listener.close()

    def cut(self) -> int:
        """Reset all open connections now; return how many there were."""
        return int(self._call(self._cut))

    def _call(self, action: Any) -> Any:
        done: Future[Any] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(action()))
        return done.result(10)

    def _cut(self) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            self._reset(pair)
        return len(pairs)

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._cut()

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reset(self, pair: _Pair, linger: bytes = _RESET) -> None:
        self._pairs.discard(pair)
        for sock in pair.sockets:
            if sock.fileno() >= 0:
                self._loop.remove_reader(sock)
                self._loop.remove_writer(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                sock.close()

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            self.accepted += 1
            if self.refuse:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
                continue
            self._spawn(self._connect(client))

    async def _connect(self, client: socket.socket) -> None:
        family = socket.AF_UNIX if isinstance(self.target, str) else socket.AF_INET
        server = socket.socket(family, socket.SOCK_STREAM)
        pair = _Pair(client, server)
        for sock in pair.sockets:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        self._pairs.add(pair)
        try:
            await self._loop.sock_connect(server, self.target)
        except OSError:
            self._reset(pair)
            return
        self._spawn(self._pump(client, server, self.up, pair))
        self._spawn(self._pump(server, client, self.down, pair))

    async def _pump(self, source: socket.socket, sink: socket.socket, way: Direction, pair: _Pair) -> None:
        """Read one direction of a connection until its end."""
        passed = 0
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(4096)
        self._spawn(self._deliver(sink, queue, pair))
        try:
            while True:
                data = await self._loop.sock_recv(source, CHUNK)
                await way.turn(len(data))
                passed += len(data)
                if way.cut_after is not None and passed >= way.cut_after:
                    self._reset(pair)
                    return
                await queue.put((time.monotonic() + way.delay, data))
                if not data:
                    return
        except (OSError, ValueError):
            self._reset(pair)

    async def _deliver(
        self, sink: socket.socket, queue: asyncio.Queue[tuple[float, bytes]], pair: _Pair
    ) -> None:
        """Write what ``_pump`` has read, each piece when its delay is over."""
        try:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if data:
                    await self._loop.sock_sendall(sink, data)
                    continue
                sink.shutdown(socket.SHUT_WR)
                pair.open_ways -= 1
                if not pair.open_ways:
                    self._reset(pair, _CLOSE)
                return
        except (OSError, ValueError):
            self._reset(pair)
