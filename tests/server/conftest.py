"""A cluster for each test, and a watch over what asyncio would only log."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

import rio
from rio.testing import Host, Network, VirtualTimeLoop
from tests.server.harness import Cluster, Probe


@pytest.fixture(autouse=True)
async def _nothing_is_swallowed() -> AsyncIterator[None]:
    """Fail a test after which asyncio reports something to its exception handler.

    That is a callback that failed, or an exception that was never retrieved.
    """
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert not reported, reported


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
async def cluster(_nothing_is_swallowed: None, probe: Probe) -> AsyncIterator[Cluster]:
    """A cluster without a server; the test starts them.

    In virtual time, its servers and clients are on one host of a network in memory.
    """
    loop = asyncio.get_running_loop()
    async with rio.open_storage("memory://") as storage, AsyncExitStack() as stack:
        if isinstance(loop, VirtualTimeLoop):
            network = Network()
            network.outside = network.add(Host("127.0.0.1"))
            stack.enter_context(network.on(loop))
        yield Cluster(storage, probe, stack)
