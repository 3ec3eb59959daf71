"""Where an object comes to life while the members of the cluster run different versions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from rio import background
from rio._core.rendezvous import Ranking
from rio.cluster.manifest import Manifest, current_version
from rio.cluster.provider import ClusterProvider
from rio.contracts.membership import Member, MembershipSnapshot
from rio.errors import NodeEvicted, StorageError
from rio.identity import ObjectId
from rio.logs import Logger
from rio.objects.system_messages import RESERVED_PREFIX

logger = Logger("rio.server")

LOOK_INTERVAL = 0.1
"""Seconds between two reads of what the members handle, at least."""
FRESH = 0.5
"""Seconds for which a read can decide: later a member may have joined that it did not see."""
MOST_DOUBTS = 1000
"""Unknown messages that are remembered at a time."""


class Versions:
    """What the other members can do that this node cannot, and the other way round."""

    def __init__(self, cluster: ClusterProvider) -> None:
        self._cluster = cluster
        self._seen: tuple[MembershipSnapshot, Mapping[int, Manifest]] | None = None
        self._are_equal = True
        self._doubts: dict[tuple[str, str], int] = {}
        """Each message that seems to be unknown to all, with the number of the read that decides
        whether it is: one that begins after the message was first asked for.
        """
        self._reads_begun = 0
        self._reads_done = 0
        self._read_began = 0.0
        """When the last read began that was done, by the clock of the event loop."""
        self._reading: asyncio.Task[None] | None = None

    def choose_home(self, object_id: ObjectId, message_name: str) -> Member | None:
        """The member in which an object shall come to life to take a message; ``None``: in this
        node.

        It handles the message. Of those that do, the members of the current version come first; if
        this node is one of them, the object stays here. Otherwise all nodes choose the same member.
        """
        snapshot, manifests = self._cluster.snapshot, self._cluster.manifests
        seen = self._seen
        if seen is None or seen[0] is not snapshot or seen[1] is not manifests:
            self._look(snapshot, manifests)
        if self._are_equal:
            return None
        able = [
            member
            for member in self._cluster.snapshot.active
            if self._handles(member, object_id.type_name, message_name)
        ]
        current = current_version(
            object_id.type_name, self._cluster.snapshot, self._cluster.manifests
        )
        best = [
            member for member in able if self._version(member, object_id.type_name) == current
        ] or able
        if not best or any(member.generation == self._cluster.generation for member in best):
            return None
        ranking = Ranking([member.address for member in best])
        return best[ranking.choose(str(object_id), 0)]

    def is_handled(self, type_name: str, message_name: str) -> bool:
        """Whether an active member handles a message."""
        handled = any(
            self._handles(member, type_name, message_name)
            for member in self._cluster.snapshot.active
        )
        if handled:
            self._doubts.pop((type_name, message_name), None)
        return handled

    def is_unknown(self, type_name: str, message_name: str) -> bool:
        """Whether surely no member handles a message. At first nothing is sure: a member that does
        may just have joined, so the node reads what the members handle.
        """
        key = (type_name, message_name)
        deciding = self._doubts.get(key, math.inf)
        is_fresh = self._reads_done >= deciding and self._now() - self._read_began < FRESH
        if is_fresh and self._knows_all():
            del self._doubts[key]
            return True
        is_pending = self._reads_done < deciding < math.inf
        if not is_pending:  # it is new, or its call did not come back
            if len(self._doubts) >= MOST_DOUBTS:
                self._doubts.clear()
            self._doubts[key] = self._reads_begun + 1
        if self._reading is None:
            self._reads_begun += 1
            self._reading = background.start(self._read(), "read what the members handle")
            self._reading.add_done_callback(self._note_end)
        return False

    def _knows_all(self) -> bool:
        """Whether this node has read what each active member handles."""
        manifests = self._cluster.manifests
        return all(member.generation in manifests for member in self._cluster.snapshot.active)

    async def _read(self) -> None:
        number, began = self._reads_begun, self._now()
        try:
            await self._cluster.read_manifests()
        except (StorageError, NodeEvicted) as error:
            logger.warning("what the members handle cannot be read: %s", error)
        else:
            self._reads_done, self._read_began = number, began
        await asyncio.sleep(LOOK_INTERVAL)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s failed", task.get_name(), exc_info=task.exception())

    async def close(self) -> None:
        """Idempotent."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))

    def _handles(self, member: Member, type_name: str, message_name: str) -> bool:
        manifest = self._cluster.manifests.get(member.generation)
        if manifest is None:
            return False
        if message_name.startswith(RESERVED_PREFIX):
            return type_name in manifest.types
        return manifest.handles(type_name, message_name)

    def _version(self, member: Member, type_name: str) -> str:
        return self._cluster.manifests[member.generation].version_of(type_name)

    def _look(self, snapshot: MembershipSnapshot, manifests: Mapping[int, Manifest]) -> None:
        """Note whether all members run one version, as far as this node has read it."""
        told = [manifests.get(member.generation) for member in snapshot.active]
        own = manifests.get(self._cluster.generation)
        self._are_equal = all(
            manifest is own or (manifest and own and manifest.version == own.version)
            for manifest in told
            if manifest is not None
        )
        self._seen = snapshot, manifests
