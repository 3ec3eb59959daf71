"""The signals that stop a server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rio.logs import Logger

logger = Logger("rio.server")

STOP = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals(
    stop: Callable[[], object], at_once: Callable[[], object] | None = None
) -> Iterator[None]:
    """Have the first SIGTERM or SIGINT call ``stop`` in a turn of the event loop. A second one, of
    either kind, ends the process, also while its loop is blocked: the system does that.

    ``at_once``: called by the first signal itself, also while the loop is blocked, and before a
    second one can end the process.

    In another thread than the main one, the program that runs the loop handles the signals.
    """
    loop = asyncio.get_running_loop()

    def note(number: int) -> None:
        logger.info("%s received", signal.Signals(number).name)
        stop()

    def take_first(number: int, frame: FrameType | None) -> None:
        if at_once is not None:
            at_once()
        for each in STOP:
            signal.signal(each, signal.SIG_DFL)
        loop.call_soon_threadsafe(note, number)

    before = {}
    try:
        for number in STOP:
            before[number] = signal.signal(number, take_first)
    except ValueError:  # this is not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
