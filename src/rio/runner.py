"""How a program starts its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a coroutine to its end, as :func:`asyncio.run` does, on uvloop where that is installed:
    ``rio.run(main())``.

    No event loop policy is touched. Where a loop already runs (Jupyter), await the coroutine
    instead.

    :raises RuntimeError: an event loop already runs in this thread.
    """
    if _loop_runs():
        raise RuntimeError(
            "rio.run() cannot be called where an event loop already runs: await the coroutine "
            "instead"
        )
    with asyncio.Runner(debug=debug, loop_factory=_fastest_loop()) as runner:
        return runner.run(main)


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows, or left out on purpose
        return None
    return uvloop.new_event_loop
