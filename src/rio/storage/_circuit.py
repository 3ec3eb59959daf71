"""How long to knock at the door of a database server that does not open, and when to stop knocking
for a while.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from rio.errors import StorageUnavailable

WAIT_TIMEOUT = 2.0
"""Seconds to wait for a server that refuses connections, so that nobody notices when it is only
restarted.
"""
PAUSE = 1.0
"""Seconds in which nobody tries again after that, so that what needs the server fails at once and
does not pile up.
"""
FIRST_RETRY = 0.02
LONGEST_RETRY = 0.25


class Circuit:
    """The way to a server.

    ``dial`` makes a connection; what it raises of ``not_now`` may be over in a moment, all else is
    final.
    """

    def __init__(
        self, where: str, dial: Callable[[], Awaitable[Any]], not_now: tuple[type[Exception], ...]
    ) -> None:
        self._where = where
        self._dial = dial
        self._not_now = not_now
        self._open_until = 0.0

    async def connect(self) -> Any:
        """A new connection.

        :raises StorageUnavailable: there is none, after some attempts or at once; nothing was sent.
        """
        now = asyncio.get_running_loop().time
        if now() < self._open_until:
            raise StorageUnavailable(
                f"{self._where}: it could not be reached a moment ago, nothing was done"
            )
        deadline, longest = now() + WAIT_TIMEOUT, FIRST_RETRY
        while True:
            try:
                return await self._dial()
            except self._not_now as error:
                pause = random.uniform(0.0, longest)
                if now() + pause > deadline:
                    self._open_until = now() + PAUSE
                    raise StorageUnavailable(
                        f"{self._where}: it cannot be reached, nothing was done ({error!r})"
                    ) from error
            await asyncio.sleep(pause)
            longest = min(2 * longest, LONGEST_RETRY)
