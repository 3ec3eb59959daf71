"""What stands between a server and the membership: it joins, holds a lease, learns which other
members there are, and leaves.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from rio._core.clock import Clock, now
from rio.backoff import backoff, make_rng
from rio.cluster.config import ClusterConfig
from rio.cluster.doubt import Audit, Doubt, NothingToLose
from rio.cluster.lease import Lease, Observer
from rio.cluster.loops import Loop, run_until_one_ends
from rio.cluster.manifest import Manifest, Manifests
from rio.cluster.settings import (
    UNWATCHED,
    Admission,
    SettingsRow,
    SharedSettings,
    decode_row,
)
from rio.cluster.storage_calls import StorageCalls
from rio.contracts.membership import Member, MembershipSnapshot, MembershipStorage, MemberStatus
from rio.errors import ConfigurationError, NodeEvicted, StorageError
from rio.logs import Logger

if TYPE_CHECKING:
    import random

    from rio.cluster.gossip.transport import GossipTransport

logger = Logger("rio.cluster")

FIRST_RETRY = 0.05
"""Seconds before the first retry of an action that failed, at most. Each further failure doubles
them.
"""

SHORTEST_POLL = 0.05
"""Seconds between two reads of the membership, at least, however often the storage tells of
changes.
"""


_NOTHING_TOLD = Manifest()


class ClusterProvider(ABC):
    """One node's part in the cluster. The server owns one: it sets :attr:`on_lease`,
    :attr:`on_snapshot` and :attr:`before_purge`, then calls :meth:`join`, :meth:`serve`,
    :meth:`drain` and :meth:`leave`.

    ``storage``: that of the members, prepared by the caller, who also closes it; a server that gets
    a provider takes its members from there. ``config``: the settings, by default
    :meth:`ClusterConfig.strict`. ``clock``: seconds, the same clock by which the server admits.
    ``rng``: spreads the retries.

    A node admits calls while ``clock()`` is less than what :attr:`on_lease` was last told. A call
    of the storage ends within ``config.storage_timeout``, even where a driver ignores both timeouts
    and cancellation.
    """

    def __init__(
        self,
        storage: MembershipStorage,
        config: ClusterConfig | None = None,
        *,
        clock: Clock = now,
        rng: random.Random | None = None,
    ) -> None:
        if not isinstance(storage, MembershipStorage):
            raise ConfigurationError(
                f"a {type(self).__name__} takes a rio.MembershipStorage, got {storage!r}:"
                ' write rio.open_storage("sqlite:///app.db").membership'
            )
        self._storage = storage
        self._given = self._config = config or ClusterConfig()
        self._clock = clock
        self._rng = rng or make_rng()
        self._calls = StorageCalls(self._config.storage_timeout)
        self._waits = StorageCalls(self._config.storage_timeout)
        self._lease = Lease(self._lease_duration())
        self._leaving = asyncio.Event()
        self._observer = Observer(0, self._config)
        self._history = ""
        self._lease_counter = 0
        self._revision = 0
        self._old_leases_end = -math.inf
        self._manifest = _NOTHING_TOLD
        self._manifests = Manifests()
        self._doubt = Doubt(clock, self._config.lease_evict)
        self.generation = 0
        """The identity that the storage gave this node, 0 before :meth:`join`."""
        self.address = ""
        """``host:port`` under which this node joined."""
        self.snapshot = MembershipSnapshot(0, 0)
        """The newest membership that this node has read."""
        self.renewed = True
        """Whether the last renewal of the lease succeeded."""
        self.transport: GossipTransport | None = None
        """What carries gossip to the other nodes, set before :meth:`join`. With ``None`` the nodes
        meet in the storage only.
        """
        self.on_lease: Callable[[float], None] = _ignore
        """Called with the end of the lease, a time of ``clock``, each time it moves: infinity where
        nobody watches, ``-inf`` for a fence.
        """
        self.on_snapshot: Callable[[MembershipSnapshot], None] = _ignore
        """Called with each snapshot whose version is new."""
        self.audit: Audit = NothingToLose()
        """What looks at the live objects when the storage may have forgotten something."""
        self.before_purge: Callable[[int], Coroutine[Any, Any, object]] | None = None
        """Called with a member that has ended, before its row is deleted. While it fails, the row
        stays.
        """

    @property
    def storage(self) -> MembershipStorage:
        """The storage of the members."""
        return self._storage

    @property
    def config(self) -> ClusterConfig:
        """The settings that this node follows. ``rio settings set`` changes those that every node
        must share while the node runs.
        """
        return self._config

    @property
    def manifests(self) -> Mapping[int, Manifest]:
        """What the members that have not ended tell about themselves, by their generations, as far
        as this node has read it: with its next read of the membership it reads what is missing.
        """
        return self._manifests.by_generation

    async def join(
        self, address: str, metadata: bytes = b"", manifest: Manifest = _NOTHING_TOLD
    ) -> int:
        """Become an active member, and return its generation. Older members of ``address`` die, so
        this is called once the listener is bound.

        ``manifest``: what this node tells the others about itself.

        If this raises or is cancelled, :meth:`leave` takes back what it did. Without that the
        others evict the member, which is silent.

        :raises StorageUnavailable: the storage did not answer.
        :raises ConfigurationError: the manifest is too long.
        :raises NodeEvicted: another node has taken the address over meanwhile.
        :raises JoinFailed: this node and the others cannot reach each other, or a member lives that
            runs with other settings.
        """
        self._leaving.clear()
        self._history = self._storage.history
        self._lease_counter = 0
        await self._register(address, metadata, manifest)
        self._lease = Lease(self._lease_duration())
        self._observer = Observer(self.generation, self._config)
        self.on_snapshot(self.snapshot)
        await self._renew()
        await self._meet_the_others()
        await self._advance(MemberStatus.ACTIVE)
        await self.read_manifests()
        logger.info("%s joined as member %d", address, self.generation)
        return self.generation

    async def _register(self, address: str, metadata: bytes, manifest: Manifest) -> None:
        """Register under the settings that the cluster runs with.

        :raises JoinFailed: a member lives that runs with other settings.
        """
        wanted = self._wanted_settings()
        while True:
            row = await Admission(
                wanted,
                address,
                read=lambda: self._calls.run(self._storage.snapshot()),
                write=self._write_settings,
                evict=self._end_silent,
                clock=self._clock,
            ).wait()
            self._follow(row)
            self._manifest = replace(manifest, settings=row.revision)
            registered = await self._calls.run(
                self._storage.register(address, metadata, self._manifest.encode())
            )
            self.generation, self.address, self.snapshot = (
                registered.generation,
                address,
                registered.snapshot,
            )
            if decode_row(registered.snapshot.settings) == row:
                return
            await self._advance(MemberStatus.LEFT)  # somebody was faster with other settings

    def _wanted_settings(self) -> SharedSettings:
        is_watched = self._lease_duration() < math.inf
        return SharedSettings.of(self._given) if is_watched else UNWATCHED

    def _write_settings(self, row: SettingsRow, version: int) -> Awaitable[bool]:
        return self._calls.run(self._storage.set_settings(row.encode(), version))

    def _follow(self, row: SettingsRow) -> None:
        """Run with the settings of a row from now on. Leases that were granted before stay."""
        before = self._config
        self._revision = row.revision
        self._config = row.now.apply_to(self._given)
        self._calls.timeout = self._config.storage_timeout
        self._doubt.patience = self._config.lease_evict
        self._observer.follow(self._config)
        self._lease.change(self._lease_duration())
        if self._config.lease_local < before.lease_local:
            self._old_leases_end = max(self._old_leases_end, self._lease.until)

    async def _follow_settings(self, snapshot: MembershipSnapshot) -> None:
        """Follow the settings of the cluster, and acknowledge them as soon as no lease is left that
        was granted under older ones.
        """
        row = decode_row(snapshot.settings)
        if row is None or row.revision == self._manifest.settings:
            return
        if row.revision != self._revision:
            logger.info("member %d follows the settings %s", self.generation, row.now)
            self._follow(row)
        if self._clock() >= self._old_leases_end:
            manifest = replace(self._manifest, settings=row.revision)
            if await self._calls.run(
                self._storage.set_manifest(self.generation, manifest.encode())
            ):
                self._manifest = manifest

    async def serve(self) -> None:
        """Hold the lease and follow the membership until cancelled, or until :meth:`leave`. No
        failure of the storage ends it.

        :raises NodeEvicted: this node is no longer a live member. It is fenced and must stop; it
        may start again as a new member.
        :raises RuntimeError: the node has not joined.
        """
        if not self.generation:
            raise RuntimeError("join() comes before serve()")
        try:
            await run_until_one_ends(self._wait_for_leave, *self._loops())
        finally:
            await self._calls.settle()
            await self._waits.settle()

    async def drain(self) -> None:
        """Tell the cluster that this node activates nothing new. It stays a member, and
        :meth:`serve` must go on until :meth:`leave`.

        :raises StorageUnavailable: the storage did not answer; the call may be repeated.
        :raises NodeEvicted: the node is no longer a live member.
        """
        await self._advance(MemberStatus.DRAINING)

    async def leave(self) -> None:
        """Fence this node for good, end :meth:`serve`, and tell the cluster, so that others take
        its objects at once. Idempotent.

        It is called when no turn runs any more, also after a :meth:`join` that failed and after
        :class:`NodeEvicted`.

        :raises StorageUnavailable: the storage did not answer. The node is fenced all the same, and
        the others evict it, as it is silent.
        """
        self._leaving.set()
        self._fence()
        try:
            await self._advance(MemberStatus.LEFT)
        finally:
            await self._calls.settle()

    async def refresh(self) -> MembershipSnapshot:
        """Read the membership now, and return :attr:`snapshot`: this read or a newer one.

        :raises StorageUnavailable: the storage did not answer.
        :raises NodeEvicted: this node is no longer a live member; it is fenced.
        """
        await self._read()
        return self.snapshot

    def receive(self, source: int, payload: bytes) -> None:
        """Take in a message that arrived over the link of the member ``source``, which introduced
        itself by that generation.
        """
        logger.debug("a message of member %d is ignored: this node does not gossip", source)

    async def _meet_the_others(self) -> None:  # noqa: B027  # nodes that do not gossip do not meet
        """Make sure that the others can be reached, between registering and becoming active."""

    @abstractmethod
    def _lease_duration(self) -> float:
        """``lease_local`` in seconds, or infinity where nobody watches."""

    @abstractmethod
    async def _renew(self) -> None:
        """Renew the lease once, and :meth:`_extend` it."""

    @abstractmethod
    async def _evict(self, member: Member) -> None:
        """Act on a member whose lease has run out."""

    async def _wait_for_leave(self) -> None:
        await self._leaving.wait()

    def _loops(self) -> list[Loop]:
        """What :meth:`serve` runs side by side, until one of them raises."""
        return [
            partial(
                self._repeat,
                "reading the membership",
                lambda: self._config.poll_interval,
                self._poll,
                self._wait_for_news,
            )
        ]

    async def _repeat(
        self,
        what: str,
        every: Callable[[], float],
        action: Callable[[], Awaitable[None]],
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Run ``action`` again ``every()`` seconds after it began, and sooner after a failure. Only
        an eviction ends it.

        ``wait``: how to spend the time after a success; it may return early.
        """
        failures = 0
        while True:
            started = self._clock()
            try:
                await action()
            except NodeEvicted:
                raise
            except Exception as error:
                failures += 1
                self._log_failure(what, failures, error)
            else:
                if failures:
                    logger.info(
                        "member %d: %s works again after %d failure(s)",
                        self.generation,
                        what,
                        failures,
                    )
                failures = 0
            interval = every()
            pause = backoff(failures, FIRST_RETRY, interval, self._rng) if failures else interval
            await (asyncio.sleep if failures else wait)(max(0.0, started + pause - self._clock()))

    def _log_failure(self, what: str, failures: int, error: Exception) -> None:
        level = logging.WARNING if failures == 1 else logging.DEBUG
        unexpected = None if isinstance(error, StorageError) else error
        margin = self._lease.until - self._clock()
        logger.log(
            level,
            "member %d: %s failed, %.1f s of lease left: %r",
            self.generation,
            what,
            margin,
            error,
            exc_info=unexpected,
        )

    async def _poll(self) -> None:
        """Read the membership, then do what the observer finds until the next read is due, at least
        one thing. The next read finds again what was left.
        """
        sent = self._clock()
        snapshot = await self._read()
        duties = self._observer.step(snapshot, sent, self._clock())
        for act in (
            *(partial(self._evict, member) for member in duties.evict),
            *(partial(self._purge, ended) for ended in duties.purge),
        ):
            await act()
            if self._clock() >= sent + self._config.poll_interval:
                break
        await self._follow_settings(snapshot)
        await self._read_manifests(snapshot)

    async def _wait_for_news(self, seconds: float) -> None:
        """Return after ``seconds``, or when the storage tells of a change that was not read yet.
        However the storage fails at that, it costs nothing but the news.
        """
        due = self._clock() + seconds
        await asyncio.sleep(min(seconds, SHORTEST_POLL))
        left = max(0.0, due - self._clock())
        try:
            change = self._storage.wait_for_change(self.snapshot.version, left)
            await self._waits.run(change, left + SHORTEST_POLL)
        except Exception as error:
            logger.debug("member %d: the storage tells of no changes: %r", self.generation, error)
            await asyncio.sleep(max(0.0, due - self._clock()))

    async def _read(self) -> MembershipSnapshot:
        """Return one read as it came; :attr:`snapshot` is set to it unless a newer read has
        overtaken it.
        """
        read = await self._calls.run(self._storage.snapshot())
        status = read.status_of(self.generation)
        if self.generation and status is not None and status >= MemberStatus.CONDEMNED:
            self._raise_evicted(f"is {status.name}", self._find_successor(read))
        known = self.snapshot.version
        if read.version >= known:
            self.snapshot = read
        if read.version > known:
            self.on_snapshot(read)
        return read

    async def read_manifests(self) -> None:
        """Read the membership, and what its members tell about themselves.

        :raises StorageUnavailable: the storage did not answer.
        :raises NodeEvicted: the cluster has declared this node dead.
        """
        await self._read_manifests(await self.refresh())

    async def _read_manifests(self, snapshot: MembershipSnapshot) -> None:
        """Read the manifests whose digests are new."""
        missing = self._manifests.missing(snapshot)
        read: Mapping[int, bytes] = {}
        if missing:
            generations = [member.generation for member in missing]
            read = await self._calls.run(self._storage.read_manifests(generations))
        # Another read may have brought a newer snapshot meanwhile.
        self._manifests.use(self.snapshot, read, missing)

    async def _end_silent(self, member: Member) -> bool:
        """Declare a member dead that is still as silent as it was read, whatever its status."""
        change = await self._calls.run(
            self._storage.set_status(
                member.generation,
                member.status,
                MemberStatus.DEAD,
                expected_counter=member.lease_counter,
            )
        )
        return change.applied

    async def _purge(self, generation: int) -> None:
        if self.before_purge is not None:
            await self._calls.run(self.before_purge(generation))
        await self._calls.run(self._storage.purge(generation))

    async def _advance(self, target: MemberStatus) -> None:
        """Move this node's own status forward to ``target``, from whatever it is. Idempotent."""
        member = self.snapshot.find(self.generation)
        while member is not None and member.status < target:
            member = (
                await self._calls.run(
                    self._storage.set_status(self.generation, member.status, target)
                )
            ).member
        status = MemberStatus.DEAD if member is None else member.status
        if target < MemberStatus.CONDEMNED <= status:
            self._raise_evicted(f"is {status.name}")

    def _extend(self, sent: float) -> None:
        """Count a renewal that succeeded and was sent at ``sent``."""
        before = self._lease.until
        blocked = self._leaving.is_set() or self._doubt.stands
        if not blocked and self._lease.renewed(sent) != before:
            self.on_lease(self._lease.until)

    def _compare_history(self) -> None:
        """Look whether the storage that has just answered is the one that this node has known."""
        history = self._storage.history
        if history != self._history:
            self._history = history
            self._raise_doubt("another database server has taken over")

    def _raise_doubt(self, why: str) -> None:
        logger.error(
            "member %d (%s): the storage may have forgotten something, %s: it pauses for %g s, and "
            "then looks which objects it still owns",
            self.generation,
            self.address,
            why,
            self._config.lease_evict,
        )
        self._doubt.rise()
        self._fence()

    def _fence(self) -> None:
        self._lease.fence(self._clock())
        self.on_lease(-math.inf)

    def _find_successor(self, read: MembershipSnapshot) -> Member | None:
        """The member that has registered at this node's address since."""
        since = [member for member in read.members if member.generation > self.generation]
        return next((member for member in since if member.address == self.address), None)

    def _raise_evicted(self, why: str, successor: Member | None = None) -> None:
        """Fence, and raise what ends the node. A node that leaves has nothing to end."""
        if self._leaving.is_set():
            return
        self._fence()
        text = f"member {self.generation} ({self.address}) {why} in the membership"
        if successor is not None:
            text += (
                f": member {successor.generation} has registered at the same address;"
                " give each server an address of its own"
            )
        logger.error("%s; it is fenced and stops", text)
        raise NodeEvicted(text)


class LocalClusterProvider(ClusterProvider):
    """Membership within one process: it detects no failure, so the lease never ends and nobody is
    evicted.

    It works over any storage, for instance a file that one server uses alone. It still follows the
    membership, stops when another server joins at its address, and forgets old members. After a
    crash the server has to come back at the same address: only that tells the storage that the old
    one is dead. It does not mix with other providers in one cluster: they would evict it.

    Its parameters are those of :class:`ClusterProvider`.
    """

    def _lease_duration(self) -> float:
        return math.inf

    async def _renew(self) -> None:
        self._extend(self._clock())

    async def _evict(self, member: Member) -> None:
        """Nobody renews here, so silence means nothing."""


def _ignore(_: object) -> None:
    """What a callback is until the server sets it."""
