"""A cluster of processes for each test, which ends with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import rio
from tests.cluster.processes.harness import Cluster

MakeCluster = Callable[[str, int], Awaitable[Cluster]]


@pytest.fixture
async def make_cluster(tmp_path: Path) -> AsyncIterator[MakeCluster]:
    """``await make_cluster(preset, nodes)``: a cluster, and a client of it."""
    async with AsyncExitStack() as stack:

        async def make(preset: str, nodes: int) -> Cluster:
            cluster = Cluster(tmp_path, preset)
            stack.push_async_callback(cluster.end)
            await cluster.start_all(nodes)
            cluster.client = await stack.enter_async_context(rio.Client(cluster.url))
            return cluster

        yield make
