"""Ray: a named async actor in a local cluster, with token authentication.

It listens on every interface, whatever ``_node_ip_address`` says, so it runs only where there is no
network.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

os.environ["RAY_AUTH_MODE"] = "token"

import ray  # Ray reads this when it is imported

from bench.peers.worker import OBJECT_NAME, PING_ID, Laps

TITLE = f"Ray {version('ray')}"
CONFINED = True
NAMESPACE = "peers"


@dataclass(slots=True)
class Ping:
    ping_id: str


@dataclass(slots=True)
class Pong:
    ping_id: str


@ray.remote
class Player:
    def __init__(self) -> None:
        self.pings = 0

    async def ping(self, message: Ping) -> Pong:
        self.pings += 1
        return Pong(message.ping_id)


def serve(ready: Callable[[str], None]) -> None:
    ray.init(num_cpus=2, include_dashboard=False, namespace=NAMESPACE, _node_ip_address="127.0.0.1")
    player = Player.options(name=OBJECT_NAME).remote()
    ray.get(player.ping.remote(Ping(PING_ID)))
    ready(ray.get_runtime_context().gcs_address)
    signal.pause()


async def drive(address: str, laps: Laps) -> None:
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
    player = ray.get_actor(OBJECT_NAME)
    await laps.run(lambda: player.ping.remote(Ping(PING_ID)), Pong(PING_ID))
