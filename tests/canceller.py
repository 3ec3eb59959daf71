"""Cancels one of the tasks that ``rio`` makes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rio
from rio import background
from rio.server.activation import Activation

PACKAGE = Path(rio.__file__).parent
_activate = Activation.activate
_start = background.start
_start_now = background.start_now
OURS = tuple(str(PACKAGE / room) for room in ("server", "client", "cluster", "storage"))


class Canceller:
    """Cancels one of the tasks that ``rio`` makes, some turns of the loop after it was made."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, delay: int, nth: int) -> None:
        self.seen: Counter[str] = Counter()
        """The tasks that were made, by the names of their coroutines."""
        self.hit = False
        self._loop = loop
        self._name = name
        self._delay = delay
        self._nth = nth
        self._create_task = loop.create_task

    def make(self, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        return self._watch(coroutine, self._create_task(coroutine, **options))

    def start(self, coroutine: Any, *args: Any, **options: Any) -> asyncio.Task[Any]:
        return self._watch(coroutine, _start(coroutine, *args, **options))

    def start_now(self, coroutine: Any, *args: Any, **options: Any) -> asyncio.Task[Any]:
        return self._watch(coroutine, _start_now(coroutine, *args, **options))

    def _watch(self, coroutine: Any, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        if coroutine.cr_code.co_filename.startswith(OURS):
            self._note(coroutine.__qualname__, task)
        return task

    async def activate(self, activation: Activation) -> None:
        """An activation makes its first step before anybody can cancel it."""
        task = asyncio.current_task()
        assert task is not None
        self._note("Activation.activate", task)
        await _activate(activation)

    def _note(self, name: str, task: asyncio.Task[Any]) -> None:
        self.seen[name] += 1
        if name == self._name and self.seen[name] == self._nth:
            self.hit = True
            self._cancel_in(self._delay, task)

    def _cancel_in(self, delay: int, task: asyncio.Task[Any]) -> None:
        if delay == 0:
            task.cancel()
        else:
            self._loop.call_soon(self._cancel_in, delay - 1, task)


@contextmanager
def cancelled(name: str, delay: int = 0, nth: int = 1) -> Iterator[Canceller]:
    """Cancel the nth task whose coroutine has this name."""
    loop = asyncio.get_running_loop()
    canceller = Canceller(loop, name, delay, nth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "create_task", canceller.make)
        patch.setattr(background, "start", canceller.start)
        patch.setattr(background, "start_now", canceller.start_now)
        patch.setattr(Activation, "activate", lambda activation: canceller.activate(activation))
        yield canceller
