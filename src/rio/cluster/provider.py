"""What stands between a server and the membership: joining, holding a lease, learning who else is
there, leaving.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from rio._core.clock import Clock, now
from rio.backoff import backoff
from rio.cluster.config import ClusterConfig
from rio.cluster.lease import Lease, Observer
from rio.cluster.storage_calls import StorageCalls
from rio.contracts.membership import Member, MembershipSnapshot, MembershipStorage, MemberStatus
from rio.errors import NodeEvicted, StorageError

logger = logging.getLogger("rio.cluster")

FIRST_RETRY = 0.05
"""Seconds before the first retry of something that failed, at most; doubled by each further
failure.
"""

SHORTEST_POLL = 0.05
"""Seconds after which the membership is read again at the earliest, however often the storage tells
of changes.
"""


class GossipTransport(Protocol):
    """How a node's messages get to other nodes.

    Each arrives once or never; in order or not; nobody waits for it.
    """

    def send(self, address: str, payload: bytes) -> None:
        """Send, or lose, one message; it reaches :meth:`ClusterProvider.receive` of the node at
        ``address``.
        """

    def reset(self, address: str) -> None:
        """Something is wrong on the way to this address: take a new one."""


class ClusterProvider(ABC):
    """One node's part in the cluster. The server owns one, and calls in this order: callbacks,
    ``join``, ``serve``, ``drain``, ``leave``.

    ``storage``: prepared by the caller, who also closes it. ``config``:
    :meth:`ClusterConfig.strict` unless given. ``clock``: seconds, the same clock by which the
    server admits. ``rng``: spreads the retries.

    A node admits calls while ``clock()`` is less than what :attr:`on_lease` was last told. Storage
    calls end within ``config.storage_timeout`` even where a driver ignores both time-outs and
    cancellation.
    """

    def __init__(
        self,
        storage: MembershipStorage,
        config: ClusterConfig | None = None,
        *,
        clock: Clock = now,
        rng: random.Random | None = None,
    ) -> None:
        self._storage = storage
        self._config = config or ClusterConfig()
        self._clock = clock
        self._rng = rng or random.Random()
        self._calls = StorageCalls(self._config.storage_timeout)
        self._lease = Lease(self._lease_duration())
        self._leaving = asyncio.Event()
        self._observer = Observer(0, self._config)
        self.generation = 0
        """The identity that the storage gave this node, 0 before :meth:`join`."""
        self.address = ""
        """``host:port`` as joined."""
        self.snapshot = MembershipSnapshot(0, 0)
        """The newest membership that this node has read."""
        self.transport: GossipTransport | None = None
        """The way to the other nodes, set before :meth:`join`; ``None``: the nodes meet in the
        storage only.
        """
        self.on_lease: Callable[[float], None] = _ignore
        """Called with ``lease_until``, a time of ``clock``, each time it moves: infinite where
        nobody watches, ``-inf`` for a fence.
        """
        self.on_snapshot: Callable[[MembershipSnapshot], None] = _ignore
        """Called with each snapshot whose version is new."""

    @property
    def config(self) -> ClusterConfig:
        """The settings, which every node of the cluster must share."""
        return self._config

    async def join(self, address: str, metadata: bytes = b"") -> int:
        """Become an active member and return its generation. To be called once the listener is
        bound: older members of ``address`` die.

        If this raises or is cancelled, :meth:`leave` takes back what it did; without it the others
        evict the member, which is silent.

        :raises StorageUnavailable: the storage did not answer.
        :raises NodeEvicted: another node took the address over meanwhile.
        :raises JoinFailed: the other nodes cannot be talked to.
        """
        self._leaving.clear()
        self._lease = Lease(self._lease_duration())
        registered = await self._calls.run(self._storage.register(address, metadata))
        self.generation, self.address, self.snapshot = (
            registered.generation,
            address,
            registered.snapshot,
        )
        self._observer = Observer(self.generation, self._config)
        self.on_snapshot(self.snapshot)
        await self._renew()
        await self._meet_the_others()
        await self._advance(MemberStatus.ACTIVE)
        await self.refresh()
        logger.info("%s joined as member %d", address, self.generation)
        return self.generation

    async def serve(self) -> None:
        """Hold the lease and follow the membership until cancelled, or until :meth:`leave`. No
        failure of the storage ends it.

        :raises NodeEvicted: this node is no longer a live member. It was fenced first; it must
        stop, and may start again as a new member.
        :raises RuntimeError: the node has not joined.
        """
        if not self.generation:
            raise RuntimeError("join() comes before serve()")
        try:
            await _until_one_ends(_until(self._leaving), *self._loops())
        finally:
            await self._calls.settle()

    async def drain(self) -> None:
        """Tell the cluster that this node activates nothing new. It stays a member and must keep
        being served until :meth:`leave`.

        :raises StorageUnavailable: the storage did not answer; it may be tried again.
        :raises NodeEvicted: the node is no longer a live member.
        """
        await self._advance(MemberStatus.DRAINING)

    async def leave(self) -> None:
        """Fence this node for good, end :meth:`serve`, and tell the cluster, so that others take
        its objects at once. Idempotent.

        To be called when no turn runs any more; after a failed :meth:`join` and after
        :class:`NodeEvicted` as well.

        :raises StorageUnavailable: the storage did not answer. The node is fenced all the same, and
        the others evict it by its silence.
        """
        self._leaving.set()
        self._fence()
        try:
            await self._advance(MemberStatus.LEFT)
        finally:
            await self._calls.settle()

    async def refresh(self) -> MembershipSnapshot:
        """Read the membership now and return :attr:`snapshot`, which is this read or a newer one.

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

    async def _meet_the_others(self) -> None:  # noqa: B027  # there is nobody to meet where nobody talks
        """Between registering and becoming active: make sure that the others can be talked to."""

    @abstractmethod
    def _lease_duration(self) -> float:
        """``lease_local`` in seconds, or infinite where nobody watches."""

    @abstractmethod
    async def _renew(self) -> None:
        """Renew the lease once, and :meth:`_extend` it."""

    @abstractmethod
    async def _evict(self, member: Member) -> None:
        """Act on a member whose lease has run out."""

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        """What :meth:`serve` runs, side by side, until one of them raises."""
        return [
            self._repeat(
                "reading the membership",
                self._config.poll_interval,
                self._poll,
                self._wait_for_news,
            )
        ]

    async def _repeat(
        self,
        what: str,
        interval: float,
        action: Callable[[], Awaitable[None]],
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Run ``action`` every ``interval`` seconds from start to start, sooner after a failure,
        whatever fails but an eviction.

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
        """Read once, then do what the observer finds until the next read is due, at least one
        thing: what is left over is found again.
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

    async def _wait_for_news(self, seconds: float) -> None:
        """Return after ``seconds``, or when the storage tells of a change that was not read yet."""
        due = self._clock() + seconds
        await asyncio.sleep(min(seconds, SHORTEST_POLL))
        left = max(0.0, due - self._clock())
        with suppress(TimeoutError):  # of a storage that does not keep to the time it was given
            async with asyncio.timeout(left):
                try:
                    await self._storage.wait_for_change(self.snapshot.version, left)
                except StorageError as error:
                    logger.debug(
                        "member %d: the storage tells of no changes: %r", self.generation, error
                    )
                    await asyncio.sleep(left)

    async def _read(self) -> MembershipSnapshot:
        """One read as it came; :attr:`snapshot` takes it unless a newer one has overtaken it."""
        read = await self._calls.run(self._storage.snapshot())
        status = read.status_of(self.generation)
        if self.generation and status is not None and status >= MemberStatus.CONDEMNED:
            self._lost(f"is {status.name}")
        known = self.snapshot.version
        if read.version >= known:
            self.snapshot = read
        if read.version > known:
            self.on_snapshot(read)
        return read

    async def _purge(self, generation: int) -> None:
        await self._calls.run(self._storage.purge(generation))

    async def _advance(self, target: MemberStatus) -> None:
        """Move this node's own status forward to ``target``, from wherever it is.

        Repeating it is harmless.
        """
        member = self.snapshot.find(self.generation)
        while member is not None and member.status < target:
            member = (
                await self._calls.run(
                    self._storage.set_status(self.generation, member.status, target)
                )
            ).member
        status = MemberStatus.DEAD if member is None else member.status
        if target < MemberStatus.CONDEMNED <= status:
            self._lost(f"is {status.name}")

    def _extend(self, sent: float) -> None:
        """Take note of a renewal that succeeded and was sent at ``sent``."""
        before = self._lease.until
        if not self._leaving.is_set() and self._lease.renewed(sent) != before:
            self.on_lease(self._lease.until)

    def _fence(self) -> None:
        self._lease.fence(self._clock())
        self.on_lease(-math.inf)

    def _lost(self, why: str) -> None:
        """Fence, and raise what ends the node; a node that leaves knows already."""
        if not self._leaving.is_set():
            self._fence()
            logger.error(
                "member %d (%s) %s in the membership: it is fenced and stops",
                self.generation,
                self.address,
                why,
            )
            raise NodeEvicted(f"member {self.generation} ({self.address}) {why} in the membership")


class LocalClusterProvider(ClusterProvider):
    """Membership within one process: no failure is detected, so the lease never ends and nobody is
    evicted.

    Works over any storage, for instance a file that a single server uses alone. It still follows
    the membership, stops when another server joins at its address, and forgets old members. After a
    crash the server has to come back at the same address: only that tells the storage that the old
    one is dead. Not to be mixed with other providers in one cluster: they would evict it.
    """

    def _lease_duration(self) -> float:
        return math.inf

    async def _renew(self) -> None:
        self._extend(self._clock())

    async def _evict(self, member: Member) -> None:
        """Nobody renews here, so silence means nothing."""


async def _until_one_ends(*loops: Coroutine[Any, Any, None]) -> None:
    """Run all side by side until one returns or raises, then end the others."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _ignore(_: object) -> None:
    """What a callback is until the server sets it."""
