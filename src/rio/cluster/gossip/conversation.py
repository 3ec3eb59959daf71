"""How the members of a cluster talk to each other, without a socket, a clock or a task:
:meth:`Gossip.step` returns what an event asks for.

The protocol is SWIM with Lifeguard's refinements, as in memberlist (``state.go``), over the
compiled :class:`~rio._core.gossip.MemberTable`. One thing is different: a suspicion that is not
refuted in time kills nobody. It becomes a vote in the storage, where a quorum of voters, each of
which has probed the member itself, condemns it. A member whose lease stands still is not even voted
on, as the lease decides (``docs/cluster.md``). So the worst that a peer can do with its messages is
to make this node probe, read the storage, and pause for one renewal.

===================  ================================================================
``messages``         what the members say to each other
``events``           what goes in
``actions``          what comes out
``membership_view``  the members, as this node has read them from the storage
``peer_claims``      what peers say about the storage, and which peers are believed
``own_record``       what this node says about itself
``news``             what it tells, how often, and to whom
``comparisons``      how two members come to know the same
``probes``           whether the others answer
``probe_order``      which member it asks next
``relays``           probes on behalf of others
``suspicion``        which members it suspects, and for how long
``awareness``        how far it trusts its own senses
``judge``            when it votes and condemns
``votes``            which votes count
``greeting``         whether the others can be reached, before it joins
===================  ================================================================
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Set

from rio._core.gossip import MemberTable, Record
from rio.cluster.config import ClusterConfig
from rio.cluster.gossip.actions import (
    CastVote,
    Condemn,
    Fence,
    GossipAction,
    GossipActions,
    Refresh,
)
from rio.cluster.gossip.awareness import Awareness
from rio.cluster.gossip.comparisons import Comparisons
from rio.cluster.gossip.events import (
    GossipEvent,
    GreetingDue,
    LoopLate,
    MessageReceived,
    NewsDue,
    SnapshotRead,
    VoteWritten,
)
from rio.cluster.gossip.greeting import Greeting
from rio.cluster.gossip.judge import Judge
from rio.cluster.gossip.member_ring import MemberRing
from rio.cluster.gossip.membership_view import MembershipView
from rio.cluster.gossip.messages import (
    Ack,
    Difference,
    Digest,
    GossipMessage,
    Nack,
    Ping,
    PingRequest,
    decode,
)
from rio.cluster.gossip.news import News, NewsRound
from rio.cluster.gossip.own_record import OwnRecord
from rio.cluster.gossip.peer_claims import PeerClaims
from rio.cluster.gossip.probe_order import ProbeOrder
from rio.cluster.gossip.probes import Prober
from rio.cluster.gossip.relays import Relays
from rio.cluster.gossip.suspicion import Suspicions
from rio.contracts.membership import MembershipSnapshot, MemberStatus
from rio.errors import ProtocolError

MAX_STRANGERS = 64
"""Members that only a newer snapshot knows, whose last message is kept until that is read."""


class Gossip:
    """One member's part in the conversation. All times are seconds of the caller's clock.

    It does nothing but in :meth:`step`, which has to be called for each event, and with a
    :class:`~rio.cluster.gossip.events.Tick` at :attr:`due`.

    ``generation``: this member. ``config``: its ``gossip`` must not be ``None``. ``rng``: the only
    source of chance. ``now``: the time at which it begins. ``metadata``: what it tells about
    itself.
    """

    def __init__(
        self,
        generation: int,
        config: ClusterConfig,
        rng: random.Random,
        now: float,
        metadata: bytes = b"",
    ) -> None:
        assert config.gossip is not None
        gossip = config.gossip
        self.table = MemberTable()
        """What this node knows: the newest snapshot that it has read or heard of, and what the
        members say.
        """
        self.view = view = MembershipView(generation)
        self.own = OwnRecord(generation, metadata)
        self.awareness = Awareness()
        self.rejected = 0
        """Messages that were refused whole."""
        self._strangers: dict[int, GossipMessage] = {}
        self._actions = actions = GossipActions(view, self.awareness)
        self.peer_claims = PeerClaims(gossip.probe_interval, gossip.gossip_interval / 4)
        self.news = News(self.table, view, gossip.retransmit_multiplier)
        self.suspicions = Suspicions(view, self.table, self.news, self.awareness, gossip)
        self._judge = Judge(view, self.suspicions, self.awareness, config, gossip)
        numbers = itertools.count(rng.getrandbits(32) + 1)
        self.greeting = Greeting(next(numbers), view, actions)
        self.ring = MemberRing(rng)
        self.probe_order = ProbeOrder(self.ring, self.suspicions)
        self._prober = Prober(
            self.probe_order,
            self.ring,
            view,
            self.suspicions,
            self.awareness,
            self.news,
            actions,
            numbers,
            gossip,
            now + rng.uniform(0.0, gossip.probe_interval),
        )
        self._relays = Relays(view, self.awareness, actions, numbers, gossip)
        self._news_round = NewsRound(self.news, self.ring, actions, gossip, now)
        self.comparisons = Comparisons(
            self.table,
            view,
            self.ring,
            actions,
            gossip,
            rng,
            now + rng.uniform(0.0, gossip.sync_interval),
        )
        if metadata:
            self.news.publish(self.own.record())

    @property
    def due(self) -> float:
        """When the next :class:`~rio.cluster.gossip.events.Tick` is due, if no other event comes
        first.
        """
        return min(
            self._prober.due,
            self._relays.due,
            self._news_round.due,
            self.comparisons.due,
            self.peer_claims.due,
        )

    def step(self, event: GossipEvent, now: float) -> list[GossipAction]:
        """Take in one event, and return what is to be done."""
        match event:
            case MessageReceived():
                self._receive(event, now)
            case SnapshotRead():
                self._read(event, now)
            case VoteWritten():
                self._carry_out(self._judge.note_vote(event.member, now))
            case LoopLate():
                self.awareness.note_late_loop(event.seconds)
            case GreetingDue():
                self.greeting.send()
            case NewsDue():
                self._news_round.tell(now)
        self._pass_time(now)
        return self._actions.take()

    def _pass_time(self, now: float) -> None:
        self._prober.pass_time(now)
        self._relays.pass_time(now)
        self._news_round.pass_time(now)
        self.comparisons.pass_time(now)
        if self.peer_claims.take_read(now):
            self._actions.add(Refresh())

    def _carry_out(self, verdict: CastVote | Condemn | None) -> None:
        if verdict is not None:
            self._actions.add(verdict)

    # --- messages ---------------------------------------------------------------------------------

    def _receive(self, event: MessageReceived, now: float) -> None:
        try:
            message = decode(event.payload)
        except ProtocolError:
            self.rejected += 1
            return
        if message.source != event.source or message.to != self.view.generation:
            self.rejected += 1
        elif message.source in self.view.members:
            self._hear(message, now)
        elif self._may_be_new(message.source) and len(self._strangers) < MAX_STRANGERS:
            self._strangers[message.source] = message
            self.peer_claims.want_read(now)

    def _may_be_new(self, generation: int) -> bool:
        """Whether a member that this node does not know may be in a newer snapshot."""
        return generation > self.view.generation_high

    def _hear(self, message: GossipMessage, now: float) -> None:
        trusted = self.peer_claims.trusts(message.source, now)
        before = self.table.version
        try:
            changed = self.table.merge(message.state, trusted) if message.state else []
        except ProtocolError:
            self.rejected += 1
            return
        if self.table.version > before and self._is_given_up():
            self._actions.add(Fence())
        if trusted:
            self._hear_version(message, now)
        self._prober.note_health(message)
        for generation in changed:
            self._hear_record(generation, now)
        self._answer(message, now)

    def _is_given_up(self) -> bool:
        """Whether the newest snapshot that was heard of has ended this member."""
        status = self.table.status_of(self.view.generation)
        return status is not None and status >= MemberStatus.CONDEMNED

    def _hear_version(self, message: GossipMessage, now: float) -> None:
        version = max(message.version, self.table.version)
        if version > self.view.version:
            self.peer_claims.note_claim(message.source, version, now)

    def _hear_record(self, generation: int, now: float) -> None:
        """A message has changed what is known about a member: pass it on, and look into it."""
        record = self.table.record(generation)
        if record is None:
            return
        self.news.add(generation)
        if generation == self.view.generation:
            self._defend(record)
            return
        if self._may_be_new(generation):
            self.peer_claims.want_read(now)
        self.suspicions.refute(generation, record.incarnation)
        if record.suspects:
            self.probe_order.look_into(generation)

    def _defend(self, record: Record) -> None:
        """Refute what others say about this node, or in its name. A node that is suspected trusts
        its senses less.
        """
        if record.suspects:
            self.awareness.adjust(1)
        if not self.own.agrees_with(record):
            self.own.raise_incarnation(above=record.incarnation)
            self.news.publish(self.own.record())

    def _answer(self, message: GossipMessage, now: float) -> None:
        match message:
            case Ping():
                state = self.news.piggyback(message.source)
                self._actions.send(message.source, Ack, message.number, state=state)
            case Ack():
                if not (
                    self._prober.take_answer(message, now) or self._relays.take_answer(message)
                ):
                    self.greeting.take_answer(message)
            case Nack():
                self._prober.take_nack(message, now)
            case PingRequest():
                self._relays.take_request(message, now)
            case Digest():
                self.comparisons.answer(message, now)
            case Difference():
                self.comparisons.send_wanted(message)

    # --- the storage ------------------------------------------------------------------------------

    def _read(self, event: SnapshotRead, now: float) -> None:
        snapshot = event.snapshot
        is_news = snapshot.version > self.view.version
        if is_news:
            self._adopt(snapshot)
        self._check_claims(snapshot, is_news, event.sent, now)
        self._carry_out(self._judge.read(snapshot, now))
        self._hear_strangers(now)

    def _adopt(self, snapshot: MembershipSnapshot) -> None:
        """Follow a newer snapshot than any that this node has read, and let the others know that
        there is one.
        """
        gone, new = self.view.adopt(snapshot)
        self.news.add_version()
        try:
            self.table.put_snapshot(snapshot.version, snapshot.generation_high, _listed(snapshot))
        except ProtocolError:
            self.rejected += 1
        self._forget(gone)
        self.ring.insert(new)
        own = snapshot.find(self.view.generation)
        if own is not None and own.status != self.own.status:
            self._turn_into(own.status)

    def _forget(self, gone: Set[int]) -> None:
        """Drop what is known about members that have ended."""
        self.suspicions.forget(gone)
        self.probe_order.forget(gone)
        self.news.forget(gone)
        self.peer_claims.forget(gone)
        self.greeting.forget(gone)
        self._prober.forget(gone)
        self.ring.remove(gone)

    def _turn_into(self, status: MemberStatus) -> None:
        """Take a new status, and tell the others, unless they know it from the storage alone."""
        before, self.own.status = self.own.status, status
        if before == MemberStatus.JOINING and self.table.record(self.view.generation) is None:
            return
        self.own.raise_incarnation()
        self.news.publish(self.own.record())

    def _check_claims(
        self, snapshot: MembershipSnapshot, is_news: bool, sent: float, now: float
    ) -> None:
        """Distrust peers whose claims a read disproves, and forget a snapshot that was only heard
        of, once no claim stands for it.
        """
        self.peer_claims.check(snapshot.version, is_news, sent, now)
        if self.table.version > self.view.version and not self.peer_claims.open:
            self.table.replace_snapshot(
                snapshot.version, snapshot.generation_high, _listed(snapshot)
            )

    def _hear_strangers(self, now: float) -> None:
        """Hear the messages of members that are known by now; drop those of members that ended."""
        for message in list(self._strangers.values()):
            is_member = message.source in self.view.members
            if is_member or not self._may_be_new(message.source):
                del self._strangers[message.source]
            if is_member:
                self._hear(message, now)


def _listed(snapshot: MembershipSnapshot) -> list[tuple[int, int]]:
    return [(member.generation, _known(member.status)) for member in snapshot.members]


def _known(status: MemberStatus) -> MemberStatus:
    """A status of a newer version is gossiped as one that is neither active nor terminal."""
    return status if status in MemberStatus.__members__.values() else MemberStatus.JOINING
