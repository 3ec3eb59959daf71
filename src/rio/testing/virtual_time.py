"""Asyncio under a virtual clock: hours of timers pass in milliseconds, and the same program always runs in the same order."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and jumps to the next timer as soon as nothing else is ready to run.

    It never waits and never looks at a socket, a thread or a real clock, so what runs under it must not need them. When every task waits
    and no timer is set, nothing could ever happen again: that raises ``RuntimeError`` in place of hanging.
    """

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jump.now


class _Jump(selectors.SelectSelector):
    """Where a loop would wait for its sockets, time passes instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits and no timer is set: nothing will ever happen again")
        self.now += max(0.0, timeout)
        return []


def run(main: Coroutine[Any, Any, T], /) -> T:
    """Run ``main`` on a fresh :class:`VirtualTimeLoop`, cancel what it left running, and return its result.

    Two runs of the same program take the same steps at the same virtual times; randomness is the program's own, from its own seed.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
