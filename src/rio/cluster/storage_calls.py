"""Calls of a storage that end in time, even where a driver ignores timeouts and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from rio.errors import StorageUnavailable
from rio.logs import Logger

logger = Logger("rio.cluster")

T = TypeVar("T")

STALL = 0.25
"""Seconds by which a timer is late if the event loop stood still meanwhile."""

MAX_ABANDONED_CALLS = 64
"""Storage calls that may still hang after their timeout, before new calls are refused."""


class StorageCalls:
    """Runs storage calls in tasks of their own, so that no call holds its caller for longer than
    ``timeout`` seconds, and twice as long if the event loop stood still meanwhile.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        """Seconds that a call may take."""
        self._abandoned: set[asyncio.Task[Any]] = set()

    async def run(self, call: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Return the call's result. A call that outlasts the timeout, or its caller, is cancelled
        and left to end: its outcome is unknown. ``timeout``: :attr:`timeout` by default.

        :raises StorageUnavailable: no answer came in time, or too many earlier calls still hang.
        """
        if len(self._abandoned) >= MAX_ABANDONED_CALLS:
            call.close()
            raise StorageUnavailable(
                f"{len(self._abandoned)} earlier calls of the storage still hang"
            )
        patience = self.timeout if timeout is None else timeout
        task = asyncio.create_task(call)
        try:
            await _wait(task, patience)
        finally:
            if not task.done():
                self._abandon(task)
            elif not task.cancelled():
                task.exception()  # a caller that is cancelled at this moment does not ask for it
        if not task.done() or task.cancelled():
            raise StorageUnavailable(f"the storage did not answer within {patience:g} s")
        return task.result()

    async def settle(self) -> None:
        """Wait for the abandoned calls, at most as long as one call may take."""
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=self.timeout)

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.add(task)
        task.add_done_callback(self._end)
        task.cancel()

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.debug("a storage call failed after it was given up: %r", task.exception())


async def _wait(task: asyncio.Task[Any], patience: float) -> None:
    """Wait for a task, and once more if the loop stood still meanwhile: an answer that has arrived
    is not read yet then, and the storage is not to blame.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + patience
    await asyncio.wait((task,), timeout=patience)
    if not task.done() and loop.time() > due + STALL:
        await asyncio.wait((task,), timeout=patience)
