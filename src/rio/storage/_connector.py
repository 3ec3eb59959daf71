"""How long to try to connect to a database server, and when to stop trying for a while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from rio.errors import StorageUnavailable

WAIT_TIMEOUT = 2.0
"""Seconds to wait for a server that refuses connections, so that a quick restart is not noticed."""
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
    the errors of ``dial`` that may be over in a moment; all others are final.
    """

    def __init__(
        self, name: str, dial: Callable[[], Awaitable[Any]], temporary: tuple[type[Exception], ...]
    ) -> None:
        self._name = name
        self._dial = dial
        self._temporary = temporary
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
                return await self._dial()
            except self._temporary as error:
                pause = random.uniform(0.0, longest)
                if now() + pause > deadline:
                    self._paused_until = now() + PAUSE
                    raise StorageUnavailable(
                        f"{self._name}: it cannot be reached, nothing was done ({in_words(error)})"
                    ) from error
            await asyncio.sleep(pause)
            longest = min(2 * longest, LONGEST_RETRY)
