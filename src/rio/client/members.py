"""The membership as a client knows it: read now and then, and at once when a server is missed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from rio import background
from rio.client import retry
from rio.client.access import ClusterAccess
from rio.contracts.membership import MembershipSnapshot
from rio.errors import RioError, StorageUnavailable
from rio.logs import Logger

if TYPE_CHECKING:
    import random

logger = Logger("rio.client")

REPEAT_DELAY = 0.1
"""Seconds after which the membership is read again if the task that read it was cancelled."""


READ_TIMEOUT = 15.0
"""Seconds after which a read counts as failed; a storage has a shorter limit of its own."""


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

    def __init__(
        self,
        access: ClusterAccess,
        owner: MembersOwner,
        refresh_interval: float,
        rng: random.Random,
    ) -> None:
        self.snapshot = MembershipSnapshot(0, 0)
        self._access = access
        self._owner = owner
        self._refresh_interval = refresh_interval
        self._rng = rng
        self._misses = 0
        """How many reads in a row have found no server for calls that wait."""
        self._timer: asyncio.TimerHandle | None = None
        """When the membership is read next; ``None`` while nobody follows it."""
        self._refreshing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Read the membership, and follow it from now on.

        :raises StorageError: it cannot be read.
        """
        self.use(await self._read())
        self._read_in(self._refresh_interval)

    @property
    def is_followed(self) -> bool:
        return self._timer is not None

    def rest(self) -> None:
        """Read the membership no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def close(self) -> None:
        """Idempotent."""
        self.rest()
        refreshing, self._refreshing = self._refreshing, None
        if refreshing is not None:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)

    def use(self, snapshot: MembershipSnapshot) -> None:
        """Take note of a membership that has been read.

        The last read counts, whatever its version: a lower one, or another cluster's id, means that
        the storage was restored or made anew. The client decides nothing for good by what it reads,
        so a read from a server that lags behind does no harm either.
        """
        before, self.snapshot = self.snapshot, snapshot
        self._owner.follow_members(before)

    def refresh_soon(self) -> asyncio.Task[None]:
        """Read the membership. Returns the task that does it."""
        refreshing = self._refreshing
        if refreshing is None or refreshing.done():
            refreshing = self._refreshing = background.start(
                self._refresh(), "rio client: read the membership"
            )
            refreshing.add_done_callback(self._repeat_if_cancelled)
        return refreshing

    def note_need(self, *, unmet: bool) -> None:
        """Read again soon, and then less and less often, while calls wait that found no server."""
        self._misses = self._misses + 1 if unmet else 0
        if unmet and self.is_followed:
            delay = retry.delay(self._misses, self._rng)
            self._read_in(min(delay, self._refresh_interval))

    def _read_in(self, seconds: float) -> None:
        """Read the membership then. A timer waits, not a task, because a task can be cancelled."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._follow)

    def _follow(self) -> None:
        self._read_in(self._refresh_interval)
        self._owner.relax()
        self.refresh_soon()

    async def _read(self) -> MembershipSnapshot:
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                return await self._access.read_members()
        except TimeoutError as error:
            raise StorageUnavailable(f"no answer within {READ_TIMEOUT} seconds") from error

    async def _refresh(self) -> None:
        try:
            self.use(await self._read())
        except RioError as error:
            if self._misses < 2:  # else it is read often, and this has been said
                logger.warning("the membership cannot be read: %s", error)
            self._owner.send_waiting(error)
        except Exception as error:  # a storage may raise anything, and calls wait for the news
            logger.exception("the membership cannot be read")
            self._owner.send_waiting(StorageUnavailable(f"{type(error).__name__}: {error}"))
        else:
            self._owner.send_waiting(None)

    def _repeat_if_cancelled(self, task: asyncio.Task[None]) -> None:
        """Read again if somebody else cancelled the task: calls wait for what it was to read. This
        is a callback, because a task that is cancelled before its first step runs none of its code.
        """
        if task is self._refreshing:
            self._refreshing = None
            if task.cancelled() and self.is_followed:
                self._read_in(REPEAT_DELAY)
