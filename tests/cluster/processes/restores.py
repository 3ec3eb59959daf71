"""Storages that go back in time, and what a history may show afterwards."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from msgspec.structs import replace
from redis import Redis

from rio.cluster.config import ClusterConfig
from tests.cluster.processes import history
from tests.cluster.processes.harness import Cluster, Load, of
from tests.cluster.processes.history import Call, Finding
from tests.cluster.processes.stores import Store
from tests.servers import PostgresServer, RedisServer


class Restored(NamedTuple):
    """When a storage went back in time."""

    began: float
    ended: float

    def settled(self, config: ClusterConfig) -> float:
        """By when every server has noticed: an object may live twice until then."""
        return self.ended + config.lease_local + config.storage_timeout


def timed(step: Callable[[], object]) -> Restored:
    began = time.monotonic()
    step()
    return Restored(began, time.monotonic())


class Backup:
    """What a storage held at one moment."""

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._copy = directory
        shutil.rmtree(directory, ignore_errors=True)
        if store.server is None:
            directory.mkdir()
            _copy_sqlite(store.database, directory / "rio.db")
        elif isinstance(store.server, PostgresServer):
            store.server.back_up(directory)
        else:
            assert isinstance(store.server, RedisServer)
            store.server.back_up(directory)

    def restore(self) -> Restored:
        """Put it back under the servers that run."""
        server = self._store.server
        if server is None:
            return timed(lambda: _copy_sqlite(self._copy / "rio.db", self._store.database))
        assert isinstance(server, PostgresServer | RedisServer)
        return timed(lambda: server.restore(self._copy))


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database as ``.backup`` and ``.restore`` of SQLite do: into the same file, at once."""
    with (
        closing(sqlite3.connect(source, timeout=10)) as old,
        closing(sqlite3.connect(target, timeout=10)) as new,
    ):
        old.backup(new)


def lose_placements(store: Store) -> Restored:
    """Empty the table of placements, and nothing else."""
    return timed(lambda: _delete_placements(store))


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
            keys = [key for key in redis.keys(f"*{namespace}*") if b"objects" in key]
            assert keys
            redis.delete(*keys)


def forget(calls: Iterable[Call], restored: Restored, config: ClusterConfig) -> list[Call]:
    """The calls as a storage that has gone back in time lets them look: of what was written before
    nobody knows whether it is there, and what was read until all servers had noticed shows nothing.
    """
    return [
        replace(call, outcome="unknown")
        if call.outcome == "acknowledged" and call.began < restored.ended
        else call
        for call in calls
        if call.kind in ("add", "put") or call.began >= restored.settled(config)
    ]


async def violations_after(load: Load, cluster: Cluster, restored: Restored) -> list[Finding]:
    """The findings of a run in which the storage went back in time."""
    await load.warm_up()  # the last read of each object belongs to the history
    calls = forget(load.calls, restored, cluster.config)
    found = [
        Finding("unexpected", error) for error in load.errors if error.startswith("UNEXPECTED")
    ]
    for id in load.counters:
        name = f"Counter/{id}"
        own = [call for call in calls if call.object == name]
        found += [of(name, each) for each in history.counter(own, await cluster.value(id))]
    for id in load.bags:
        name = f"Bag/{id}"
        own = [call for call in calls if call.object == name]
        found += [of(name, each) for each in history.set_full(own)]
    since = restored.settled(cluster.config)
    later = [turn for turn in cluster.turns if turn.began >= since]
    return found + history.single_activation(later)
