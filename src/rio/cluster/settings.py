"""The settings that all members of a cluster must share, and how they change.

A node has stopped admitting before another one evicts it only if the two agree: the ``lease_local``
of each must fit into the ``lease_evict`` of all others. So these settings are a row in the storage
of the members. Who joins while no member lives writes it; who joins later must be given the same.

A running cluster changes in two steps. First ``lease_local`` takes the smaller and ``lease_evict``
the larger of the old and the new value; then both take the new one. The next step begins once each
member that has not ended has acknowledged the one before, and a member acknowledges a step once no
lease of an older one is left. So whatever two members have read, the lease of one fits into the
patience of the other.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import msgspec
from msgspec.structs import replace

from rio._core.clock import Clock, now
from rio.cluster.config import MIN_ATTEMPTS, ClusterConfig
from rio.cluster.manifest import decode_manifest
from rio.contracts.membership import (
    Member,
    MembershipSnapshot,
    MembershipStorage,
    make_cluster_id,
)
from rio.errors import ConfigurationError, JoinFailed

LOOK_INTERVAL = 0.2
"""Seconds between two looks for acknowledgements, and for signs of life."""


class SharedSettings(msgspec.Struct, frozen=True):
    """What the members of a cluster must agree on, in seconds. See :class:`rio.ClusterConfig`."""

    lease_local: float
    lease_evict: float
    poll_interval: float

    @classmethod
    def of(cls, config: ClusterConfig) -> SharedSettings:
        """Those of some settings."""
        return cls(config.lease_local, config.lease_evict, config.poll_interval)

    def step_towards(self, goal: SharedSettings) -> SharedSettings:
        """The settings between these and the goal, with which both get along."""
        return SharedSettings(
            min(self.lease_local, goal.lease_local),
            max(self.lease_evict, goal.lease_evict),
            min(self.poll_interval, goal.poll_interval),
        )

    def apply_to(self, config: ClusterConfig) -> ClusterConfig:
        """The settings of a node that follows these: what must fit into the lease shrinks."""
        if self in (UNWATCHED, SharedSettings.of(config)):
            return config
        return replace(
            config,
            lease_local=self.lease_local,
            lease_evict=self.lease_evict,
            poll_interval=self.poll_interval,
            renew_interval=min(config.renew_interval, self.lease_local / MIN_ATTEMPTS),
            storage_timeout=min(config.storage_timeout, self.lease_local / 2),
        )

    def differences(self, other: SharedSettings) -> list[str]:
        """The fields in which another one differs."""
        names = self.__struct_fields__
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def show(self, names: list[str]) -> str:
        """Some of the fields, as text."""
        return ", ".join(f"{name} {getattr(self, name):g}" for name in names)


UNWATCHED = SharedSettings(math.inf, math.inf, math.inf)
"""What a :class:`rio.LocalClusterProvider` counts as: its lease never ends."""


class SettingsRow(msgspec.Struct, frozen=True):
    """The shared settings, as the storage of the members holds them."""

    revision: int
    """One more with each change. A member acknowledges it in its manifest."""
    now: SharedSettings
    """What the members follow."""
    goal: SharedSettings
    """What a member that joins must be given. It differs from ``now`` while a change is under way.
    """

    def encode(self) -> bytes:
        """The row as the storage keeps it."""
        return _encode(self)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SettingsRow).decode


def decode_row(data: bytes) -> SettingsRow | None:
    """Read what :meth:`SettingsRow.encode` wrote; ``None`` if nobody has written it yet.

    :raises ConfigurationError: a newer version of ``rio`` wrote it.
    """
    try:
        return _decode(data) if data else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigurationError(
            "the settings in the storage are those of another version of rio: upgrade rio"
        ) from None


class Admission:
    """Decides, before a node registers, whether it may join with its settings.

    ``wanted``: its settings. ``address``: its own; older members of it have ended, because the node
    has bound it. ``evict``: declares a member dead whose lease counter still is as it was read.
    """

    def __init__(
        self,
        wanted: SharedSettings,
        address: str,
        *,
        read: Callable[[], Awaitable[MembershipSnapshot]],
        write: Callable[[SettingsRow, int], Awaitable[bool]],
        evict: Callable[[Member], Awaitable[bool]],
        clock: Clock,
    ) -> None:
        self._wanted = wanted
        self._address = address
        self._read = read
        self._write = write
        self._evict = evict
        self._clock = clock
        self._seen: dict[int, tuple[Member, float]] = {}

    async def wait(self) -> SettingsRow:
        """Return the row under which the node may register.

        If the others run with other settings, this takes until all of them have been silent for the
        larger ``lease_evict``: a power cut leaves members behind that look alive.

        :raises JoinFailed: a member lives that runs with other settings.
        """
        while True:
            asked = self._clock()
            snapshot = await self._read()
            row = decode_row(snapshot.settings)
            if row is not None and row.goal == self._wanted:
                return row
            others = [
                member
                for member in snapshot.members
                if not member.status.terminal and member.address != self._address
            ]
            if row is None or not others:
                revision = 1 if row is None else row.revision + 1
                row = SettingsRow(revision, self._wanted, self._wanted)
                if await self._write(row, snapshot.version):
                    return row
            else:
                await self._observe(others, row.now, asked)
                await asyncio.sleep(LOOK_INTERVAL)

    async def _observe(self, others: list[Member], settings: SharedSettings, asked: float) -> None:
        patience = max(settings.lease_evict, self._finite(self._wanted.lease_evict))
        received = self._clock()
        for member in others:
            first, since = self._seen.setdefault(member.generation, (member, received))
            if patience == math.inf or _has_moved(first, member):
                raise JoinFailed(self._difference(member, settings))
            if asked - since >= patience:
                await self._evict(member)

    def _finite(self, seconds: float) -> float:
        """A node that nobody watches judges the others by their own settings."""
        return seconds if seconds < math.inf else 0.0

    def _difference(self, member: Member, settings: SharedSettings) -> str:
        names = settings.differences(self._wanted) or ["lease_evict"]
        return (
            f"the cluster runs {settings.show(names)}, this server {self._wanted.show(names)}:"
            f" give all the same --cluster ({_name(member)} lives;"
            " `rio settings set` changes a running cluster)"
        )


def _has_moved(before: Member, after: Member) -> bool:
    """Whether a member has done something by itself between two reads."""
    return (before.lease_counter, before.status, before.manifest_digest) != (
        after.lease_counter,
        after.status,
        after.manifest_digest,
    )


def _name(member: Member) -> str:
    return f"member {member.generation} ({member.address})"


# --- what operators do ----------------------------------------------------------------------------


async def change_settings(
    storage: MembershipStorage, config: ClusterConfig, *, timeout: float = math.inf
) -> None:
    """Have a cluster run with other settings, step by step, while it works. Repeat it if it was
    interrupted: it goes on from the step that was reached.

    :raises TimeoutError: not all members have acknowledged a step within ``timeout`` seconds.
    :raises ConfigurationError: the members have no lease, so stop all servers instead.
    :raises StorageUnavailable: the storage did not answer.
    """
    goal = SharedSettings.of(config)
    async with asyncio.timeout(None if timeout == math.inf else timeout):
        while True:
            snapshot = await storage.snapshot()
            row = decode_row(snapshot.settings)
            following = await _next_row(storage, snapshot, row, goal)
            if following == row:
                return
            if following is None:
                await asyncio.sleep(LOOK_INTERVAL)
            else:
                await storage.set_settings(following.encode(), snapshot.version)


async def _next_row(
    storage: MembershipStorage,
    snapshot: MembershipSnapshot,
    row: SettingsRow | None,
    goal: SharedSettings,
) -> SettingsRow | None:
    """The row that may replace the one of the snapshot: the same one if the goal is reached, and
    ``None`` if a member has not yet acknowledged it.
    """
    living = [member for member in snapshot.members if not member.status.terminal]
    if row is None or (not living and row.goal != goal):
        return SettingsRow(1 if row is None else row.revision + 1, goal, goal)
    if row.now == UNWATCHED and living:
        raise ConfigurationError(
            f"{_name(living[0])} joined without a lease: stop all servers, and start them with the"
            " same --cluster"
        )
    if await read_laggards(storage, snapshot, row.revision):
        return None
    if row.now == row.goal == goal:
        return row
    step = row.now.step_towards(goal)
    return SettingsRow(row.revision + 1, goal if step == row.now else step, goal)


async def read_laggards(
    storage: MembershipStorage, snapshot: MembershipSnapshot, revision: int
) -> list[Member]:
    """The members that have not ended and have not acknowledged a revision of the settings."""
    living = [member for member in snapshot.members if not member.status.terminal]
    manifests = await storage.read_manifests([member.generation for member in living])
    return [
        member
        for member in living
        if decode_manifest(manifests.get(member.generation, b"")).settings != revision
    ]


async def make_new_cluster(
    storage: MembershipStorage, *, force: bool = False, clock: Clock = now
) -> tuple[str, str]:
    """Make the storage that of a new cluster: its members end, and it gets another id. Returns the
    old id and the new one.

    It is for a copy of a database. Its members serve the cluster that it was copied from, and do
    not renew here: this watches them for ``lease_evict`` first. ``force``: do not look.

    :raises ConfigurationError: a member lives in this storage, so it is no copy.
    :raises StorageUnavailable: the storage did not answer.
    """
    snapshot = await storage.snapshot()
    row = decode_row(snapshot.settings)
    living = [member for member in snapshot.members if not member.status.terminal]
    if living and not force:
        await _watch_for_life(storage, living, row, clock)
    new = make_cluster_id()
    await storage.change_cluster_id(new)
    return snapshot.cluster_id, new


async def _watch_for_life(
    storage: MembershipStorage, living: list[Member], row: SettingsRow | None, clock: Clock
) -> None:
    patience = math.inf if row is None else row.now.lease_evict
    if patience == math.inf:
        raise ConfigurationError(
            f"{_name(living[0])} has no lease, so nobody can see whether it lives:"
            " if no server runs on this storage, say --force"
        )
    ends = clock() + patience
    while clock() < ends:
        await asyncio.sleep(min(LOOK_INTERVAL, patience))
        snapshot = await storage.snapshot()
        for member in living:
            after = snapshot.find(member.generation)
            if after is not None and not after.status.terminal and _has_moved(member, after):
                raise ConfigurationError(
                    f"{_name(member)} lives in this storage, so it is no copy: stop all servers"
                    " first, or name the copy"
                )
