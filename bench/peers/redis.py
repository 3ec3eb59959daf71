"""GET through redis-py's asyncio client and its parser in C.

One connection; all calls in flight are one pipeline.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from importlib.metadata import version

from redis.asyncio import Redis

from bench.peers.worker import OBJECT_NAME, PING_ID, Laps
from tests.servers import RedisServer

TITLE = f"redis-py {version('redis')}, GET"


def serve(ready: Callable[[str], None]) -> None:
    with RedisServer(appendonly="no") as server:
        ready(server.url)
        signal.pause()


async def drive(address: str, laps: Laps) -> None:
    async with Redis.from_url(address, decode_responses=True) as client:
        await client.set(OBJECT_NAME, PING_ID)
        for lap in laps:
            while (before := time.perf_counter()) < lap.until:
                answers = await get(client, lap.in_flight)
                lap.latencies.extend([time.perf_counter() - before] * lap.in_flight)
                assert answers[-1] == PING_ID


async def get(client: Redis, in_flight: int) -> list[str]:
    if in_flight == 1:
        return [await client.get(OBJECT_NAME)]
    pipeline = client.pipeline(transaction=False)
    for _ in range(in_flight):
        pipeline.get(OBJECT_NAME)
    return await pipeline.execute()
