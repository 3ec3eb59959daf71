"""A placement storage whose driver ignores its own timeouts: some call into it never returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import rio
from rio.testing import LocalCluster, run
from tests.server.harness import until


class Count(rio.Message[int]):
    pass


class Counter(rio.ServiceObject):
    def __init__(self) -> None:
        self.count = 0

    @rio.handler
    def count_(self, message: Count) -> int:
        self.count += 1
        return self.count


class Silence:
    """The first call of a method never returns, until the test lets it."""

    def __init__(self, method: Callable[..., Any], *, heeds_cancellation: bool) -> None:
        self._method = method
        self._heeds_cancellation = heeds_cancellation
        self.begun = False
        self.over = asyncio.Event()
        self.ended = False

    async def __call__(self, *args: Any, **options: Any) -> Any:
        if not self.begun:
            self.begun = True
            await self._last()
        return await self._method(*args, **options)

    async def _last(self) -> None:
        try:
            while not self.over.is_set():
                with suppress(*([] if self._heeds_cancellation else [asyncio.CancelledError])):
                    await self.over.wait()
        finally:
            self.ended = True


@pytest.mark.parametrize("heeds_cancellation", [True, False])
@pytest.mark.parametrize("method", ["claim", "release"])
def test_an_object_whose_claim_or_release_never_returns_can_be_reached_again(
    monkeypatch: pytest.MonkeyPatch, method: str, heeds_cancellation: bool
) -> None:
    async def live() -> None:
        async with LocalCluster(rio.Registry(Counter), nodes=1) as cluster:
            placement = cluster.nodes[0].server._catalog.ownership._placement
            silence = Silence(getattr(placement, method), heeds_cancellation=heeds_cancellation)
            monkeypatch.setattr(placement, method, silence)
            send = cluster.client.send
            assert await send(Counter, "a", Count(), timeout=30.0) == 1
            await cluster.client.admin(rio.AdminCommand.shutdown(Counter, "a"))
            assert await send(Counter, "a", Count(), timeout=30.0) == 1, "it has come anew"
            assert silence.begun
            silence.over.set()
            await until(lambda: silence.ended)
            await asyncio.sleep(1.0)
            assert await send(Counter, "a", Count(), timeout=30.0) == 2, "nothing came of it later"
            assert cluster.nodes[0].statistics().in_flight == 0

    run(live())
