"""How many claims, loads and saves does a storage do in a second, one after the other and 64 at a time?

::

    python -m bench.storage sqlite:////tmp/bench.db
    python -m bench.storage postgres           # a server of its own, without fsync
    python -m bench.storage redis              # a server of its own, with an append-only file
    python -m bench.storage postgres://user@host/database?search_path=bench

Best of three. 64 wide is 64 tasks, each of which waits for its answer before it asks again. It leaves its rows behind.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager, nullcontext
from typing import Any

from rio.errors import StateNotFound
from rio.identity import ObjectId
from rio.storage import Storage, open_storage
from tests.servers import PostgresServer, RedisServer

DATA = b"x" * 100


async def load(storage: Storage, object_id: ObjectId, token: int) -> int:
    try:
        return (await storage.state.load_and_fence(object_id, "s", token)).version
    except StateNotFound:
        return 0


async def timed(count: int, work: Callable[[int], Awaitable[Any]], width: int) -> float:
    """Seconds for ``width`` tasks that do ``count`` pieces of work each."""

    async def worker(number: int) -> None:
        for index in range(count):
            await work(number * count + index)

    started = time.perf_counter()
    await asyncio.gather(*(worker(number) for number in range(width)))
    return time.perf_counter() - started


class Work:
    """Rows of its own, and what is done to each."""

    def __init__(self, storage: Storage, name: str, count: int) -> None:
        self.storage = storage
        self.objects = [ObjectId("Bench", f"{name}-{number}") for number in range(count)]
        self.versions = [0] * count

    async def claim(self, index: int) -> None:
        await self.storage.placement.claim(self.objects[index], 1)

    async def lookup(self, index: int) -> None:
        await self.storage.placement.lookup(self.objects[index])

    async def fence(self, index: int) -> None:
        self.versions[index] = await load(self.storage, self.objects[index], 1)

    async def save(self, index: int) -> None:
        await self.storage.state.save(self.objects[index], "s", 1, self.versions[index], DATA)


async def measure(storage: Storage, width: int, count: int) -> None:
    fastest: dict[str, float] = {}
    for _ in range(3):
        work = Work(storage, str(time.time_ns()), width * count)
        for what in work.claim, work.lookup, work.fence, work.save:
            taken = await timed(count, what, width) / (width * count)
            fastest[what.__name__] = min(fastest.get(what.__name__, taken), taken)
    for name, taken in fastest.items():
        print(f"{name:8} {width:3} wide {taken * 1e6:8.1f} us {1 / taken:8.0f}/s")


@contextmanager
def server_of(name: str) -> Any:
    with {"postgres": PostgresServer, "redis": RedisServer}[name]() as server:
        yield server.url


async def main(url: str) -> None:
    async with open_storage(url) as storage:
        await measure(storage, 1, 500)
        await measure(storage, 64, 100)


if __name__ == "__main__":
    with server_of(sys.argv[1]) if "://" not in sys.argv[1] else nullcontext(sys.argv[1]) as where:
        if "--uvloop" in sys.argv:
            import uvloop

            uvloop.run(main(where))
        else:
            asyncio.run(main(where))
