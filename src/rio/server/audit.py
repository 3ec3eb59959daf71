"""How a node compares its live objects with what the storage holds, which may have gone back in
time.

A restore loses what came last. So of all claims that a node had when it last looked the newest is
lost first, and one question finds out whether any is. Claims that came since may have been made
after the restore, so they say nothing about the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from operator import attrgetter

from rio.cluster.doubt import Audit
from rio.cluster.storage_calls import StorageCalls
from rio.contracts.state import StateStorage
from rio.server import states
from rio.server.activation import Activation
from rio.server.catalog import Catalog
from rio.server.ownership import Ownership

BATCH = 256
"""Objects that are compared at the same time."""
SAMPLE = 64
"""Claims that are looked at of those that came since the last look. Also the objects of a type that
are compared to find the newest of the older claims: so many may be activated at the same time.
"""

_token = attrgetter("token")


class LiveObjects(Audit):
    """The audit of a server.

    ``storage_timeout``: seconds that one look may take, even where a driver ignores timeouts.
    """

    def __init__(
        self,
        catalog: Catalog,
        ownership: Ownership,
        state_storages: Sequence[StateStorage],
        *,
        storage_timeout: float,
    ) -> None:
        self._catalog = catalog
        self._ownership = ownership
        self._state_storages = state_storages
        self._calls = StorageCalls(storage_timeout)
        self._histories: list[str] = []
        self._looked_at = 0
        """The newest claim of the last look."""

    def accept_histories(self) -> None:
        """From now on, only another change of a storage's history is a loss."""
        self._ownership.accept_history()
        self._histories = self._read_histories()

    async def find_loss(self) -> str:
        if self._ownership.history_changed or self._read_histories() != self._histories:
            return "another database server has taken over"
        suspects = self._suspects()
        stand = await asyncio.gather(*map(self._stands, suspects))
        for activation, stands in zip(suspects, stand, strict=True):
            if not stands:
                return f"the claim of {activation.object_id} is gone"
        self._looked_at = max((each.token for each in suspects), default=self._looked_at)
        return ""

    async def drop_what_was_lost(self) -> None:
        self.accept_histories()
        live = [mailbox for mailbox in self._catalog.dispatcher.mailboxes() if _is_live(mailbox)]
        for start in range(0, len(live), BATCH):
            await asyncio.gather(*map(self._check, live[start : start + BATCH]))

    def _read_histories(self) -> list[str]:
        return [storage.history for storage in self._state_storages]

    def _suspects(self) -> list[Activation]:
        """The newest of the claims that were there at the last look, and some of those since."""
        older: list[Activation] = []
        newer: list[Activation] = []
        for table in self._catalog.dispatcher.tables.values():
            seen = len(older)
            for activation in reversed(table.mailboxes.values()):
                if activation.open and not activation.closing:
                    (newer if activation.token > self._looked_at else older).append(activation)
                if len(older) == seen + SAMPLE:
                    break
        newer.sort(key=_token)
        sample = newer[:: -1 - len(newer) // SAMPLE]  # with the newest among them
        return [*sample, *([max(older, key=_token)] if older else [])]

    async def _check(self, activation: Activation) -> None:
        stands = await self._stands(activation) and await self._is_current(activation)
        if not stands:
            activation.drop(superseded=True)

    async def _is_current(self, activation: Activation) -> bool:
        """Whether the object remembers what is stored: it may have saved what is lost now."""
        return not _is_live(activation) or await self._calls.run(states.are_current(activation))

    async def _stands(self, activation: Activation) -> bool:
        """Whether the claim is still there, or does not matter any more."""
        token = activation.token
        standing = await self._calls.run(self._ownership.still_owns(activation.object_id, token))
        return standing or not (_is_live(activation) and activation.token == token)


def _is_live(activation: Activation) -> bool:
    """Whether an object takes turns. One that comes or leaves settles its claim itself."""
    return activation.open and not activation.closing
