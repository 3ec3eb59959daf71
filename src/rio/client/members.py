"""The membership as a client knows it: read now and then, and at once when a server is missed."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from rio.client.access import ClusterAccess
from rio.contracts.membership import MembershipSnapshot
from rio.errors import RioError

logger = logging.getLogger("rio.client")


class MembersOwner(Protocol):
    """What a client does when its members have been read."""

    def follow_members(self, before: MembershipSnapshot) -> None:
        """The members have been read; ``before`` is what was known of them until now."""
        ...

    def send_waiting(self, failure: RioError | None) -> None:
        """Send the calls that wait for this read, which may have failed."""
        ...

    def relax(self) -> None:
        """Give back memory that was not needed since the last time."""
        ...


class Members:
    """Follows the membership of a cluster."""

    def __init__(self, access: ClusterAccess, owner: MembersOwner, refresh_interval: float) -> None:
        self.snapshot = MembershipSnapshot(0, 0)
        self._access = access
        self._owner = owner
        self._refresh_interval = refresh_interval
        self._following: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Read the membership, and follow it from now on.

        :raises StorageError: it cannot be read.
        """
        self.use(await self._access.read_members())
        self._following = asyncio.get_running_loop().create_task(
            self._follow(), name="rio client: follow the membership"
        )

    @property
    def is_followed(self) -> bool:
        return self._following is not None

    async def close(self) -> None:
        """Idempotent."""
        tasks = [task for task in (self._following, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._following = None

    def use(self, snapshot: MembershipSnapshot) -> None:
        """Take note of a membership that has been read; an older one than ours changes nothing."""
        before = self.snapshot
        if snapshot.version >= before.version:
            self.snapshot = snapshot
        self._owner.follow_members(before)

    def refresh_soon(self) -> asyncio.Task[None]:
        """Read the membership. Returns the task that does it."""
        refreshing = self._refreshing
        if refreshing is None:
            refreshing = self._refreshing = asyncio.get_running_loop().create_task(
                self._refresh(), name="rio client: read the membership"
            )
        return refreshing

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_interval)
            self._owner.relax()
            await asyncio.shield(self.refresh_soon())

    async def _refresh(self) -> None:
        try:
            self.use(await self._access.read_members())
        except RioError as error:
            logger.warning("the membership cannot be read: %s", error)
            self._owner.send_waiting(error)
        else:
            self._owner.send_waiting(None)
        finally:
            self._refreshing = None
