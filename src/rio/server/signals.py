"""The signals that stop a server."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger("rio.server")


@contextmanager
def stop_signals(request_stop: Callable[[], None], address: str) -> Iterator[None]:
    """Have SIGTERM and SIGINT ask the server at ``address`` to stop. A second signal ends the
    process at once.

    Where a loop cannot handle signals, in another thread or on another platform, the program that
    runs it handles them.
    """
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        logger.info("%s received: %s drains", signal.Signals(number).name, address)
        request_stop()
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)

    installed = []
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop, number)
        except (NotImplementedError, RuntimeError, ValueError):
            continue
        installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)
