"""Where an object comes to life while the members of the cluster run different versions."""

from __future__ import annotations

from collections.abc import Mapping

from rio._core.rendezvous import Ranking
from rio.cluster.manifest import Manifest, current_version
from rio.cluster.provider import ClusterProvider
from rio.contracts.membership import Member, MembershipSnapshot
from rio.identity import ObjectId
from rio.objects.system_messages import RESERVED_PREFIX


class Versions:
    """What the other members can do that this node cannot, and the other way round."""

    def __init__(self, cluster: ClusterProvider) -> None:
        self._cluster = cluster
        self._seen: tuple[MembershipSnapshot, Mapping[int, Manifest]] | None = None
        self._are_equal = True

    def choose_home(self, object_id: ObjectId, message_name: str) -> Member | None:
        """The member in which an object shall come to life to take a message; ``None``: in this
        node.

        It handles the message. Of those that do, the members of the current version come first; if
        this node is one of them, the object stays here. Otherwise all nodes choose the same member.
        """
        if self._all_are_equal():
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
        return any(
            self._handles(member, type_name, message_name)
            for member in self._cluster.snapshot.active
        )

    def _handles(self, member: Member, type_name: str, message_name: str) -> bool:
        manifest = self._cluster.manifests.get(member.generation)
        if manifest is None:
            return False
        if message_name.startswith(RESERVED_PREFIX):
            return type_name in manifest.types
        return manifest.handles(type_name, message_name)

    def _version(self, member: Member, type_name: str) -> str:
        return self._cluster.manifests[member.generation].version_of(type_name)

    def _all_are_equal(self) -> bool:
        """Whether all members run one version, as far as this node has read it."""
        snapshot, manifests = self._cluster.snapshot, self._cluster.manifests
        if self._seen is None or self._seen[0] is not snapshot or self._seen[1] is not manifests:
            told = [manifests.get(member.generation) for member in snapshot.active]
            own = manifests.get(self._cluster.generation)
            self._are_equal = all(
                manifest is own or (manifest and own and manifest.version == own.version)
                for manifest in told
                if manifest is not None
            )
            self._seen = snapshot, manifests
        return self._are_equal
