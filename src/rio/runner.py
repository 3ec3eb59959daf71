"""How a program starts its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a coroutine to its end and return its result, on uvloop if uvloop is installed.

    Write ``rio.run(main())`` where you would write ``asyncio.run(main())``. It does not touch the
    event loop policy. ``debug`` turns asyncio's debug mode on or off; ``None`` leaves it as it is.

    :raises RuntimeError: an event loop already runs in this thread, as in Jupyter. Await the
        coroutine there instead.
    """
    if _is_loop_running():
        raise RuntimeError(
            "rio.run() cannot be called where an event loop already runs:"
            " await the coroutine instead"
        )
    with asyncio.Runner(debug=debug, loop_factory=_find_loop_factory()) as runner:
        return runner.run(main)


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _find_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, or ``None`` for asyncio's own loop."""
    try:
        import uvloop
    except ImportError:  # on Windows, or where the user did not install it
        return None
    return uvloop.new_event_loop
