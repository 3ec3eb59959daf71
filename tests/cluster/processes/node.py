"""What ``rio run`` loads in the server processes of these tests: it dies with its test, and where the environment says so."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from typing import Any

import rio
from rio.errors import Superseded
from rio.placement import Placement
from rio.storage.sqlite import SqliteObjectPlacement, SqliteState
from tests.cluster.processes import objects
from tests.cluster.processes.objects import Asker, Bag, Counter, note

PARENT = "RIO_TEST_PARENT"
"""Environment: the process with which this one dies."""
KILL_AT = "RIO_TEST_KILL_AT"
"""Environment: where this process kills itself, when an object whose id starts with ``victim`` comes there first."""
PR_SET_PDEATHSIG = 1


def die_with_the_test() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[PARENT]):
        os._exit(1)


def reach(point: str, id: str) -> None:
    if point == os.environ.get(KILL_AT) and id.startswith("victim"):
        os.kill(os.getpid(), signal.SIGKILL)


def watch_placement() -> None:
    """Make the storage of placements a place to be killed at."""
    claim, release = SqliteObjectPlacement.claim, SqliteObjectPlacement.release

    async def watched_claim(self: Any, object_id: rio.ObjectId, generation: int, *, supersede: int | None = None) -> Placement:
        placement = await claim(self, object_id, generation, supersede=supersede)
        if placement.generation == generation:
            reach("after claim", object_id.id)
        return placement

    async def watched_release(self: Any, object_id: rio.ObjectId, token: int) -> bool:
        reach("before release", object_id.id)
        released = await release(self, object_id, token)
        reach("after release", object_id.id)
        return released

    SqliteObjectPlacement.claim, SqliteObjectPlacement.release = watched_claim, watched_release  # type: ignore[method-assign]


def delay_saves() -> None:
    """Have the saves of objects whose id starts with ``late`` reach the storage only after this process was stopped and continued, as a
    write does that was on its way. Nothing that happens to the handler meanwhile can take it back."""
    save = SqliteState.save

    async def late_save(self: Any, object_id: rio.ObjectId, state_name: str, token: int, version: int, data: bytes) -> int:
        await stopped_and_continued()
        try:
            return await save(self, object_id, state_name, token, version, data)
        except Superseded:
            note("refused", object_id, token)
            raise

    async def watched_save(self: Any, object_id: rio.ObjectId, *args: Any) -> int:
        if object_id.id.startswith("late"):
            return await asyncio.shield(late_save(self, object_id, *args))
        return await save(self, object_id, *args)

    SqliteState.save = watched_save  # type: ignore[method-assign]


async def stopped_and_continued() -> None:
    before = time.monotonic()
    while time.monotonic() - before < 1.0:
        before = time.monotonic()
        await asyncio.sleep(0.01)


die_with_the_test()
objects.reach = reach
watch_placement()
delay_saves()
registry = rio.Registry(Counter, Bag, Asker)
