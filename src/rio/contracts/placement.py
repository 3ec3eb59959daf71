"""Where an object lives: the contract of the storage in which servers claim objects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from rio.contracts.role import Role
from rio.identity import ObjectId


class Placement(NamedTuple):
    """Who owns one object."""

    generation: int
    """The member that owns the object."""
    token: int
    """The fencing token of this ownership. Each successful claim gets a larger one than any
    before it.
    """


class ObjectPlacement(Role):
    """The contract of the storage in which members claim objects.

    A claim is one atomic step and needs no other table, so placement and membership may live in
    different back ends. To take an object over from an owner that has ended, a member names the
    token that it wants to replace: it has seen in a membership snapshot that the owner's status is
    terminal, which never changes. One of several claimants wins, and all of them learn the winner.

    Tokens grow over all objects, and outlive the placements: a token is the highest that was ever
    given out plus one, or the time of the storage's clock in microseconds since 1970, whichever is
    larger. So a placement that is not needed is deleted, and a storage that was restored to an
    older state still gives out tokens that are larger than those that it has forgotten.

    Every method may raise :class:`rio.errors.StorageUnavailable`, or
    :class:`rio.errors.RowCorrupt` where something stored is damaged. That never means "not placed",
    and after a write it is not known whether the write happened.
    """

    @abstractmethod
    async def claim(
        self, object_id: ObjectId, generation: int, *, supersede: int | None = None
    ) -> Placement:
        """Claim an object for the member ``generation``, and return the placement that stands
        afterwards, whoever owns it.

        The claim succeeds, with a new token, in three cases: nobody owns the object; ``generation``
        owns it already, so that a claim whose answer was lost can be repeated; its token is still
        ``supersede``. Otherwise nothing changes.
        """

    @abstractmethod
    async def lookup(self, object_id: ObjectId) -> Placement | None:
        """The placement of an object, or ``None`` if nobody owns it."""

    @abstractmethod
    async def release(self, object_id: ObjectId, token: int) -> bool:
        """Give an object up, and forget its placement, if it is still owned under ``token``.

        Returns ``False``, and changes nothing, if it is not.
        """

    @abstractmethod
    async def release_all(self, generation: int) -> int:
        """Forget the placements of a member that has ended, and return how many there were.

        Do this before the member itself is forgotten.
        """

    @abstractmethod
    async def owned_by(self, generation: int) -> Sequence[ObjectId]:
        """The objects that the member ``generation`` owns, in any order."""
