"""The tasks that a live object owns: they end with its activation, however that ends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from rio import background
from rio._core.dispatch import outside_of_turns
from rio.errors import HandlerFailed
from rio.identity import ObjectId
from rio.logs import Logger

logger = Logger("rio.objects")

T = TypeVar("T")

CANCEL_TIMEOUT = 1.0
"""Seconds that cancelled tasks have to end."""


class TaskOwner(Protocol):
    """The runtime's side of a live object."""

    object_id: ObjectId

    def check_owning(self) -> None:
        """:raises Deactivated: the object leaves, and can own nothing more."""

    def task_failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
        """A task has raised an exception."""

    def touch(self) -> None:
        """The object was in use until now."""


class Tasks:
    """The tasks of one activation: ``self.tasks`` of a :class:`rio.ServiceObject`."""

    __slots__ = ("_loop", "_owner", "_running")

    def __init__(self, owner: TaskOwner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._running: dict[asyncio.Task[Any], bool] = {}
        """The tasks that have not ended, and whether the object stays in memory for them."""

    def create(
        self,
        coroutine: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        keep_alive: bool = False,
    ) -> asyncio.Task[T]:
        """Run a coroutine in a task that ends with the activation, and return the task.

        The task runs outside of any turn, side by side with the handlers, so it should send the
        object messages (``self.send``) instead of changing attributes. When the object leaves the
        memory, the task is cancelled, and has 1 s to end before :meth:`ServiceObject.
        before_shutdown` runs. An exception in it goes to :meth:`ServiceObject.task_failed`.

        ``keep_alive``: the object does not leave for being idle while the task runs.

        :raises Deactivated: the object leaves, or has left.
        :raises TypeError: ``coroutine`` is none.
        """
        if not inspect.iscoroutine(coroutine):
            raise TypeError(f"tasks.create() takes a coroutine, got {coroutine!r:.200}")
        try:
            self._owner.check_owning()
        except BaseException:
            coroutine.close()
            raise
        context = outside_of_turns()
        name = name or f"{coroutine.__qualname__} of {self._owner.object_id}"
        task = background.start(_run(coroutine), name, loop=self._loop, context=context)
        # a task that is cancelled before its first step never begins its coroutine
        task.add_done_callback(lambda _: coroutine.close(), context=context)
        task.add_done_callback(self._note_end, context=context)
        self._running[task] = keep_alive
        return task

    @property
    def running(self) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended."""
        return list(self._running)

    @property
    def keep_alive(self) -> bool:
        """Whether the object stays in memory for one of them."""
        return any(self._running.values())

    def cancel(self) -> None:
        """Cancel all tasks."""
        for task in self.running:
            task.cancel()

    async def end(self) -> None:
        """Cancel all tasks, and wait until they have ended, for 1 s at most."""
        self.cancel()
        if self._running:
            await asyncio.wait(self.running, timeout=CANCEL_TIMEOUT)
        for task in self.running:
            logger.error("%s was cancelled and does not end", task.get_name())

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        if self._running.pop(task):
            self._owner.touch()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._owner.task_failed(task, error)


async def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return await coroutine
    except SystemExit as error:  # it would end the event loop
        raise HandlerFailed(f"a task called sys.exit({error.code!r})") from error
    except KeyboardInterrupt as error:  # so would this
        raise HandlerFailed("a task was ended by a KeyboardInterrupt") from error
