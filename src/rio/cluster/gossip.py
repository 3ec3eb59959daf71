"""How the members of a cluster talk to each other, without a socket, a clock or a task:
:meth:`Gossip.step` says what an event asks for.

SWIM with Lifeguard's refinements, as memberlist has them (``state.go``), over the compiled
:class:`~rio._core.gossip.MemberTable`. What is different: a suspicion that is not refuted in time
kills nobody. It becomes a vote in the storage, where a quorum of voters, each of whom has probed
the member itself, condemns it; and for a member whose lease stands still not even that, as the
lease decides (``docs/cluster.md``). So the worst that a peer can do with its messages is to make
this node probe, read the storage, and pause for one renewal.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeAlias

import msgspec

from rio._core.gossip import MemberTable, Record
from rio.cluster.config import ClusterConfig, GossipConfig
from rio.cluster.detector import (
    SICK,
    Awareness,
    FreshVotes,
    quorum,
    reaches_majority,
    remaining_suspicion,
    retransmit_limit,
    shortest_suspicion,
    wanted_confirmations,
)
from rio.cluster.lease import GAP_POLLS
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus
from rio.errors import ProtocolError

MAX_MESSAGE = 32 * 1024
"""Bytes of one message."""

RECORDS_PER_MESSAGE = 64
PIGGYBACK = 6
"""Records that travel with a probe."""

MAX_RELAYS = 64
"""Probes under way on behalf of others."""

MAX_WAITING = 64
"""Members to be probed out of turn, and messages of members whom only a newer snapshot knows."""

NACK_SHARE = 0.8
"""Of ``probe_timeout``: after it, who probes for another one reports that it has no answer either,
so that this still comes in time.
"""

REFRESHES = 3
"""Reads of the storage that gossip may cause at once; on average it is one in ``probe_interval``.
"""

DISTRUST = 60
"""For how many ``probe_interval`` a peer's claims about the storage are ignored that the storage
has disproved.
"""

MAX_INCARNATION = 0xFFFF_FFFF

# --- messages -------------------------------------------------------------------------------------

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0x7FFF_FFFF_FFFF_FFFF)]
ALL_BUCKETS = 0xFFFF_FFFF_FFFF_FFFF


class Message(msgspec.Struct, frozen=True, array_like=True):
    """What all messages say."""

    to: Number
    """The generation that the sender wants to talk to.

    Another one at the same address does not answer.
    """
    source: Number
    """The sender's generation."""
    version: Number
    """Of the newest snapshot that the sender itself has read from the storage."""
    health: Number
    """What the sender thinks of itself."""
    state: bytes
    """News, a state of :class:`MemberTable`; empty for none."""


class Ping(Message, frozen=True, array_like=True, tag=1):
    number: Number


class Ack(Message, frozen=True, array_like=True, tag=2):
    """The answer to a Ping, or to a PingRequest: the target has answered."""

    number: Number


class Nack(Message, frozen=True, array_like=True, tag=3):
    """To a PingRequest: I am there, but have no answer from the target."""

    number: Number


class PingRequest(Message, frozen=True, array_like=True, tag=4):
    """Please ping another member for me."""

    number: Number
    target: Number


class Update(Message, frozen=True, array_like=True, tag=5):
    """News only."""


class Digest(Message, frozen=True, array_like=True, tag=6):
    """Begins a comparison of all that two members know."""

    digests: Annotated[tuple[int, ...], msgspec.Meta(min_length=64, max_length=64)]


class Difference(Message, frozen=True, array_like=True, tag=7):
    """The answer to a Digest; carries the snapshot where it is newer.

    The records follow in Updates.
    """

    wanted: int
    """The buckets in which the two differ: send yours."""


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(
    Ping | Ack | Nack | PingRequest | Update | Digest | Difference
).decode


def decode(payload: bytes) -> Message:
    """:raises ProtocolError: it is no message."""
    if len(payload) > MAX_MESSAGE:
        raise ProtocolError(f"a message of {len(payload)} bytes is larger than {MAX_MESSAGE}")
    try:
        message: Message = _decode(payload)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise ProtocolError(f"a message does not decode: {cause}") from cause
    return message


# --- events and actions ---------------------------------------------------------------------------


class Tick(msgspec.Struct, frozen=True):
    """Time has passed."""


class Received(msgspec.Struct, frozen=True):
    """A message arrived on the control connection of a member."""

    source: int
    """The member's generation, as it introduced itself when it connected."""
    payload: bytes


class Read(msgspec.Struct, frozen=True):
    """The storage has been read."""

    snapshot: MembershipSnapshot
    sent: float
    """When the read was asked for."""


class Voted(msgspec.Struct, frozen=True):
    """A vote has been written."""

    member: Member
    """The target with all votes on it."""


class Late(msgspec.Struct, frozen=True):
    """The event loop did something later than it was to."""

    seconds: float


class Greet(msgspec.Struct, frozen=True):
    """This node is about to join: ping every active member that has not answered yet."""


Event: TypeAlias = Tick | Received | Read | Voted | Late | Greet


class Send(msgspec.Struct, frozen=True):
    """Give the message to the control connection of the member at ``address``; if it cannot be sent
    now it is lost.
    """

    address: str
    payload: bytes


class Reset(msgspec.Struct, frozen=True):
    """A probe failed: the next message shall go over a new connection."""

    address: str


class Refresh(msgspec.Struct, frozen=True):
    """Read the storage now: somebody has seen a newer version."""


class CastVote(msgspec.Struct, frozen=True):
    """Vote in the storage that this member cannot be reached."""

    target: int


class Condemn(msgspec.Struct, frozen=True):
    """Move this member to ``CONDEMNED``, if its status is still the same: a quorum has voted."""

    member: Member


class Fence(msgspec.Struct, frozen=True):
    """A peer says that the storage has given this node up: admit nothing until a renewal, sent
    after now, succeeds.
    """


Action: TypeAlias = Send | Reset | Refresh | CastVote | Condemn | Fence


# --- the state ------------------------------------------------------------------------------------


class Probe:
    """The probe that is under way."""

    def __init__(self, target: int, number: int, asks_at: float, ends_at: float) -> None:
        self.target = target
        self.number = number
        self.asks_at = asks_at
        """When others are asked to try; infinite once they are."""
        self.ends_at = ends_at
        self.asked: set[int] = set()
        self.nacks: set[int] = set()


class Relay(msgspec.Struct, frozen=True):
    """A probe that this node makes for another one."""

    origin: int
    number: int
    """What the origin calls the probe."""
    target: int
    ends_at: float


class Suspicion:
    """This node's own evidence against a member: it did not answer, whatever others say."""

    def __init__(self, incarnation: int, now: float, counter: int) -> None:
        self.incarnation = incarnation
        """A higher one refutes it."""
        self.since = now
        self.probed_at = now
        """When it last did not answer."""
        self.counter = counter
        """The newest lease counter read, and when it was seen to move; never, as long as nothing is
        known.
        """
        self.moved_at = -math.inf
        self.voted_at = -math.inf


class TokenBucket:
    """Lets ``burst`` through at once, and one in ``interval`` on average."""

    def __init__(self, interval: float, burst: int) -> None:
        self._interval = interval
        self._burst = burst
        self._full_at = -math.inf

    def ready_at(self) -> float:
        """From when on one more is let through."""
        return self._full_at - (self._burst - 1) * self._interval

    def take(self, now: float) -> bool:
        if now < self.ready_at():
            return False
        self._full_at = max(now, self._full_at) + self._interval
        return True


class Gossip:
    """One member's part in the conversation. All times are seconds of the caller's clock.

    ``generation``: this member. ``config``: its ``gossip`` must not be ``None``. ``rng``: the only
    source of chance. ``now``: the time at which it begins. ``metadata``: what it tells about
    itself. It does nothing but in :meth:`step`, which is to be called for each event, and with a
    :class:`Tick` at :attr:`due`.
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
        self.generation = generation
        self.settings: GossipConfig = config.gossip
        self.table = MemberTable()
        """What this node knows: the newest snapshot it has read or heard of, and what the members
        say.
        """
        self.members: dict[int, Member] = {}
        """The others that have not ended, as last read from the storage."""
        self.active: frozenset[int] = frozenset()
        """The generations of the active members, this one perhaps among them."""
        self.version = 0
        """Of the newest snapshot that this node itself has read."""
        self.awareness = Awareness()
        self.suspicions: dict[int, Suspicion] = {}
        self.acquainted: set[int] = set()
        """Members that have answered a greeting, over connections made from both sides."""
        self.rejected = 0
        """Messages that were refused whole."""
        self.incarnation = 0
        self.status = MemberStatus.JOINING
        self.metadata = metadata
        self._rng = rng
        self._renewal_gap = GAP_POLLS * max(config.renew_interval, config.poll_interval)
        self._votes = FreshVotes(self.settings.vote_lifetime, GAP_POLLS * config.poll_interval)
        self._generation_high = 0
        self._actions: list[Action] = []
        self._number = rng.getrandbits(32)
        self._greeting = self._next_number()
        self._ring: list[int] = []
        self._position = 0
        self._out_of_turn = False
        self._urgent: dict[int, None] = {}
        self._probe: Probe | None = None
        self._next_probe = now + rng.uniform(0.0, self.settings.probe_interval)
        self._relays: dict[int, Relay] = {}
        self._news: dict[int, int] = {}
        self._version_news = 0
        self._next_gossip = now
        self._next_sync = now + rng.uniform(0.0, self.settings.sync_interval)
        self._synced_with = 0
        self._syncs = TokenBucket(self.settings.sync_interval / 3, 3)
        self._refreshes = TokenBucket(self.settings.probe_interval, REFRESHES)
        self._refresh_wanted = False
        self._sick: set[int] = set()
        self._strangers: dict[int, Message] = {}
        self._claims: dict[int, tuple[int, float]] = {}
        self._distrusted: dict[int, float] = {}
        if metadata:
            self._announce()

    @property
    def due(self) -> float:
        """When the next :class:`Tick` is due, if no other event comes first."""
        due = min(self._next_probe, self._next_sync)
        if self._probe is not None:
            due = min(due, self._probe.asks_at, self._probe.ends_at)
        if self._news or self._version_news:
            due = min(due, self._next_gossip)
        if self._relays:
            due = min(due, next(iter(self._relays.values())).ends_at)
        if self._refresh_wanted:
            due = min(due, self._refreshes.ready_at())
        return due

    def step(self, event: Event, now: float) -> list[Action]:
        """Take in one event, and say what is to be done."""
        match event:
            case Received():
                self._received(event, now)
            case Read():
                self._read(event, now)
            case Voted():
                self._voted(event.member, now)
            case Late():
                self.awareness.loop_was_late(event.seconds)
            case Greet():
                self._greet()
        self._pass_time(now)
        actions, self._actions = self._actions, []
        return actions

    def knows_majority_of(self, members: frozenset[int]) -> bool:
        """Whether more than half of these have answered a greeting; true where there are none."""
        return not members or 2 * len(self.acquainted & members) > len(members)

    def is_suspected(self, generation: int) -> bool:
        """Whether anybody suspects a member, and it has not refuted that."""
        record = self.table.record(generation)
        return record is not None and bool(record.suspects)

    # --- time -------------------------------------------------------------------------------------

    def _pass_time(self, now: float) -> None:
        if self._probe is not None and now >= self._probe.ends_at:
            self._probe_failed(self._probe, now)
        elif self._probe is not None and now >= self._probe.asks_at:
            self._ask_others(self._probe)
        if now >= self._next_probe:
            self._start_probe(now)
        if self._relays:
            self._end_relays(now)
        if now >= self._next_gossip and (self._news or self._version_news):
            self._spread(now)
        if now >= self._next_sync:
            self._start_sync(now)
        if self._refresh_wanted and self._refreshes.take(now):
            self._refresh_wanted = False
            self._actions.append(Refresh())

    # --- probing ----------------------------------------------------------------------------------

    def _start_probe(self, now: float) -> None:
        self._next_probe = now + self.awareness.stretched(self.settings.probe_interval)
        target = self._next_target(now)
        if target is not None:
            asks_at = now + self.awareness.stretched(self.settings.probe_timeout)
            self._probe = Probe(target, self._next_number(), asks_at, self._next_probe)
            self._send(target, Ping, self._probe.number, state=self._piggyback(target))

    def _next_target(self, now: float) -> int | None:
        """Round robin over a shuffled list; every other turn is for those that are suspected, if
        there are any.
        """
        self._out_of_turn = not self._out_of_turn
        urgent = self._next_urgent(now) if self._out_of_turn else None
        return self._next_in_ring() if urgent is None else urgent

    def _next_in_ring(self) -> int | None:
        if self._position >= len(self._ring):
            self._rng.shuffle(self._ring)
            self._position = 0
        if not self._ring:
            return None
        self._position += 1
        return self._ring[self._position - 1]

    def _next_urgent(self, now: float) -> int | None:
        """One whom others suspect, to see for oneself, as long as too few do; or one whom this node
        suspects, to see whether it is back.
        """
        while self._urgent:
            target = next(iter(self._urgent))
            del self._urgent[target]
            if self._needs_witness(target):
                return target
        if not self.suspicions:
            return None
        target = min(self.suspicions, key=lambda suspect: self.suspicions[suspect].probed_at)
        return (
            target
            if now - self.suspicions[target].probed_at >= self.settings.probe_interval
            else None
        )

    def _needs_witness(self, target: int) -> bool:
        record = self.table.record(target)
        if record is None or target not in self.members or target in self.suspicions:
            return False
        return (
            0 < len(self.active.intersection(record.suspects)) < quorum(len(self.active - {target}))
        )

    def _ask_others(self, probe: Probe) -> None:
        probe.asks_at = math.inf
        able = [
            member
            for member in self._ring
            if member not in self.suspicions and member not in self._sick and member != probe.target
        ]
        probe.asked.update(self._rng.sample(able, min(self.settings.indirect_probes, len(able))))
        for member in sorted(probe.asked):
            self._send(member, PingRequest, probe.number, probe.target)

    def _probe_failed(self, probe: Probe, now: float) -> None:
        """The target has answered nobody: suspect it, and oneself as well if those who were asked
        did not even say that.
        """
        self._probe = None
        if probe.nacks < probe.asked:
            self.awareness.adjust(1)
        target = self.members.get(probe.target)
        if target is not None:
            self._actions.append(Reset(target.address))
            self._suspect(target, now)

    def _answered(self, message: Ack) -> None:
        probe, relay = self._probe, self._relays.get(message.number)
        if (
            probe is not None
            and message.number == probe.number
            and (message.source == probe.target or message.source in probe.asked)
        ):
            self._probe = None
            self.awareness.adjust(-1)
            self.suspicions.pop(probe.target, None)
        elif relay is not None and relay.target == message.source:
            del self._relays[message.number]
            self._send(relay.origin, Ack, relay.number)
        elif message.number == self._greeting:
            self.acquainted.add(message.source)

    def _asked_to_ping(self, message: PingRequest, now: float) -> None:
        if (
            self.awareness.sick
            or message.target not in self.members
            or len(self._relays) >= MAX_RELAYS
        ):
            self._send(message.source, Nack, message.number)
            return
        number = self._next_number()
        ends_at = now + NACK_SHARE * self.settings.probe_timeout
        self._relays[number] = Relay(message.source, message.number, message.target, ends_at)
        self._send(message.target, Ping, number)

    def _end_relays(self, now: float) -> None:
        for number, relay in list(self._relays.items()):
            if now >= relay.ends_at:
                del self._relays[number]
                self._send(relay.origin, Nack, relay.number)

    def _greet(self) -> None:
        for member in sorted(self.active - self.acquainted - {self.generation}):
            self._send(member, Ping, self._greeting)

    # --- suspicion and refutation -----------------------------------------------------------------

    def _suspect(self, member: Member, now: float) -> None:
        """This node's own probe has failed. A sick node keeps that to itself."""
        generation = member.generation
        status = min(member.status, MemberStatus.DRAINING)
        record = self.table.record(generation) or Record(generation, 0, status, b"", ())
        suspicion = self.suspicions.get(generation)
        if suspicion is None or suspicion.incarnation != record.incarnation:
            suspicion = self.suspicions[generation] = Suspicion(
                record.incarnation, now, member.lease_counter
            )
        suspicion.probed_at = now
        if not self.awareness.sick and self._put(record._replace(suspects=(self.generation,))):
            self._news[generation] = 0

    def _put(self, record: Record) -> bool:
        try:
            return self.table.put(*record)
        except ProtocolError:
            return False  # the table is full

    def _announce(self) -> None:
        """Say what this node says about itself, under its present incarnation."""
        if self._put(
            Record(
                self.generation,
                self.incarnation,
                min(self.status, MemberStatus.DRAINING),
                self.metadata,
                (),
            )
        ):
            self._news[self.generation] = 0

    def _check_own(self, record: Record) -> None:
        """Only the owner raises its incarnation: to refute a suspicion, or to take back what
        somebody else has said in its name.
        """
        own = (self.incarnation, min(self.status, MemberStatus.DRAINING), self.metadata)
        if record.suspects:
            self.awareness.adjust(1)
        if record.suspects or record[1:4] != own:
            self.incarnation = min(MAX_INCARNATION, max(self.incarnation, record.incarnation) + 1)
            self._announce()

    # --- hearing ----------------------------------------------------------------------------------

    def _received(self, event: Received, now: float) -> None:
        try:
            message = decode(event.payload)
        except ProtocolError:
            self.rejected += 1
            return
        if message.source != event.source or message.to != self.generation:
            self.rejected += 1
        elif message.source in self.members:
            self._hear(message, now)
        elif message.source > self._generation_high and len(self._strangers) < MAX_WAITING:
            self._strangers[message.source] = message
            self._refresh_wanted = True

    def _hear(self, message: Message, now: float) -> None:
        trusted = self._distrusted.get(message.source, -math.inf) <= now
        before = self.table.version
        try:
            changed = self.table.merge(message.state, trusted) if message.state else []
        except ProtocolError:
            self.rejected += 1
            return
        if (
            self.table.version > before
            and (self.table.status_of(self.generation) or 0) >= MemberStatus.CONDEMNED
        ):
            self._actions.append(Fence())
        if trusted:
            self._hear_version(message, now)
        (self._sick.add if message.health >= SICK else self._sick.discard)(message.source)
        for generation in changed:
            self._hear_record(generation)
        match message:
            case Ping():
                self._send(
                    message.source, Ack, message.number, state=self._piggyback(message.source)
                )
            case Ack():
                self._answered(message)
            case Nack():
                if self._probe is not None and message.number == self._probe.number:
                    self._probe.nacks.add(message.source)
            case PingRequest():
                self._asked_to_ping(message, now)
            case Digest():
                self._compare(message, now)
            case Difference():
                self._send_wanted(message)

    def _hear_version(self, message: Message, now: float) -> None:
        """Storage has a newer snapshot, says a peer: read it.

        It alone is believed, so a peer that lied is not listened to for a while.
        """
        version = max(message.version, self.table.version)
        if version > self.version:
            self._claims.setdefault(message.source, (version, now))
            self._refresh_wanted = True

    def _hear_record(self, generation: int) -> None:
        """Gossip has changed what is known about a member: pass it on, and look into a suspicion."""
        record = self.table.record(generation)
        if record is None:
            return
        self._news[generation] = 0
        if generation == self.generation:
            self._check_own(record)
            return
        if generation > self._generation_high:
            self._refresh_wanted = True
        suspicion = self.suspicions.get(generation)
        if suspicion is not None and record.incarnation > suspicion.incarnation:
            del self.suspicions[generation]
        if record.suspects and len(self._urgent) < MAX_WAITING:
            self._urgent[generation] = None

    # --- telling ----------------------------------------------------------------------------------

    def _spread(self, now: float) -> None:
        """Tell some others what is new, that there is a newer snapshot included."""
        self._next_gossip = now + self.settings.gossip_interval
        if not self._ring:
            self._news.clear()
            self._version_news = 0
        for member in self._rng.sample(self._ring, min(self.settings.fan_out, len(self._ring))):
            records = self._take_news(RECORDS_PER_MESSAGE)
            if records or self._version_news:
                self._version_news = max(0, self._version_news - 1)
                self._send(member, Update, state=self._encoded(records))

    def _take_news(self, most: int) -> list[int]:
        """What was sent least often so far; what was sent often enough is no news any more."""
        chosen = sorted(self._news, key=self._news.__getitem__)[:most]
        limit = self._retransmit_limit()
        for generation in chosen:
            self._news[generation] += 1
            if self._news[generation] >= limit:
                del self._news[generation]
        return chosen

    def _piggyback(self, receiver: int) -> bytes:
        """Some news, and first of all that the receiver is suspected, so that it can refute that."""
        records = self._take_news(PIGGYBACK)
        if self.is_suspected(receiver):
            records.append(receiver)
        return self._encoded(records)

    def _retransmit_limit(self) -> int:
        return retransmit_limit(self.settings.retransmit_multiplier, len(self.members) + 1)

    def _encoded(self, generations: list[int]) -> bytes:
        return self.table.encode(generations, snapshot=False) if generations else b""

    def _send(
        self, receiver: int, kind: Callable[..., Message], *fields: object, state: bytes = b""
    ) -> None:
        member = self.members.get(receiver)
        if member is not None:
            message = kind(
                receiver, self.generation, self.version, self.awareness.health, state, *fields
            )
            self._actions.append(Send(member.address, encode(message)))

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    # --- anti-entropy -----------------------------------------------------------------------------

    def _start_sync(self, now: float) -> None:
        self._next_sync = now + self.settings.sync_interval * self._rng.uniform(0.8, 1.2)
        if self._ring:
            self._synced_with = self._rng.choice(self._ring)
            self._send(self._synced_with, Digest, tuple(self.table.digests()))

    def _compare(self, message: Digest, now: float) -> None:
        own = self.table.digests()
        mask = sum(
            1 << bucket for bucket in range(len(own)) if own[bucket] != message.digests[bucket]
        )
        newer = self.version > message.version and self.table.version == self.version
        if (mask or newer) and self._syncs.take(now):
            self._send(
                message.source,
                Difference,
                mask,
                state=self.table.encode((), snapshot=True) if newer else b"",
            )
            self._send_records(message.source, self.table.in_buckets(mask))

    def _send_wanted(self, message: Difference) -> None:
        if message.source == self._synced_with:
            self._synced_with = 0
            self._send_records(message.source, self.table.in_buckets(message.wanted & ALL_BUCKETS))

    def _send_records(self, receiver: int, generations: list[int]) -> None:
        for start in range(0, len(generations), RECORDS_PER_MESSAGE):
            self._send(
                receiver,
                Update,
                state=self._encoded(generations[start : start + RECORDS_PER_MESSAGE]),
            )

    # --- the storage ------------------------------------------------------------------------------

    def _read(self, event: Read, now: float) -> None:
        snapshot = event.snapshot
        if snapshot.version > self.version:
            self._adopt(snapshot)
        self._check_claims(snapshot, event.sent, now)
        self._votes.read(snapshot, now)
        if self.suspicions:
            self._judge(
                (member for member in snapshot.members if member.generation in self.suspicions), now
            )
        for message in list(self._strangers.values()):
            if message.source in self.members or message.source <= self._generation_high:
                del self._strangers[message.source]
            if message.source in self.members:
                self._hear(message, now)

    def _adopt(self, snapshot: MembershipSnapshot) -> None:
        """A newer snapshot than any that this node has read: follow it, and let the others know
        that there is one.
        """
        self.version, self._generation_high = snapshot.version, snapshot.generation_high
        before, self.members = self.members, {}
        for member in snapshot.members:
            if not member.status.terminal and member.generation != self.generation:
                self.members[member.generation] = member
        self.active = frozenset(member.generation for member in snapshot.active)
        self._version_news = self._retransmit_limit()
        try:
            self.table.put_snapshot(snapshot.version, snapshot.generation_high, _listed(snapshot))
        except ProtocolError:
            self.rejected += 1
        self._forget(before.keys() - self.members.keys())
        self._meet(self.members.keys() - before.keys())
        own = snapshot.find(self.generation)
        if own is not None and own.status != self.status:
            self._turn_into(own.status)

    def _forget(self, gone: Iterable[int]) -> None:
        for generation in gone:
            known: dict[int, Any]
            for known in (
                self.suspicions,
                self._urgent,
                self._news,
                self._claims,
                self._distrusted,
            ):
                known.pop(generation, None)
            self.acquainted.discard(generation)
            self._sick.discard(generation)
        if gone:
            self._ring = [generation for generation in self._ring if generation in self.members]
        if self._probe is not None and self._probe.target not in self.members:
            self._probe = None

    def _meet(self, new: Iterable[int]) -> None:
        """New members are probed at a random place of the round, so that not all probe them at
        once.
        """
        for generation in sorted(new):
            self._ring.insert(self._rng.randint(0, len(self._ring)), generation)

    def _turn_into(self, status: MemberStatus) -> None:
        before, self.status = self.status, status
        if before == MemberStatus.JOINING and self.table.record(self.generation) is None:
            return  # nobody says anything else
        self.incarnation = min(MAX_INCARNATION, self.incarnation + 1)
        self._announce()

    def _check_claims(self, snapshot: MembershipSnapshot, sent: float, now: float) -> None:
        """What peers have claimed before this read was sent, it must show.

        If it does not, they are not believed for a while.
        """
        for source, (version, heard_at) in list(self._claims.items()):
            if heard_at <= sent or version <= snapshot.version:
                del self._claims[source]
            if heard_at <= sent and version > snapshot.version:
                self._distrusted[source] = now + DISTRUST * self.settings.probe_interval
        if self.table.version > self.version and not self._claims:
            self.table.replace_snapshot(
                snapshot.version, snapshot.generation_high, _listed(snapshot)
            )

    # --- votes ------------------------------------------------------------------------------------

    def _judge(self, suspects: Iterable[Member], now: float) -> None:
        """After a read: cast one vote, or condemn one member, at most."""
        for member in suspects:
            action = self._verdict(member, self.suspicions[member.generation], now)
            if action is not None:
                self._actions.append(action)
                return

    def _verdict(self, member: Member, suspicion: Suspicion, now: float) -> Action | None:
        if member.lease_counter != suspicion.counter:
            suspicion.counter, suspicion.moved_at = member.lease_counter, now
        if member.status not in (MemberStatus.ACTIVE, MemberStatus.DRAINING) or not self._may_vote(
            member, suspicion, now
        ):
            return None  # who is about to join finds out by itself that nobody reaches it
        if now - suspicion.voted_at >= self.settings.vote_lifetime / 3:
            suspicion.voted_at = now
            return CastVote(member.generation)
        voters = self.active - {member.generation}
        return (
            Condemn(member)
            if self._votes.count(member.generation, voters, now) >= quorum(len(voters))
            else None
        )

    def _may_vote(self, member: Member, suspicion: Suspicion, now: float) -> bool:
        """The suspicion has stood long enough, the member still renews (if not, its lease decides),
        and this node is not the sick one.
        """
        if (
            self.awareness.sick
            or self.generation not in self.active
            or now - suspicion.moved_at > self._renewal_gap
        ):
            return False
        members = len(self.members) + 1
        shortest = shortest_suspicion(
            self.settings.suspicion_multiplier, members, self.settings.probe_interval
        )
        remaining = self._remaining(member.generation, suspicion, now, shortest)
        return remaining <= 0 and reaches_majority(
            self.active, frozenset(self.suspicions), waited=remaining <= -shortest
        )

    def _remaining(
        self, generation: int, suspicion: Suspicion, now: float, shortest: float
    ) -> float:
        record = self.table.record(generation)
        others = self.active.intersection(record.suspects if record else ()) - {
            self.generation,
            generation,
        }
        wanted = wanted_confirmations(len(self.members) + 1)
        longest = self.settings.suspicion_max_multiplier * shortest
        return remaining_suspicion(
            min(len(others), wanted), wanted, now - suspicion.since, shortest, longest
        )

    def _voted(self, member: Member, now: float) -> None:
        self._votes.written(member, now)
        if member.generation in self.suspicions:
            self._judge((member,), now)


def _listed(snapshot: MembershipSnapshot) -> list[tuple[int, int]]:
    return [(member.generation, member.status) for member in snapshot.members]
