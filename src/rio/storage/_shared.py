"""A database that several roles share."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from rio.storage._migrations import SchemaStatus
from rio.storage._openable import Openable


class SharedDatabase(ABC):
    """A database that its first role opens and its last role closes.

    Databases are public, so what is only for their roles begins with an underscore.
    """

    def __init__(self) -> None:
        self._creates = True
        """Whether opening it makes its tables, and its file, if there are none."""
        self._users = 0
        self._is_open = False
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def _history(self) -> str:
        """See :attr:`rio.contracts.Role.history`."""
        return ""

    @abstractmethod
    async def _open(self) -> None:
        """Connect, and create or check the schema."""

    @abstractmethod
    async def _read_schema_status(self) -> SchemaStatus:
        """How the tables stand to those of this ``rio``. The database need not be open.

        :raises StorageUnavailable: the database did not answer, or there is none.
        """

    @abstractmethod
    async def _migrate(self) -> None:
        """Do the migrations that the tables need. The database need not be open.

        :raises SchemaMismatch: a server has not ended, or a newer ``rio`` made the tables.
        :raises StorageUnavailable: it is not known how far the migration came.
        """

    @abstractmethod
    async def _close(self) -> None:
        """Finish the operations that wait, and disconnect."""

    async def _join(self) -> None:
        """Open the database for one more role."""
        self._users += 1
        try:
            await self._settle()
        except BaseException:
            self._users -= 1
            if self._is_open:
                self._settle()
            raise

    async def _leave(self) -> None:
        """Close the database if this role was the last."""
        self._users -= 1
        await self._settle()

    def _settle(self) -> asyncio.Future[None]:
        """Have a task open or close the database, so that a caller who is cancelled leaves nothing
        half open.
        """
        task = asyncio.get_running_loop().create_task(self._open_or_close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def _open_or_close(self) -> None:
        async with self._changing:
            while bool(self._users) != self._is_open:
                if self._is_open:
                    self._is_open = False  # also if closing it fails: it cannot be used any more
                    await self._close()
                else:
                    if not self._creates:
                        (await self._read_schema_status()).check_found()
                    await self._open()
                    self._is_open = True


class DatabaseRole(Openable):
    """A role on a shared database, which is open as long as one of its roles is."""

    def __init__(self, shared: SharedDatabase) -> None:
        self._shared = shared

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shared!r})"

    @property
    def history(self) -> str:
        """What tells the database servers apart that take over from one another."""
        return self._shared._history

    async def prepare(self) -> None:
        """Open the database if no other role of it has done so. Idempotent.

        :raises StorageUnavailable: the database did not answer.
        :raises SchemaMismatch: another version of ``rio`` made its tables.
        :raises ConfigurationError: the database refuses its settings.
        """
        if self._is_open:
            return
        await self._shared._join()
        if self._is_open:  # another task was faster
            await self._shared._leave()
        self._is_open = True

    async def close(self) -> None:
        """Close the database if no other role of it is open. Idempotent."""
        if self._is_open:
            self._is_open = False
            await self._shared._leave()
