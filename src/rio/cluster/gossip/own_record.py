"""What a member says about itself."""

from __future__ import annotations

from rio._core.gossip import Record
from rio.contracts.membership import MemberStatus

MAX_INCARNATION = 0xFFFF_FFFF


class OwnRecord:
    """The record of the member ``generation`` about itself, which no other member may change.

    Of two records of one member the one with the higher incarnation holds, and only the member
    itself raises its incarnation: to refute a suspicion, or to take back what another member has
    said in its name.
    """

    def __init__(self, generation: int, metadata: bytes) -> None:
        self.generation = generation
        self.incarnation = 0
        self.status = MemberStatus.JOINING
        self.metadata = metadata

    def record(self) -> Record:
        """The record under the present incarnation."""
        return Record(self.generation, *self._content(), ())

    def agrees_with(self, heard: Record) -> bool:
        """Whether a record that others pass on says the same, and suspects nothing."""
        return not heard.suspects and heard[1:4] == self._content()

    def raise_incarnation(self, above: int = 0) -> None:
        """Take an incarnation above the present one, and above one that was heard of."""
        self.incarnation = min(MAX_INCARNATION, max(self.incarnation, above) + 1)

    def _content(self) -> tuple[int, int, bytes]:
        return self.incarnation, min(self.status, MemberStatus.DRAINING), self.metadata
