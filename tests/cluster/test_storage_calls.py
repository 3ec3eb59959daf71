"""Storage calls end in time, and the storage is blamed only for its own silence."""

from __future__ import annotations

import asyncio
import time

import pytest

from rio.cluster.storage_calls import STALL, StorageCalls
from rio.errors import StorageUnavailable

TIMEOUT = 0.05


def _block_the_loop() -> None:
    time.sleep(TIMEOUT + 2 * STALL)


@pytest.mark.both_loops
async def test_a_storage_that_has_answered_while_the_loop_was_blocked_is_not_blamed() -> None:
    async def call() -> str:
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(None, lambda: "answer")
        loop.call_soon(_block_the_loop)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return await answer

    assert await StorageCalls(TIMEOUT).run(call()) == "answer"


async def test_a_storage_that_is_silent_is_blamed_although_the_loop_was_blocked() -> None:
    async def call() -> None:
        asyncio.get_running_loop().call_soon(_block_the_loop)
        await asyncio.Event().wait()

    with pytest.raises(StorageUnavailable, match=r"did not answer within 0\.05 s"):
        await StorageCalls(TIMEOUT).run(call())
