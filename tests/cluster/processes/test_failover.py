"""The storage itself fails over, or cannot be trusted in the first place."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator

import pytest

from rio.contracts.membership import MemberStatus
from tests.cluster.processes.conftest import MakeCluster
from tests.cluster.processes.harness import ROOT, Load, report
from tests.cluster.processes.stores import Store
from tests.servers import PostgresServer, RedisServer


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary that waits for its standby, and that standby."""
    with PostgresServer() as primary, primary.standby() as standby:
        primary.wait_for_standby()
        yield primary, standby


@pytest.fixture
def store(pair: tuple[PostgresServer, PostgresServer]) -> Store:
    primary, standby = pair
    return Store(
        f"postgres://rio@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres", primary
    )


async def test_a_standby_of_postgresql_takes_over_and_nobody_ends_or_forgets(
    make_cluster: MakeCluster, pair: tuple[PostgresServer, PostgresServer]
) -> None:
    primary, standby = pair
    cluster = await make_cluster("strict", *[{}] * 3)
    async with Load(cluster.client) as load:
        await load.more(300)
        began = time.monotonic()
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(standby.promote)
        await load.more(1)
        first = time.monotonic() - began
        await load.more(300)
    assert await load.violations(cluster) == []
    assert cluster.evictions == []
    assert [await cluster.status(node) for node in cluster.nodes] == [MemberStatus.ACTIVE] * 3
    report(
        f"failover of PostgreSQL: the first call is acknowledged {first:.2f} s after the SIGKILL"
        f" of the primary; {load.outcomes}"
    )


async def test_a_redis_that_forgets_is_refused_by_a_strict_server() -> None:
    with RedisServer(appendonly="no") as server:
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "rio",
                "run",
                "examples.ping_pong.service:registry",
                "--storage",
                server.url,
            ),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"rio: ConfigurationError: redis://127.0.0.1:" in errors
    assert b"Set 'appendonly yes'" in errors
