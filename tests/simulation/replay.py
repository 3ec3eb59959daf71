"""A virtual loop that notes each of its steps."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

from rio.testing import VirtualTimeLoop, current_host

T = TypeVar("T")


class NotingLoop(VirtualTimeLoop):
    """``steps`` are the time, the host and the code of all that ran.

    The same seed must give the same steps, byte for byte.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.steps = sha256()
        self.count = 0
        self.log: list[str] | None = None

    def _process_events(self, event_list: list[Any]) -> None:
        super()._process_events(event_list)
        for handle in self._ready:
            if not handle._cancelled:
                host = handle._context.run(current_host)
                step = f"{self.true_time()!r} {host!r} {code_of(handle._callback)}"
                self.steps.update(step.encode())
                self.count += 1
                if self.log is not None:
                    self.log.append(step)


def code_of(callback: Any) -> str:
    """Name a callback without its address."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coroutine: Any = owner.get_coro()
        return str(coroutine.__qualname__)
    return str(getattr(callback, "__qualname__", type(callback).__qualname__))


def run_noted(main: Coroutine[Any, Any, T], seed: int) -> tuple[str, T]:
    """Run to the end. Returns the hash of all steps, and the result."""
    with asyncio.Runner(loop_factory=partial(NotingLoop, seed)) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, NotingLoop)
        result = runner.run(main)
        return loop.steps.hexdigest(), result


if __name__ == "__main__":
    import logging
    import sys

    from tests.simulation.world import Settings, World

    logging.disable()
    seed, seconds = int(sys.argv[1]), float(sys.argv[2])
    print(run_noted(World(seed, Settings(seconds=seconds)).run(), seed)[0])
