"""How a node compares its live objects with what the storage holds, which may have gone back in
time.

A restore and a late standby lose what came last. So of all claims of a node the newest is lost
first, and one look at that finds out whether any is.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from rio.cluster.doubt import Audit
from rio.cluster.storage_calls import StorageCalls
from rio.contracts.state import StateStorage
from rio.server.activation import Activation
from rio.server.catalog import Catalog
from rio.server.ownership import Ownership

BATCH = 256
"""Objects that are compared at the same time."""
NEWEST = 64
"""Objects of a type, the ones that came last, of which one has the newest claim: so many may be
activated at the same time.
"""


class LiveObjects(Audit):
    """The audit of a server.

    ``storage_timeout``: seconds that one look may take, even where a driver ignores timeouts.
    """

    def __init__(
        self,
        catalog: Catalog,
        ownership: Ownership,
        state: StateStorage,
        *,
        storage_timeout: float,
    ) -> None:
        self._catalog = catalog
        self._ownership = ownership
        self._state = state
        self._calls = StorageCalls(storage_timeout)
        self._history = ""

    def accept_histories(self) -> None:
        """From now on, only another change of a storage's history is a loss."""
        self._ownership.accept_history()
        self._history = self._state.history

    async def find_loss(self) -> str:
        if self._ownership.history_changed or self._state.history != self._history:
            return "another database server has taken over"
        newest = max(self._candidates(), key=lambda activation: activation.token, default=None)
        if newest is None or await self._stands(newest):
            return ""
        return f"the claim of {newest.object_id} is gone"

    async def drop_what_was_lost(self) -> None:
        self.accept_histories()
        live = [mailbox for mailbox in self._catalog.dispatcher.mailboxes() if _is_live(mailbox)]
        for start in range(0, len(live), BATCH):
            await asyncio.gather(*map(self._check, live[start : start + BATCH]))

    def _candidates(self) -> list[Activation]:
        return [
            mailbox
            for table in self._catalog.dispatcher.tables.values()
            for mailbox in islice(reversed(table.mailboxes.values()), NEWEST)
            if _is_live(mailbox)
        ]

    async def _check(self, activation: Activation) -> None:
        if not await self._stands(activation):
            activation.drop(superseded=True)

    async def _stands(self, activation: Activation) -> bool:
        """Whether the claim is still there, or does not matter any more."""
        token = activation.token
        standing = await self._calls.run(self._ownership.still_owns(activation.object_id, token))
        return standing or not (_is_live(activation) and activation.token == token)


def _is_live(activation: Activation) -> bool:
    """Whether an object takes turns. One that comes or leaves settles its claim itself."""
    return activation.open and not activation.closing
