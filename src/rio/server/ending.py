"""The end of a node: its last steps, taken once, and told to everyone who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

from rio import background
from rio.errors import NodeEvicted
from rio.logs import Logger

logger = Logger("rio.server")

STEP_TIMEOUT = 10.0
"""Seconds that one of the last steps may take before the node goes on without it."""

Step: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Ending:
    """The end of a node. It goes on even if those who asked for it are cancelled.

    ``steps``: takes the last steps, from the first to the last.
    """

    def __init__(self, steps: Step) -> None:
        self.error: NodeEvicted | None = None
        """Why the node ends, unless it was asked to."""
        self._steps = steps
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def begun(self) -> bool:
        return self._task is not None

    def begin(self) -> None:
        """Begin with the steps, unless somebody did before."""
        if self._task is None:
            self._start()

    def _start(self) -> None:
        self._task = background.start(self._steps(), "rio server: end")
        self._task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step, so it has done nothing yet
            self._start()
            return
        if task.exception() is not None:
            logger.error("%s failed", task.get_name(), exc_info=task.exception())
        self._over.set()
        for future in list(self._waiting):
            self._settle(future)

    async def wait(self) -> None:
        """Return when all steps are taken."""
        await self._over.wait()

    def future(self) -> asyncio.Future[None]:
        """A future of the caller's own, done when all steps are taken: with :attr:`error`, if there
        is one.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._over.is_set():
            self._settle(future)
        else:
            self._waiting.add(future)
            future.add_done_callback(self._waiting.discard)
        return future

    def _settle(self, future: asyncio.Future[None]) -> None:
        if future.done():
            return
        if self.error is None:
            future.set_result(None)
        else:
            future.set_exception(self.error)
            future.exception()  # to ask whether the node has ended is no duty to ask why


async def take(what: str, step: Step) -> None:
    """Take one of the last steps, so that the next one comes whatever this one does.

    A step that others cancel is taken once more. A step that raises is logged. One that does not
    end within :data:`STEP_TIMEOUT` is cancelled and left behind. The caller cannot be cancelled
    meanwhile: nobody but the node itself decides over its end.
    """
    for _ in range(2):
        task = asyncio.ensure_future(step())
        await _wait_for(task)
        if not task.done():
            task.cancel()
            logger.error("%s did not end within %g s, and is left behind", what, STEP_TIMEOUT)
            return
        if not task.cancelled():
            if task.exception() is not None:
                logger.error("%s failed", what, exc_info=task.exception())
            return
    logger.error("%s was cancelled", what)


async def _wait_for(task: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + STEP_TIMEOUT
    while not task.done() and loop.time() < end:
        with suppress(asyncio.CancelledError):
            await asyncio.wait((task,), timeout=end - loop.time())
