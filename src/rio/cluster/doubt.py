"""What a node does while its storage may have forgotten something: a database was restored, or a
standby that lacks the newest writes has taken over.

Another node may own by then what this one has in memory. So the node pauses for as long as the
others may need to notice the same, or to lose their leases. Then it looks at each of its objects,
drops those that the storage knows otherwise, and goes on.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod

from rio._core.clock import Clock


class Audit(ABC):
    """How a node compares its live objects with what the storage holds."""

    @abstractmethod
    async def find_loss(self) -> str:
        """What the storage has forgotten that concerns this node, or an empty string.

        :raises StorageError: a storage did not answer, so nothing is known.
        """

    @abstractmethod
    async def drop_what_was_lost(self) -> None:
        """Drop the live objects that the storage does not hold as this node does. No turn runs.

        :raises StorageError: a storage did not answer; the call is to be repeated.
        """


class NothingToLose(Audit):
    """The audit of a node without objects."""

    async def find_loss(self) -> str:
        return ""

    async def drop_what_was_lost(self) -> None: ...


class Doubt:
    """Stands from the moment it is raised until the audit that begins ``patience`` seconds later.

    ``patience``: ``lease_evict``, after which every other node has noticed or lost its lease.
    """

    def __init__(self, clock: Clock, patience: float) -> None:
        self._clock = clock
        self.patience = patience
        """Seconds between the beginning of a doubt and its audit."""
        self._since = -math.inf
        self._raised = asyncio.Event()

    @property
    def stands(self) -> bool:
        return self._raised.is_set()

    def rise(self) -> None:
        self._since = self._clock()
        self._raised.set()

    async def due(self) -> float:
        """Wait until a doubt stands and the patience is over; returns what :meth:`end` takes."""
        await self._raised.wait()
        since = self._since
        await asyncio.sleep(max(0.0, since + self.patience - self._clock()))
        return since

    def end(self, since: float) -> bool:
        """End the doubt after an audit, unless it was raised once more meanwhile."""
        if self._since == since:
            self._raised.clear()
        return not self.stands
