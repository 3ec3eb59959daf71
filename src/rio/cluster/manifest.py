"""What a member tells about itself: its version, its labels, and what its objects handle.

A member stores its manifest when it registers. The others read it once, when a snapshot of the
membership shows a digest that they do not know: equal members have equal digests, so nothing is
read twice. ``ClusterProvider.manifests`` has those of the members that have not ended::

    for member in provider.snapshot.active:
        manifest = provider.manifests.get(member.generation)
        if manifest is not None and manifest.handles("Account", "Close"):
            ...                                    # a call of this message may go to this member
    newest = current_version("Account", provider.snapshot, provider.manifests)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from rio.contracts.membership import MAX_MANIFEST_BYTES, Member, MembershipSnapshot
from rio.errors import ConfigurationError
from rio.objects.registry import RegisteredType, Registry

DIGEST_SIZE = 8
"""Bytes of the digest of a type."""
NAME_SIZE = 4
"""Bytes that stand for the name of a message: a manifest has room for thousands."""


class TypeManifest(msgspec.Struct, frozen=True):
    """What a member tells about one type of objects."""

    digest: bytes
    """Equal where the messages and the states have the same names and fields."""
    messages: bytes = b""
    """The messages that it handles: ``NAME_SIZE`` bytes of a digest for each, in ascending order.
    """


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a member tells about itself."""

    version: str = ""
    """The version of the program, as ``Server(version=...)`` gives it; by default a digest of its
    types.
    """
    settings: int = 0
    """The revision of the shared settings that the member has acknowledged."""
    labels: dict[str, str] = {}
    """What an operator tells about the member, such as ``zone``."""
    types: dict[str, TypeManifest] = {}
    """By the names of the types of objects that it serves."""

    def handles(self, type_name: str, message_name: str) -> bool:
        """Whether the member has a handler for a message of a type. In one case of four thousand
        million it says so of a message that the member does not know.
        """
        known = self.types.get(type_name)
        if known is None:
            return False
        wanted, names = _short(message_name), known.messages
        return any(names[at : at + NAME_SIZE] == wanted for at in range(0, len(names), NAME_SIZE))

    def version_of(self, type_name: str) -> str:
        """The version of the program, or of the type alone if none was given: servers that serve
        different types do not differ in those that both serve.
        """
        known = self.types.get(type_name)
        is_given = self.version != _digest_of_types(self.types)
        return self.version if known is None or is_given else known.digest.hex()

    def encode(self) -> bytes:
        """The manifest as the storage keeps it.

        :raises ConfigurationError: it is longer than ``MAX_MANIFEST_BYTES``.
        """
        data = _encode(self)
        if len(data) > MAX_MANIFEST_BYTES:
            raise ConfigurationError(
                f"what this server would tell about itself takes {len(data)} bytes, and"
                f" {MAX_MANIFEST_BYTES} are the limit: use fewer or shorter labels, or divide the"
                " types among several servers"
            )
        return data


def decode_manifest(data: bytes) -> Manifest:
    """Read what :meth:`Manifest.encode` wrote. What cannot be read, because another version of
    ``rio`` wrote it, tells nothing.
    """
    try:
        return _decode(data) if data else Manifest()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Manifest()


def make_manifest(
    registry: Registry, *, version: str | None = None, labels: Mapping[str, str] | None = None
) -> Manifest:
    """What a server with this registry tells about itself."""
    types = {registered.type_name: _describe(registered) for registered in registry}
    return Manifest(
        version=_digest_of_types(types) if version is None else version,
        labels=dict(labels or {}),
        types=types,
    )


def current_version(
    type_name: str, snapshot: MembershipSnapshot, manifests: Mapping[int, Manifest]
) -> str:
    """The version of a type that most active members run which serve it; at a tie, that of the
    youngest member among them.

    So a first server of a new version does not draw all objects, and an old server that restarts
    does not make its version the current one. Empty if no active member has told its version.
    """
    active = [
        (manifests[member.generation].version_of(type_name), member.generation)
        for member in snapshot.active
        if member.generation in manifests and type_name in manifests[member.generation].types
    ]
    counts = Counter(version for version, _ in active)
    return max(active, key=lambda each: (counts[each[0]], each[1]), default=("", 0))[0]


class Manifests:
    """The manifests of the members that have not ended, as far as they were read."""

    def __init__(self) -> None:
        self._known: dict[bytes, Manifest] = {}
        self.by_generation: dict[int, Manifest] = {}
        """By the generations of the members."""

    def missing(self, snapshot: MembershipSnapshot) -> list[Member]:
        """A member for each digest that is not known yet."""
        members = {
            member.manifest_digest: member
            for member in _living(snapshot)
            if member.manifest_digest not in self._known
        }
        return list(members.values())

    def use(
        self, snapshot: MembershipSnapshot, read: Mapping[int, bytes], asked: Iterable[Member]
    ) -> None:
        """Take in what was read for the members that :meth:`missing` has named."""
        for member in asked:
            data = read.get(member.generation)
            if data is not None:
                self._known[member.manifest_digest] = decode_manifest(data)
        living = list(_living(snapshot))
        digests = {member.manifest_digest for member in living}
        self._known = {digest: self._known[digest] for digest in digests if digest in self._known}
        self.by_generation = {
            member.generation: self._known[member.manifest_digest]
            for member in living
            if member.manifest_digest in self._known
        }


def _living(snapshot: MembershipSnapshot) -> Iterable[Member]:
    return (member for member in snapshot.members if not member.status.terminal)


def _describe(registered: RegisteredType) -> TypeManifest:
    names = sorted(registered.handlers)
    states = sorted(
        f"{field.state_name} {field.state_type.__rio_schema__}"
        f" {' '.join(_fields_of(field.state_type))}"
        for field in registered.managed_states
    )
    return TypeManifest(
        _digest_of([*names, "", *states]), b"".join(sorted(_short(name) for name in names))
    )


def _digest_of_types(types: Mapping[str, TypeManifest]) -> str:
    return _digest_of(f"{name} {types[name].digest.hex()}" for name in sorted(types)).hex()


def _fields_of(state_type: type) -> list[str]:
    return [f"{field.name}:{field.type!r}" for field in msgspec.structs.fields(state_type)]


def _digest_of(lines: Iterable[str]) -> bytes:
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=DIGEST_SIZE).digest()


def _short(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=NAME_SIZE).digest()


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(Manifest).decode
