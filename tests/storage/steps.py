"""Steps that several tests of storages take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Self, TypeVar

from rio.contracts.state import StateStorage
from rio.errors import StorageUnavailable
from rio.identity import ObjectId
from rio.storage import Storage
from rio.testing.conformance._state import NOTHING, held, single

T = TypeVar("T")

ADA = ObjectId("Account", "ada")


async def load_nothing(state: StateStorage, object_id: ObjectId = ADA, token: int = 1) -> None:
    """Load an object of which nothing is stored."""
    assert await state.load_object(object_id, token) == NOTHING


async def waiting_for_a_lock(session: Any, count: int) -> None:
    """Wait until so many sessions of PostgreSQL wait for a lock."""
    waiting = 0
    while waiting < count:
        waiting = await session.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )


class Savers:
    """Tasks that each save one version of an object after the other.

    After an unknown outcome, they look up what is stored.
    """

    def __init__(self, storage: Storage, count: int = 32, *, pause: float = 0.0) -> None:
        self.acknowledged = 0
        self.refused = 0
        """Operations that ended in ``StorageUnavailable``."""
        self.slowest = 0.0
        """Seconds that one operation took."""
        self.wrong: list[str] = []
        """What must not happen, and did."""
        self._storage = storage
        self._count = count
        self._pause = pause
        self._over = False
        self._acknowledged = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._save_one_after_the_other(ObjectId("Saver", str(n))))
            for n in range(self._count)
        ]
        await self.more(self._count)
        return self

    async def __aexit__(self, _: object, failed: BaseException | None, traceback: object) -> None:
        self._over = True
        if failed is not None:  # they would try for ever to reach a server that did not come back
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=failed is not None)

    async def more(self, count: int) -> None:
        """Wait for so many acknowledgements from now on."""
        waiting = asyncio.create_task(self._wait_until(self.acknowledged + count))
        done, _ = await asyncio.wait((waiting, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done:
            task.result()  # raises the error of a task that has failed

    async def _wait_until(self, acknowledged: int) -> None:
        async with self._acknowledged:
            await self._acknowledged.wait_for(lambda: self.acknowledged >= acknowledged)

    async def _save_one_after_the_other(self, object_id: ObjectId) -> None:
        token, version = await self._take_up(object_id, 0, {0})
        while not self._over:
            saved = await self._tried(
                self._storage.state.commit(object_id, token, version, single(data_of(version + 1)))
            )
            if saved is None:
                token, version = await self._take_up(object_id, token, {version, version + 1})
            else:
                version = saved
                async with self._acknowledged:
                    self.acknowledged += 1
                    self._acknowledged.notify_all()
            await asyncio.sleep(self._pause)

    async def _take_up(
        self, object_id: ObjectId, token: int, possible: set[int]
    ) -> tuple[int, int]:
        """Claim and load until the stored version is known. It must be one of these."""
        while True:
            claimed = await self._tried(self._storage.placement.claim(object_id, 1))
            if claimed is None:
                continue
            if claimed.generation != 1 or claimed.token <= token:
                self.wrong.append(f"{object_id}: after token {token} a claim brought {claimed}")
            stored = await self._tried(self._storage.state.load_object(object_id, claimed.token))
            if stored is not None:
                expected = held(stored.version, data_of(stored.version))
                if stored.version not in possible or stored != (
                    expected if stored.version else NOTHING
                ):
                    self.wrong.append(
                        f"{object_id}: {stored} is stored, and not one of the versions {possible}"
                    )
                return claimed.token, stored.version

    async def _tried(self, operation: Awaitable[T]) -> T | None:
        """Await a result; ``None`` after a while where the storage cannot tell it."""
        began = time.monotonic()
        try:
            return await operation
        except StorageUnavailable:
            self.refused += 1
            await asyncio.sleep(0.01)
            return None
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)


def data_of(version: int) -> bytes:
    return str(version).encode() if version else b""
