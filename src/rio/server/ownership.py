"""Which node owns an object: claim it, take it over from a dead member, redirect, release."""

from __future__ import annotations

from rio.cluster.provider import ClusterProvider
from rio.contracts.membership import Member
from rio.contracts.placement import ObjectPlacement, Placement
from rio.errors import NodeEvicted, Redirected, StorageError, Unavailable
from rio.identity import ObjectId
from rio.logs import Logger
from rio.server.versions import Versions
from rio.transport.protocol import text_of

logger = Logger("rio.server")


class Ownership:
    """Claims objects for this node, and gives them back."""

    def __init__(
        self, placement: ObjectPlacement, cluster: ClusterProvider, versions: Versions
    ) -> None:
        self._placement = placement
        self._cluster = cluster
        self._history = placement.history
        self._versions = versions
        self._successors: dict[ObjectId, Member] = {}
        """The members to which objects go that leave."""

    @property
    def history_changed(self) -> bool:
        """Whether the placements may lack what they held: see :attr:`Role.history`."""
        return self._placement.history != self._history

    def accept_history(self) -> None:
        """Trust the placements as they are now."""
        self._history = self._placement.history

    async def claim(self, object_id: ObjectId, message_name: str) -> int:
        """Make this node the owner of an object that is to take a message, and return the fencing
        token of the claim.

        An owner that is known to be gone is superseded. If another member is a better home for the
        object, it becomes the owner.

        :raises Redirected: another member owns the object.
        :raises Unavailable: the storage did not answer, or the owner is not known here yet.
        """
        self._successors.pop(object_id, None)
        try:
            placement = await self._placement.claim(object_id, self._cluster.generation)
            if placement.generation != self._cluster.generation:
                placement = await self._supersede(object_id, placement)
            home = self._versions.choose_home(object_id, message_name)
            if home is not None and placement.generation == self._cluster.generation:
                placement = await self._hand_over(object_id, placement.token, home)
        except (StorageError, NodeEvicted) as error:
            raise Unavailable(f"{object_id} could not be claimed: {text_of(error)}") from error
        if self._placement.history != self._history:
            # What another node has claimed may be free here.
            raise Unavailable(
                f"{object_id} was not activated: another server of the placements has taken over,"
                " and this node first looks which objects it still owns"
            )
        if placement.generation != self._cluster.generation:
            raise self._redirect(object_id, placement)
        return placement.token

    async def still_owns(self, object_id: ObjectId, token: int) -> bool:
        """Whether the claim of an object is still there, or a newer one of this node.

        :raises StorageError: the placements did not answer.
        """
        placement = await self._placement.lookup(object_id)
        return (
            placement is not None
            and placement.generation == self._cluster.generation
            and placement.token >= token
        )

    async def check_elsewhere(self, object_id: ObjectId) -> None:
        """Make sure that no other member has an object in memory. This reads, and claims nothing.

        :raises Redirected: another member owns the object, and may have it.
        :raises Unavailable: the storage did not answer, or the owner is not known here yet.
        """
        try:
            placement = await self._placement.lookup(object_id)
            if placement is None or placement.generation == self._cluster.generation:
                return
            if await self._is_gone(placement.generation):
                return
        except (StorageError, NodeEvicted) as error:
            raise Unavailable(f"{object_id} could not be looked up: {text_of(error)}") from error
        raise self._redirect(object_id, placement)

    async def release(self, object_id: ObjectId, token: int) -> None:
        """Give an object back, or to its successor, if it is still held under ``token``.

        A storage that fails is only logged: the object stays with this node, which activates it
        again when it is called, until the node leaves the cluster.
        """
        successor = self._successors.pop(object_id, None)
        try:
            if successor is None or self._cluster.snapshot.find(successor.generation) is None:
                await self._placement.release(object_id, token)
            else:
                await self._hand_over(object_id, token, successor)
        except StorageError as error:
            logger.warning("%s stays claimed by this node: %s", object_id, error)

    def find_successor(self, object_id: ObjectId, message_name: str) -> Member | None:
        """The member that handles a message which this node does not know. When the object leaves
        this node, that member owns it.
        """
        successor = self._versions.choose_home(object_id, message_name)
        if successor is not None:
            self._successors[object_id] = successor
        return successor

    async def _hand_over(self, object_id: ObjectId, token: int, member: Member) -> Placement:
        """Make another member the owner, and return the placement that stands.

        This is a compare-and-set on our own claim, so an object that lives in that member already
        is not fenced.
        """
        return await self._placement.claim(object_id, member.generation, supersede=token)

    async def _supersede(self, object_id: ObjectId, placement: Placement) -> Placement:
        """Claim an object of a member that is known to be gone. Returns the placement that stands
        at the end.
        """
        own = self._cluster.generation
        while placement.generation != own and await self._is_gone(placement.generation):
            standing = placement
            placement = await self._placement.claim(object_id, own, supersede=standing.token)
            if placement == standing:
                raise Unavailable(
                    f"{object_id} could not be taken over from member {standing.generation}"
                )
        return placement

    async def _is_gone(self, generation: int) -> bool:
        status = self._cluster.snapshot.status_of(generation)
        if status is None:
            status = (await self._cluster.refresh()).status_of(generation)
        return status is not None and status.terminal

    def _redirect(self, object_id: ObjectId, placement: Placement) -> Redirected | Unavailable:
        generation = placement.generation
        owner = self._cluster.snapshot.find(generation)
        if owner is None:
            return Unavailable(
                f"{object_id} belongs to member {generation}, which is not known here yet"
            )
        return Redirected(
            f"{object_id} lives on {owner.address}", [owner.address, owner.generation]
        )
