"""A cluster of processes for each test, which ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest

import rio
from tests.cluster.processes.harness import Cluster
from tests.cluster.processes.stores import STORAGES, Store, file_in, place_on
from tests.servers import PostgresServer, RedisServer, Server
from tests.storage.conftest import serve

on_every_storage = pytest.mark.parametrize("store", STORAGES, indirect=True)
on_storage_servers = pytest.mark.parametrize(
    "store", [name for name in STORAGES if name != "sqlite"], indirect=True
)


class MakeCluster(Protocol):
    async def __call__(self, preset: str, *nodes: Mapping[str, str]) -> Cluster: ...


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    yield from serve(PostgresServer, "POSTGRES")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    yield from serve(RedisServer, "REDIS")


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """What the clusters of a test run on: a file of SQLite, unless the test is marked otherwise."""
    name = getattr(request, "param", "sqlite")
    return (
        file_in(tmp_path)
        if name == "sqlite"
        else asyncio.run(place_on(request.getfixturevalue(f"{name}_server")))
    )


@pytest.fixture
async def make_cluster(tmp_path: Path, store: Store) -> AsyncIterator[MakeCluster]:
    """``await make_cluster(preset, {}, {})`` starts two nodes and a client.

    Each mapping is added to the environment of its node.
    """
    async with AsyncExitStack() as stack:

        async def make(preset: str, *nodes: Mapping[str, str]) -> Cluster:
            cluster = Cluster(tmp_path, preset, store)
            stack.push_async_callback(cluster.end)
            started = [
                await cluster.launch(environ=environ) for environ in nodes
            ]  # one by one, so that ``cluster.nodes`` are in this order
            await asyncio.gather(*(node.listening() for node in started))
            async with rio.open_storage(cluster.url):
                pass  # a client refuses a storage in which there was never a server
            cluster.client = await stack.enter_async_context(rio.Client(cluster.url))
            return cluster

        yield make
