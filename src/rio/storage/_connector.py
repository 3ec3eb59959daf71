"""How long to try to connect to a database server, and when to stop trying for a while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from rio import background
from rio.errors import StorageUnavailable

WAIT_TIMEOUT = 2.0
"""Seconds to wait for a server that refuses connections, so that a quick restart is not noticed."""
CONNECT_TIMEOUT = 10.0
"""Seconds for one attempt to connect. With TLS and a password it takes seven round trips, and some
networks need a second for each.
"""
HANGING = 2.0
"""Seconds after which an attempt may hang for ever, so that another one is made beside it."""
MOST_ATTEMPTS = 3
"""Attempts at the same time."""
LINE_TIMEOUT = 10.0
"""Seconds that an operation may wait until it is sent: a connection may have to be made first."""
PAUSE = 1.0
"""Seconds without an attempt after that wait, so that operations fail at once and do not pile up.
"""
FIRST_RETRY = 0.02
"""Seconds before the second attempt, at most; doubled with each further attempt."""
LONGEST_RETRY = 0.25


def in_words(error: BaseException) -> str:
    """What an error says, without its class: drivers hide the cause behind classes of theirs."""
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer in time"
    return str(error).rstrip(".") or type(error).__name__


class Connector:
    """Makes connections to one server.

    ``name``: what to call the server in error texts. ``dial``: makes one attempt. ``temporary``:
    the errors of ``dial`` that may be over in a moment, ``OSError`` among them; all others are
    final. ``drop``: closes a connection that nobody needs, without waiting for the server.
    """

    def __init__(
        self,
        name: str,
        dial: Callable[[], Coroutine[Any, Any, Any]],
        temporary: tuple[type[Exception], ...],
        drop: Callable[[Any], Awaitable[None]],
    ) -> None:
        self._name = name
        self._dial = dial
        self._temporary = temporary
        self._drop = drop
        self._paused_until = 0.0

    async def connect(self) -> Any:
        """A new connection.

        :raises StorageUnavailable: there is none, after several attempts or at once. Nothing was
            sent.
        """
        now = asyncio.get_running_loop().time
        if now() < self._paused_until:
            raise StorageUnavailable(
                f"{self._name}: it could not be reached a moment ago, nothing was done"
            )
        deadline, longest = now() + WAIT_TIMEOUT, FIRST_RETRY
        while True:
            try:
                return await self._try()
            except self._temporary as error:
                pause = random.uniform(0.0, longest)
                if now() + pause > deadline:
                    self._paused_until = now() + PAUSE
                    raise StorageUnavailable(
                        f"{self._name}: it cannot be reached, nothing was done ({in_words(error)})"
                    ) from error
            await asyncio.sleep(pause)
            longest = min(2 * longest, LONGEST_RETRY)

    async def _try(self) -> Any:
        """Make an attempt, and others beside it while it seems to hang: what was lost on the way
        must not hold up whoever waits after the network is whole again. The first one to end
        decides.
        """
        attempts: list[asyncio.Task[Any]] = []
        done: set[asyncio.Task[Any]] = set()
        try:
            while not done:
                attempts.append(background.start(self._dial()))
                timeout = HANGING if len(attempts) < MOST_ATTEMPTS else None
                done, _ = await asyncio.wait(
                    attempts, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
            first = next(attempt for attempt in attempts if attempt in done)
            attempts.remove(first)
        finally:
            if attempts:
                await self._end(attempts)
        if first.cancelled():
            raise ConnectionError("the attempt was cancelled")
        return first.result()

    async def _end(self, attempts: list[asyncio.Task[Any]]) -> None:
        for attempt in attempts:
            attempt.cancel()
        await asyncio.wait(attempts)
        for attempt in attempts:
            if not attempt.cancelled() and attempt.exception() is None:
                await self._drop(attempt.result())
