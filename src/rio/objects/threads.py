"""The way from the thread of a handler back to its event loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar, overload

from rio.errors import Deactivated

P = ParamSpec("P")
R = TypeVar("R")

_here = threading.local()


class Worker:
    """A thread that runs one handler.

    The thread is a daemon, so a process ends without it. Nothing can stop it: a worker whose turn
    is over is abandoned, and its thread can reach the event loop no more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.has_ended = False
        self._loop = loop
        self._name = name
        self._is_abandoned = False
        self._call: Future[Any] | None = None

    def start(
        self, work: Callable[[], Any], end: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Run ``work()`` in the context of the caller; then the loop calls ``end(result, error)``.

        :raises RuntimeError: the system has no more threads.
        """
        run = contextvars.copy_context().run
        threading.Thread(
            target=run, args=(self._run, work, end), name=self._name, daemon=True
        ).start()

    def _run(
        self, work: Callable[[], Any], end: Callable[[Any, BaseException | None], None]
    ) -> None:
        _here.worker = self
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # whoever awaits the handler gets it, as from any other
            error = raised
        self.has_ended = True
        try:
            self._loop.call_soon_threadsafe(end, result, error)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the loop, and wait for its result. Only for the thread itself."""
        if not self._is_abandoned:
            self._call = asyncio.run_coroutine_threadsafe(_await(function), self._loop)
            if self._is_abandoned:  # in this moment
                self._call.cancel()
            return self._call.result()
        raise Deactivated(f"{self._name}: the turn is over, and the object has left the memory")

    def abandon(self) -> None:
        """The turn is over: what the thread does has no effect any more."""
        self._is_abandoned = True
        if self._call is not None:
            self._call.cancel()


async def _await(function: Callable[[], Any]) -> Any:
    result = function()
    return await result if inspect.isawaitable(result) else result


@overload
def from_thread(function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def from_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
def from_thread(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function in the event loop from a handler that runs in a thread, and return its
    result: ``rio.from_thread(self.save_state)``.

    ``function`` is an ``async def`` or a plain function: all that an object has, its ``send``,
    ``publish`` and ``save_state`` among it, belongs to the event loop. The call is part of the
    handler's turn, and ends with it.

    :raises Deactivated: the turn is over, so the object can do nothing any more.
    :raises concurrent.futures.CancelledError: the turn ended during the call.
    :raises RuntimeError: this is not the thread of a handler.
    """
    worker: Worker | None = getattr(_here, "worker", None)
    if worker is None:
        raise RuntimeError(
            "rio.from_thread() is for handlers that are marked @rio.handler(thread=True), in their"
            " own thread"
        )
    return worker.call(lambda: function(*args, **kwargs))
