"""rpyc: a remote object whose method is called with ``rpyc.async_``.

rpyc has no asyncio form, so one thread keeps the calls in flight.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from importlib.metadata import version

import rpyc
from rpyc.utils.server import ThreadedServer

from bench.peers.worker import OBJECT_NAME, PING_ID, Laps

TITLE = f"rpyc {version('rpyc')}"


class Player:
    def __init__(self) -> None:
        self.pings = 0

    def exposed_ping(self, ping_id: str) -> str:
        self.pings += 1
        return ping_id


class Players(rpyc.Service):
    def __init__(self) -> None:
        self._players = {OBJECT_NAME: Player()}

    def exposed_player(self, name: str) -> Player:
        return self._players[name]


def serve(ready: Callable[[str], None]) -> None:
    server = ThreadedServer(Players(), hostname="127.0.0.1", port=0)
    ready(str(server.port))
    server.start()


def drive(address: str, laps: Laps) -> None:
    with rpyc.connect("127.0.0.1", int(address)) as connection:
        ping = rpyc.async_(connection.root.player(OBJECT_NAME).ping)
        for lap in laps:
            in_flight = deque((time.perf_counter(), ping(PING_ID)) for _ in range(lap.in_flight))
            while in_flight:
                before, result = in_flight.popleft()
                assert result.value == PING_ID
                after = time.perf_counter()
                lap.latencies.append(after - before)
                if after < lap.until:
                    in_flight.append((after, ping(PING_ID)))
