"""Membership among equals: each node renews its own lease and watches the leases of others. The
storage is the only referee.

Where the nodes can talk to each other, gossip makes that quicker and sees more, see
:mod:`rio.cluster.gossip`; this is the shell around it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeAlias, TypedDict, Unpack

from rio._core.clock import Clock, now
from rio.cluster.config import ClusterConfig
from rio.cluster.detector import SLOW_LOOP, LiveMembers
from rio.cluster.gossip import (
    Action,
    CastVote,
    Condemn,
    Event,
    Fence,
    Gossip,
    Greet,
    Late,
    Read,
    Received,
    Refresh,
    Reset,
    Send,
    Tick,
    Voted,
)
from rio.cluster.lease import GAP_POLLS
from rio.cluster.provider import ClusterProvider, _until_one_ends
from rio.contracts.membership import (
    Member,
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    Vote,
)
from rio.errors import ConfigurationError, JoinFailed, NodeEvicted, StorageError

logger = logging.getLogger("rio.cluster")

MAX_DUTIES = 64
"""Calls of the storage that gossip asks for and that have not been made; more are not needed, as it
asks again.
"""

Duty: TypeAlias = Refresh | CastVote | Condemn | Fence


class RioRsSettings(TypedDict, total=False):
    """The settings of rio-rs, as keywords.

    Their meaning here: :meth:`ClusterConfig.from_rio_rs`.
    """

    interval_secs: float
    num_failures_threshold: int
    interval_secs_threshold: float
    limit_monitored_members: int | None
    drop_inactive_after_secs: float | None


class PeerToPeerClusterProvider(ClusterProvider):
    """A node that is fenced before it is evicted.

    It renews its lease every ``renew_interval`` and admits calls until ``lease_local`` after the
    last success. It reads the membership every ``poll_interval`` and declares a member dead whose
    lease counter stood still for ``lease_evict``. The two run side by side, so a slow read never
    delays a renewal. When the storage is away the node pauses, evicts nobody, and goes on when it
    is back.

    With :attr:`transport` set, which a server does, the nodes also probe each other and gossip:
    changes of the membership are heard of rather than polled for, a member that renews but cannot
    be reached is condemned by votes, and :meth:`join` takes two-way probes with a majority of the
    others. When none of that gets through, all the rest stays as it is.

    ``config``: a :class:`ClusterConfig`; or the settings of rio-rs as keywords, which it is
    computed from.

    :raises ConfigurationError: both were given, or they cannot work.
    """

    def __init__(
        self,
        storage: MembershipStorage,
        config: ClusterConfig | None = None,
        *,
        clock: Clock = now,
        rng: random.Random | None = None,
        **rio_rs: Unpack[RioRsSettings],
    ) -> None:
        if rio_rs and config is not None:
            raise ConfigurationError(
                f"give either config or the settings of rio-rs, not both: {', '.join(rio_rs)}"
            )
        super().__init__(
            storage, ClusterConfig.from_rio_rs(**rio_rs) if rio_rs else config, clock=clock, rng=rng
        )
        self._gossip: Gossip | None = None
        self._duties: asyncio.Queue[Duty] = asyncio.Queue(MAX_DUTIES)
        self._is_gossiping = False
        self._timer: asyncio.TimerHandle | None = None
        self._heard = asyncio.Event()

    def receive(self, source: int, payload: bytes) -> None:
        self._feed(Received(source, payload))
        self._heard.set()

    async def condemn(self, generation: int) -> bool:
        """An operator's order (E4): the member stops as soon as it notices. ``False`` if it was
        condemned, or had ended, already.

        :raises StorageUnavailable: the storage did not answer.
        """
        member = (await self.refresh()).find(generation)
        while member is not None and member.status < MemberStatus.CONDEMNED:
            change = await self._calls.run(
                self._storage.set_status(generation, member.status, MemberStatus.CONDEMNED)
            )
            if change.applied:
                self._ask_for(Refresh())
                return True
            member = change.member
        return False

    async def drain(self) -> None:
        await super().drain()
        self._ask_for(Refresh())

    async def leave(self) -> None:
        await super().leave()
        if self._gossip is not None:
            with suppress(StorageError):
                await self._read()  # and tell some of the others that there is news
            await self._calls.settle()

    def _lease_duration(self) -> float:
        return self._config.lease_local

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        loops = [*super()._loops(), self._renewing()]
        return loops if self._gossip is None else [*loops, self._gossiping()]

    def _renewing(self) -> Coroutine[Any, Any, None]:
        return self._repeat("renewing the lease", self._config.renew_interval, self._renew)

    async def _renew(self) -> None:
        sent = self._clock()
        if await self._calls.run(self._storage.renew(self.generation)):
            self._extend(sent)
        else:
            self._lost("is not live any more")

    async def _evict(self, member: Member) -> None:
        """Declare dead what is still as silent as it was read, whatever its status: joining,
        active, draining or condemned.
        """
        change = await self._calls.run(
            self._storage.set_status(
                member.generation,
                member.status,
                MemberStatus.DEAD,
                expected_counter=member.lease_counter,
            )
        )
        if change.applied:
            silence = self._config.lease_evict
            logger.warning(
                "member %d evicted member %d (%s), silent for %g s",
                self.generation,
                member.generation,
                member.address,
                silence,
            )
            self._ask_for(Refresh())

    # --- the shell around gossip ------------------------------------------------------------------

    async def _read(self) -> MembershipSnapshot:
        sent = self._clock()
        read = await super()._read()
        self._feed(Read(read, sent))
        return read

    def _feed(self, event: Event, due: float = -math.inf) -> None:
        if self._gossip is not None:
            for action in self._gossip.step(
                event, max(due, self._clock())
            ):  # a timer may be early by a rounding error
                self._do(action)
            self._set_timer(self._gossip.due)

    def _do(self, action: Action) -> None:
        match action:
            case Send() if self.transport is not None:
                self.transport.send(action.address, action.payload)
            case Reset() if self.transport is not None:
                self.transport.reset(action.address)
            case Refresh() | CastVote() | Condemn():
                self._ask_for(action)
            case Fence():
                logger.warning(
                    "member %d (%s) hears that it was given up: it pauses and asks the storage",
                    self.generation,
                    self.address,
                )
                self._fence()
                self._ask_for(action)

    def _ask_for(self, duty: Duty) -> None:
        if self._gossip is not None and not self._duties.full():
            self._duties.put_nowait(duty)

    async def _gossiping(self) -> None:
        """Let time pass for gossip, and make the calls of the storage that it asks for, one after
        the other.
        """
        self._is_gossiping = True
        try:
            self._feed(Tick())
            while True:
                duty = await self._duties.get()
                try:
                    await self._perform(duty)
                except NodeEvicted:
                    raise
                except StorageError as error:
                    logger.debug("member %d: %r came to nothing: %r", self.generation, duty, error)
                except Exception:
                    logger.warning("member %d: %r failed", self.generation, duty, exc_info=True)
        finally:
            self._is_gossiping = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    async def _perform(self, duty: Duty) -> None:
        match duty:
            case Refresh():
                await self.refresh()
            case CastVote():
                change = await self._calls.run(
                    self._storage.vote(duty.target, Vote(self.generation, self._clock()))
                )
                if change.member is not None:
                    self._feed(Voted(change.member))
            case Condemn():
                await self._condemn(duty.member)
            case Fence():
                await self._renew()  # if the storage knows nothing of it the pause is over

    async def _condemn(self, member: Member) -> None:
        change = await self._calls.run(
            self._storage.set_status(member.generation, member.status, MemberStatus.CONDEMNED)
        )
        if change.applied:
            logger.warning(
                "member %d condemned member %d (%s) after a vote",
                self.generation,
                member.generation,
                member.address,
            )
            await self.refresh()

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_gossiping:
            self._timer = asyncio.get_running_loop().call_later(
                max(0.0, due - self._clock()), self._tick, due
            )

    def _tick(self, due: float) -> None:
        self._timer = None
        late = self._clock() - due
        if late > SLOW_LOOP:
            self._feed(Late(late))
        self._feed(Tick(), due)

    # --- joining ----------------------------------------------------------------------------------

    async def _meet_the_others(self) -> None:
        """Exchange probes with a majority of the active members, without those whose lease is seen
        to stand still.

        :raises JoinFailed: that took longer than ``join_timeout``.
        """
        settings, own = self._config.gossip, self.snapshot.find(self.generation)
        self._gossip, self._duties = None, asyncio.Queue(MAX_DUTIES)
        if self.transport is None or settings is None:
            return
        self._gossip = Gossip(
            self.generation,
            self._config,
            self._rng,
            self._clock(),
            own.metadata if own is not None else b"",
        )
        try:
            async with asyncio.timeout(settings.join_timeout):
                await _until_one_ends(
                    self._greeting(self._gossip, settings.gossip_interval),
                    self._renewing(),
                    self._gossiping(),
                )
        except TimeoutError:
            raise JoinFailed(
                f"{self.address} could not exchange probes with a majority of the other members within {settings.join_timeout:g} s: "
                f"make sure that they reach it under this address, and it them under theirs"
            ) from None

    async def _greeting(self, gossip: Gossip, interval: float) -> None:
        """Greet the others every ``interval`` until enough of them have answered."""
        config = self._config
        live = LiveMembers(GAP_POLLS * max(config.renew_interval, config.poll_interval))
        live.read(self.snapshot, self._clock())
        self._feed(Read(self.snapshot, self._clock()))
        next_read = next_greeting = self._clock()
        while not gossip.knows_majority_of(live.of(gossip.active - {self.generation})):
            if self._clock() >= next_read:
                next_read = self._clock() + config.poll_interval
                with suppress(StorageError):
                    live.read(await self._read(), self._clock())
            if self._clock() >= next_greeting:
                next_greeting = self._clock() + interval
                self._feed(Greet())
            self._heard.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._heard.wait()
