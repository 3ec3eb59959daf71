"""A database that several roles share: it is open as long as at least one of them is."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from rio.errors import StorageClosed


class SharedDatabase(ABC):
    """Opened by the first of its roles and closed by the last."""

    def __init__(self) -> None:
        self._users = 0
        self._is_open = False
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def _open(self) -> None:
        """Connect, and create or check the schema."""

    @abstractmethod
    async def _close(self) -> None:
        """Finish what waits and disconnect."""

    async def join(self) -> None:
        """Open the database for one more role."""
        self._users += 1
        try:
            await self._settle()
        except BaseException:
            self._users -= 1
            if self._is_open:
                self._settle()
            raise

    async def leave(self) -> None:
        """Close the database if this role was the last."""
        self._users -= 1
        await self._settle()

    def _settle(self) -> asyncio.Future[None]:
        """Have the database opened or closed by a task of its own, so that cancelling a user leaves
        nothing half open.
        """
        task = asyncio.get_running_loop().create_task(self._open_or_close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def _open_or_close(self) -> None:
        async with self._changing:
            while bool(self._users) != self._is_open:
                await (self._close() if self._is_open else self._open())
                self._is_open = not self._is_open


class SharingRole:
    """A role whose database is open while it is."""

    def __init__(self, shared: SharedDatabase) -> None:
        self._shared = shared
        self._joined = False

    async def prepare(self) -> None:
        if self._joined:
            return
        await self._shared.join()
        if self._joined:  # another task was faster
            await self._shared.leave()
        self._joined = True

    async def close(self) -> None:
        if self._joined:
            self._joined = False
            await self._shared.leave()

    def _check_open(self) -> None:
        if not self._joined:
            raise StorageClosed(
                f"{type(self).__name__} is not open: call prepare() first, or use it in 'async with'"
            )
