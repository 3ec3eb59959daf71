"""The registry that ``rio run`` loads in the server processes of these tests.

A server process dies with its test, and where the environment says so.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from importlib import import_module
from typing import Any

import rio
from rio.client import pool
from rio.contracts.placement import Placement
from rio.contracts.state import Batch
from rio.errors import Superseded
from rio.server import acceptor, server
from tests.cluster.processes import objects
from tests.cluster.processes.newer import NewerCounter
from tests.cluster.processes.objects import (
    KILL_AT,
    LOOK,
    PARENT,
    STORAGE,
    VERSION,
    Asker,
    Bag,
    Counter,
    note,
)

PR_SET_PDEATHSIG = 1


def die_with_the_test() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[PARENT]):
        os._exit(1)


def reach(point: str, id: str) -> None:
    if point == os.environ.get(KILL_AT) and id.startswith("victim"):
        os.kill(os.getpid(), signal.SIGKILL)


def watch_placement(placement: Any) -> None:
    """Make the storage of placements a place at which the process can be killed."""
    claim, release = placement.claim, placement.release

    async def watched_claim(
        self: Any, object_id: rio.ObjectId, generation: int, **more: Any
    ) -> Placement:
        reach("before claim", object_id.id)
        claimed: Placement = await claim(self, object_id, generation, **more)
        if claimed.generation == generation:
            reach("after claim", object_id.id)
        return claimed

    async def watched_release(self: Any, object_id: rio.ObjectId, token: int) -> bool:
        reach("before release", object_id.id)
        released: bool = await release(self, object_id, token)
        reach("after release", object_id.id)
        return released

    placement.claim, placement.release = watched_claim, watched_release


def delay_saves(state: Any) -> None:
    """Delay saves until the process was stopped and continued, if the object's id says ``late``.

    So arrives a write that was on its way. Whatever happens to the handler meanwhile cannot take
    the write back.
    """
    save = state.commit

    async def late_save(
        self: Any, object_id: rio.ObjectId, token: int, version: int, batch: Batch
    ) -> int:
        await stopped_and_continued()
        try:
            saved: int = await save(self, object_id, token, version, batch)
        except Superseded:
            note("refused", object_id, token)
            raise
        return saved

    async def watched_save(self: Any, object_id: rio.ObjectId, *args: Any) -> int:
        saving = (
            asyncio.shield(late_save(self, object_id, *args))
            if object_id.id.startswith("late")
            else save(self, object_id, *args)
        )
        saved: int = await saving
        return saved

    state.commit = watched_save


async def stopped_and_continued() -> None:
    before = time.monotonic()
    while time.monotonic() - before < 1.0:
        before = time.monotonic()
        await asyncio.sleep(0.01)


def look_each(seconds: float) -> None:
    """Have servers look at their security, and at their connections, more often."""
    server.SECURITY_LOOK_INTERVAL = acceptor.LOOK_INTERVAL = pool.LOOK_INTERVAL = seconds


die_with_the_test()
if LOOK in os.environ:
    look_each(float(os.environ[LOOK]))
objects.reach = reach
storage = import_module(f"rio.storage.{os.environ[STORAGE]}")
watch_placement(getattr(storage, f"{os.environ[STORAGE].title()}ObjectPlacement"))
delay_saves(getattr(storage, f"{os.environ[STORAGE].title()}State"))
counter = NewerCounter if os.environ[VERSION] == "newer" else Counter
registry = rio.Registry(counter, Bag, Asker)
