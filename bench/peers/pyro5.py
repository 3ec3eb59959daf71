"""Pyro5 with its MessagePack serialiser.

Its client is synchronous and a proxy belongs to one thread, so each call in flight has a thread and
a connection of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import Pyro5.api

from bench.peers.worker import OBJECT_NAME, PING_ID, Lap, Laps

TITLE = f"Pyro5 {version('Pyro5')}"
IN_FLIGHT_LIMIT = 64  # its server has 80 threads, one for each connection

Pyro5.api.config.SERIALIZER = "msgpack"


@Pyro5.api.expose
class Player:
    def __init__(self) -> None:
        self._pings = 0

    def ping(self, ping_id: str) -> str:
        self._pings += 1
        return ping_id


def serve(ready: Callable[[str], None]) -> None:
    daemon = Pyro5.api.Daemon(host="127.0.0.1")
    ready(str(daemon.register(Player(), objectId=OBJECT_NAME)))
    daemon.requestLoop()


def drive(address: str, laps: Laps) -> None:
    own = threading.local()

    def connect() -> None:
        own.player = Pyro5.api.Proxy(address)

    def keep_asking(lap: Lap) -> None:
        while (before := time.perf_counter()) < lap.until:
            assert own.player.ping(PING_ID) == PING_ID
            lap.latencies.append(time.perf_counter() - before)

    with ThreadPoolExecutor(IN_FLIGHT_LIMIT, initializer=connect) as threads:
        for lap in laps:
            list(threads.map(keep_asking, [lap] * lap.in_flight))
