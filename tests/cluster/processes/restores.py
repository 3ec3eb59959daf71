"""Storages that go back in time, and what a history may show afterwards."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from msgspec.structs import replace
from redis import Redis

from rio.cluster.config import ClusterConfig
from rio.storage.redis._schema import key_of
from tests.cluster.processes.history import Call, Turn
from tests.cluster.processes.stores import Store
from tests.servers import PostgresServer, Server


class Loss(NamedTuple):
    """When a storage went back in time: from the moment that came back, to the one it came back at.

    ``writes``: whether it has forgotten what was written meanwhile, or only who owns what.
    """

    began: float
    ended: float
    writes: bool = True

    def settled(self, config: ClusterConfig) -> float:
        """By when every server has noticed: an object may live twice until then."""
        return self.ended + config.lease_local + config.storage_timeout

    def hides(self, call: Call, config: ClusterConfig) -> bool:
        """Whether the call was under way while the storage went back, so that it shows nothing."""
        end = self.ended if call.kind in ("add", "put") else self.settled(config)
        return call.began < end and call.ended > self.began


async def restore(store: Store, meanwhile: Callable[[], Awaitable[object]]) -> Loss:
    """Restore a storage under the servers that run, to the moment before ``meanwhile``."""
    began = time.monotonic()
    if store.server is not None:
        await asyncio.to_thread(store.server.back_up)
        await meanwhile()
        await asyncio.to_thread(store.server.restore)
    else:
        backup = store.database.with_suffix(".backup")
        await asyncio.to_thread(_copy_sqlite, store.database, backup)
        await meanwhile()
        await asyncio.to_thread(_copy_sqlite, backup, store.database)
    return Loss(began, time.monotonic())


async def replace_file(store: Store, meanwhile: Callable[[], Awaitable[object]]) -> Loss:
    """Put an older copy into the place of a file of SQLite, as a restore of a volume does."""
    began = time.monotonic()
    backup = store.database.with_suffix(".backup")
    await asyncio.to_thread(_copy_sqlite, store.database, backup)
    await meanwhile()
    await asyncio.to_thread(_put_in_place, backup, store.database)
    return Loss(began, time.monotonic())


def _put_in_place(backup: Path, database: Path) -> None:
    database.rename(database.with_suffix(".lost"))  # and nobody makes a new one
    for beside in ("-wal", "-shm"):
        Path(f"{database}{beside}").unlink(missing_ok=True)
    backup.rename(database)


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database as ``.backup`` and ``.restore`` of SQLite do: into the same file, at once."""
    with (
        closing(sqlite3.connect(source, timeout=10)) as old,
        closing(sqlite3.connect(target, timeout=10)) as new,
    ):
        old.backup(new)


async def fail_over(
    server: Server, meanwhile: Callable[[], Awaitable[object]], *, late: bool
) -> Loss:
    """Have a standby take over, which is up to date, or as late as before ``meanwhile``."""
    began = time.monotonic()
    follower = await asyncio.to_thread(partial(server.follower, late=late))
    await meanwhile()
    handed_over = time.monotonic()
    await asyncio.to_thread(server.hand_over, follower)
    # The replication of Redis is asynchronous.
    safe = not late and isinstance(server, PostgresServer)
    return Loss(handed_over if safe else began, time.monotonic(), writes=not safe)


async def lose_placements(store: Store) -> Loss:
    """Empty the table of placements, and nothing else."""
    began = time.monotonic()
    await asyncio.to_thread(_delete_placements, store)
    return Loss(began, time.monotonic(), writes=False)


def _delete_placements(store: Store) -> None:
    options = parse_qs(urlsplit(store.url).query)
    if store.server is None:
        with closing(sqlite3.connect(store.database, timeout=10)) as connection:
            connection.execute("DELETE FROM rio_placement")
            connection.commit()
    elif isinstance(store.server, PostgresServer):
        store.server.ask(f"DELETE FROM {options['search_path'][0]}.rio_placement")
    else:
        with Redis(port=store.server.port) as redis:
            [namespace] = options["namespace"]
            names = "placement:objects", "placement:owned"
            redis.delete(*(key_of(namespace, name) for name in names))


def forget(calls: Iterable[Call], losses: Sequence[Loss], config: ClusterConfig) -> list[Call]:
    """The calls as storages that have gone back in time let them look: nobody knows whether what
    was written meanwhile is there, and what was read until all servers had noticed shows nothing.
    """
    known = []
    for call in calls:
        hiding = [loss for loss in losses if loss.hides(call, config)]
        if call.kind in ("add", "put"):
            lost = call.outcome == "acknowledged" and any(loss.writes for loss in hiding)
            known.append(replace(call, outcome="unknown") if lost else call)
        elif not hiding:
            known.append(call)
    return known


def noticed(turns: Iterable[Turn], losses: Sequence[Loss], config: ClusterConfig) -> list[Turn]:
    """The turns without those of a time in which an object may live twice."""
    return [
        turn
        for turn in turns
        if not any(loss.began < turn.ended and turn.began < loss.settled(config) for loss in losses)
    ]
