"""Handlers that block, each in a thread of its own while its turn lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from rio._core.dispatch import Turn, current
from rio.logs import Logger
from rio.objects.threads import Worker

logger = Logger("rio.server")


class Threads:
    """The threads of one server, of which ``limit`` run at a time."""

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)

    def around(self, function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        """What runs ``function`` in a thread, and takes the same arguments."""

        async def run(*arguments: Any) -> Any:
            await self._free.acquire()
            turn = current()
            assert turn is not None
            return await self._run(partial(function, *arguments), turn)

        return run

    async def _run(self, work: Callable[[], Any], turn: Turn) -> Any:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        worker = Worker(loop, f"{turn.type_name}/{turn.id}.{turn.message_name}")
        try:
            worker.start(work, partial(self._end, answer))
        except RuntimeError:
            self._free.release()
            raise
        try:
            return await answer
        except asyncio.CancelledError:
            if not worker.has_ended:
                _abandon(worker, turn)
            raise

    def _end(self, answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        """A thread has ended, perhaps long after its turn."""
        self._free.release()
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        elif isinstance(error, StopIteration):  # which no future takes
            answer.set_exception(RuntimeError(f"the handler raised {error!r}"))
        else:
            answer.set_exception(error)


def _abandon(worker: Worker, turn: Turn) -> None:
    """The turn is over and its thread is not: the object may not take another turn beside it, so
    the thread keeps this instance, and the next message makes another one.
    """
    worker.abandon()
    turn.mailbox.drop()
    logger.warning(
        "%s/%s is dropped from memory: the thread of %s still runs at the end of its turn",
        turn.type_name,
        turn.id,
        turn.message_name,
    )
