"""Membership among equals: each node renews its own lease and watches the leases of the others. The
storage is the only referee.

Where the nodes can talk to each other, gossip makes that quicker and sees more
(:mod:`rio.cluster.gossip.conversation`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from rio._core.clock import Clock, now
from rio.cluster.config import ClusterConfig
from rio.cluster.lease import GAP_POLLS, LiveMembers
from rio.cluster.loops import Loop, run_until_one_ends
from rio.cluster.provider import ClusterProvider
from rio.contracts.membership import (
    Member,
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    Vote,
)
from rio.errors import ConfigurationError, JoinFailed, StorageError
from rio.logs import Logger

if TYPE_CHECKING:
    import random

    from rio.cluster.gossip.runner import GossipRunner
    from rio.cluster.gossip.transport import GossipTransport

logger = Logger("rio.cluster")

LAST_LOOK = 0.05
"""Seconds in which an evicted node may read why."""
NEWS_OF_SILENCE = 0.5
"""Seconds that a node greets the others before its log says for whom it waits."""


class RioRsSettings(TypedDict, total=False):
    """The settings of rio-rs, as keywords of :meth:`ClusterConfig.from_rio_rs`."""

    interval_secs: float
    num_failures_threshold: int
    interval_secs_threshold: float
    limit_monitored_members: int | None
    drop_inactive_after_secs: float | None


class PeerToPeerClusterProvider(ClusterProvider):
    """A node that is fenced before the others evict it.

    It renews its lease every ``renew_interval``, and admits calls until ``lease_local`` after the
    last renewal that succeeded. It reads the membership every ``poll_interval``, and declares a
    member dead whose lease counter stood still for ``lease_evict``. The two run side by side, so a
    slow read never delays a renewal. When the storage is away the node pauses, evicts nobody, and
    goes on when the storage is back.

    If :attr:`transport` is set, which a server does, the nodes also probe each other and gossip:
    they hear of changes of the membership before they poll, they condemn by votes a member that
    renews but cannot be reached, and :meth:`join` waits for two-way probes with a majority of the
    others. Where no message gets through, all the rest stays as it is.

    ``config``: the settings. Or give the settings of rio-rs as keywords, which
    :meth:`ClusterConfig.from_rio_rs` translates. The other parameters are those of
    :class:`ClusterProvider`.

    :raises ConfigurationError: both were given, or the settings contradict each other.
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
        self._gossip: GossipRunner | None = None

    def receive(self, source: int, payload: bytes) -> None:
        if self._gossip is not None:
            self._gossip.receive(source, payload)

    async def condemn(self, generation: int) -> bool:
        """Give a member up by an operator's order: it stops as soon as it notices. Returns
        ``False`` if it was condemned already, or had ended.

        :raises StorageUnavailable: the storage did not answer.
        :raises NodeEvicted: this node is no longer a live member.
        """
        member = (await self.refresh()).find(generation)
        while member is not None and member.status < MemberStatus.CONDEMNED:
            change = await self._calls.run(
                self._storage.set_status(generation, member.status, MemberStatus.CONDEMNED)
            )
            if change.applied:
                self._tell_of_change()
                return True
            member = change.member
        return False

    async def drain(self) -> None:
        await super().drain()
        self._tell_of_change()

    async def leave(self) -> None:
        await super().leave()
        if self._gossip is not None:
            with suppress(StorageError):
                await self._read()
                self._gossip.tell_news()  # as no round of its gossip follows
            await self._calls.settle()

    # --- the lease --------------------------------------------------------------------------------

    def _lease_duration(self) -> float:
        return self._config.lease_local

    def _loops(self) -> list[Loop]:
        loops = [
            *super()._loops(),
            self._keep_renewing,
            self._every_renewal("looking for losses of the storage", self._look_for_loss),
            self._every_renewal("looking at the objects", self._settle_doubt),
        ]
        return loops if self._gossip is None else [*loops, self._gossip.run]

    def _keep_renewing(self) -> Coroutine[Any, Any, None]:
        return self._repeat("renewing the lease", self._renew_interval, self._renew)

    def _every_renewal(self, what: str, action: Callable[[], Awaitable[None]]) -> Loop:
        return partial(self._repeat, what, self._renew_interval, action)

    def _renew_interval(self) -> float:
        return self._config.renew_interval

    async def _renew(self) -> None:
        sent, known = self._clock(), self._lease_counter
        try:
            renewal = await self._calls.run(self._storage.renew(self.generation))
        except StorageError:
            self.renewed = False
            raise
        self.renewed = renewal is not None
        if renewal is None:
            self._fence()
            with suppress(StorageError, TimeoutError):
                async with asyncio.timeout(LAST_LOOK):
                    await self._read()  # which knows more, and raises it
            self._raise_evicted("is not live any more")
        elif renewal.lease_counter <= known:
            self._raise_evicted("is older than this node has left it")
        elif renewal.cluster_id != self.snapshot.cluster_id:
            self._raise_evicted(f"belongs to another cluster, {renewal.cluster_id},")
        else:
            self._lease_counter = max(self._lease_counter, renewal.lease_counter)
            self._compare_history()
            self._extend(sent)

    async def _look_for_loss(self) -> None:
        if not self._doubt.stands:
            why = await self.audit.find_loss()
            if why:
                self._raise_doubt(why)

    async def _settle_doubt(self) -> None:
        since = await self._doubt.due()
        await self.audit.drop_what_was_lost()
        if self._doubt.end(since):
            logger.warning("member %d (%s) goes on", self.generation, self.address)

    async def _evict(self, member: Member) -> None:
        """Declare a member dead that is still as silent as it was read, whatever its status:
        joining, active, draining or condemned.
        """
        if await self._end_silent(member):
            logger.warning(
                "member %d evicted member %d (%s), silent for %g s",
                self.generation,
                member.generation,
                member.address,
                self._config.lease_evict,
            )
            self._tell_of_change()

    # --- what gossip asks for ---------------------------------------------------------------------

    async def _read(self) -> MembershipSnapshot:
        sent = self._clock()
        read = await super()._read()
        if self._gossip is not None:
            self._gossip.note_read(read, sent)
        return read

    async def _vote(self, target: int) -> Member | None:
        vote = Vote(self.generation, self._clock())
        return (await self._calls.run(self._storage.vote(target, vote))).member

    async def _carry_out(self, condemned: Member) -> None:
        """Condemn a member after a vote."""
        change = await self._calls.run(
            self._storage.set_status(condemned.generation, condemned.status, MemberStatus.CONDEMNED)
        )
        if change.applied:
            logger.warning(
                "member %d condemned member %d (%s) after a vote",
                self.generation,
                condemned.generation,
                condemned.address,
            )
            await self.refresh()

    def _pause(self) -> None:
        logger.warning(
            "member %d (%s) hears that it was given up: it pauses and asks the storage",
            self.generation,
            self.address,
        )
        self._fence()

    def _tell_of_change(self) -> None:
        """This node has changed the membership: read it, so that the others hear of that."""
        if self._gossip is not None:
            self._gossip.ask_for_refresh()

    # --- joining ----------------------------------------------------------------------------------

    async def _meet_the_others(self) -> None:
        """Exchange probes with a majority of the active members, without those whose lease is seen
        to stand still.

        :raises JoinFailed: that took longer than ``join_timeout``.
        """
        settings = self._config.gossip
        self._gossip = None
        if self.transport is None or settings is None:
            return
        self._gossip = gossip = self._new_gossip(self.transport)
        try:
            async with asyncio.timeout(settings.join_timeout):
                await run_until_one_ends(
                    partial(self._greet_the_others, gossip, settings.gossip_interval),
                    self._keep_renewing,
                    gossip.run,
                )
        except TimeoutError:
            raise JoinFailed(
                f"{self.address} could not exchange probes with a majority of the other members "
                f"within {settings.join_timeout:g} s: make sure that they reach it under this "
                "address, and that it reaches them under theirs; no answer from "
                f"{self._names_of(gossip.silent(gossip.active - {self.generation}))}"
            ) from None

    def _names_of(self, generations: Iterable[int]) -> str:
        """Which members these are, as last read."""
        members = [self.snapshot.find(generation) for generation in sorted(generations)]
        known = [f"member {each.generation} ({each.address})" for each in members if each]
        return ", ".join(known) or "anybody"

    def _new_gossip(self, transport: GossipTransport) -> GossipRunner:
        # Only a node that joins needs these modules: `import rio` does not wait for them.
        from rio.cluster.gossip.conversation import Gossip
        from rio.cluster.gossip.runner import GossipRunner

        own = self.snapshot.find(self.generation)
        metadata = b"" if own is None else own.metadata
        gossip = Gossip(self.generation, self._config, self._rng, self._clock(), metadata)
        return GossipRunner(
            gossip,
            transport,
            self._clock,
            refresh=self.refresh,
            vote=self._vote,
            condemn=self._carry_out,
            fence=self._pause,
            renew=self._renew,
        )

    async def _greet_the_others(self, gossip: GossipRunner, interval: float) -> None:
        """Greet the others every ``interval`` seconds until enough of them have answered."""
        config = self._config
        live = LiveMembers(GAP_POLLS * max(config.renew_interval, config.poll_interval))
        live.read(self.snapshot, self._clock())
        gossip.note_read(self.snapshot, self._clock())
        next_read = next_greeting = self._clock()
        silence_is_news_at = self._clock() + NEWS_OF_SILENCE
        while not gossip.reached_majority_of(awaited := live.of(gossip.active - {self.generation})):
            if self._clock() >= silence_is_news_at:
                silence_is_news_at = math.inf
                logger.info(
                    "%s waits until most members answer, or have been silent for %g s: no answer"
                    " yet from %s",
                    self.address,
                    live.patience,
                    self._names_of(gossip.silent(awaited)),
                )
            if self._clock() >= next_read:
                next_read = self._clock() + config.poll_interval
                with suppress(StorageError):
                    live.read(await self._read(), self._clock())
            if self._clock() >= next_greeting:
                next_greeting = self._clock() + interval
                gossip.greet()
            await gossip.wait_for_message(interval)
