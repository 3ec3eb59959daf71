"""Where an object lives: the contract of the storage in which nodes claim objects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from rio.contracts.role import Role
from rio.identity import ObjectId


class Placement(NamedTuple):
    """One object's row."""

    generation: int | None
    """The member that owns the object; ``None`` once it was released."""
    token: int
    """The fencing token of this ownership: each successful claim gets a larger one than any before
    it.
    """


class ObjectPlacement(Role):
    """The contract. Every method may raise :class:`rio.errors.StorageUnavailable`, which never
    means "not placed".

    A claim is one atomic statement and needs no other table, so that placement and membership may
    live in different back ends. Taking an object over from a dead owner is a compare-and-set on the
    dead owner's token: the claimant has seen in a membership snapshot that the owner is terminal,
    which is for ever, and names the token that it wants to replace. Of several claimants one wins,
    and all learn who.
    """

    @abstractmethod
    async def claim(
        self, object_id: ObjectId, generation: int, *, supersede: int | None = None
    ) -> Placement:
        """Claim an object for a member, and return the placement that stands afterwards, whoever
        owns it.

        The claim succeeds, with a new token, if nobody owns the object, if ``generation`` owns it
        already (so a claim whose answer was lost can simply be repeated), or if its token is still
        ``supersede``. Otherwise the row is left as it is.
        """

    @abstractmethod
    async def lookup(self, object_id: ObjectId) -> Placement | None:
        """The row, or ``None`` if the object was never claimed."""

    @abstractmethod
    async def release(self, object_id: ObjectId, token: int) -> bool:
        """Give an object up if it is still held under ``token``.

        ``False`` if it is not, which changes nothing.
        """

    @abstractmethod
    async def owned_by(self, generation: int) -> Sequence[ObjectId]:
        """The objects that a member owns."""
