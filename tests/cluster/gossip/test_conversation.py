"""The rules of gossip one by one: an event in, actions out. No network, no storage, no loop."""

from __future__ import annotations

import math
import random
from typing import Any, TypeVar

import pytest

from rio._core.gossip import MemberTable, Record
from rio.cluster.config import ClusterConfig
from rio.cluster.gossip.actions import (
    CastVote,
    Condemn,
    Fence,
    Refresh,
    ResetLink,
    Send,
)
from rio.cluster.gossip.conversation import Gossip
from rio.cluster.gossip.events import (
    GreetingDue,
    LoopLate,
    MessageReceived,
    NewsDue,
    SnapshotRead,
    Tick,
    VoteWritten,
)
from rio.cluster.gossip.messages import (
    MAX_MESSAGE,
    Ack,
    Difference,
    Digest,
    GossipMessage,
    Nack,
    Ping,
    PingRequest,
    Update,
    decode,
    encode,
)
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus, Vote
from rio.errors import ProtocolError

M = TypeVar("M", bound=GossipMessage)

JOINING, ACTIVE, DRAINING, CONDEMNED = (
    MemberStatus.JOINING,
    MemberStatus.ACTIVE,
    MemberStatus.DRAINING,
    MemberStatus.CONDEMNED,
)
DEAD = MemberStatus.DEAD


# --- a node and what it says ----------------------------------------------------------------------


class Talk:
    """Member ``own`` of so many, all of them active. The test plays the others."""

    def __init__(
        self,
        count: int,
        *,
        own: int = 1,
        status: MemberStatus = ACTIVE,
        metadata: bytes = b"",
        seed: int = 0,
    ) -> None:
        self.now = 0.0
        self.own = own
        self.gossip = Gossip(own, ClusterConfig.strict(), random.Random(seed), 0.0, metadata)
        self.members = [
            Member(generation, f"a:{generation}", ACTIVE) for generation in range(1, count + 1)
        ]
        self.members[own - 1] = Member(own, f"a:{own}", status)
        self.version = 10
        self.read()
        self.said: list[Any] = []

    def read(self, *, sent: float | None = None, **counters: int) -> list[Any]:
        snapshot = MembershipSnapshot(
            self.version, max(100, len(self.members)), tuple(self.members)
        )
        return self.step(SnapshotRead(snapshot, self.now if sent is None else sent))

    def change(self, generation: int, **changes: Any) -> None:
        import msgspec

        self.version += 1
        self.members[generation - 1] = msgspec.structs.replace(
            self.members[generation - 1], **changes
        )

    def renew_all(self) -> None:
        import msgspec

        self.members = [
            msgspec.structs.replace(member, lease_counter=member.lease_counter + 1)
            for member in self.members
        ]

    def step(self, event: Any) -> list[Any]:
        return self.gossip.step(event, self.now)

    def hear(
        self,
        kind: Any,
        source: int,
        *fields: Any,
        state: bytes = b"",
        version: int = 10,
        health: int = 0,
        to: int = 0,
    ) -> list[Any]:
        return self.step(
            MessageReceived(
                source, encode(kind(to or self.own, source, version, health, state, *fields))
            )
        )

    def wait(self, seconds: float, answering: bool = True) -> list[Any]:
        """Let time pass tick by tick, while the others answer every ping, or none."""
        end, actions = self.now + seconds, list[Any]()
        while self.gossip.due <= end:
            self.now = max(self.now, self.gossip.due)
            for action in self.step(Tick()):
                actions.append(action)
                message = decode(action.payload) if isinstance(action, Send) else None
                if answering and isinstance(message, Ping):
                    actions += self.hear(Ack, message.to, message.number)
        self.now = end
        return actions

    def probe(self, target: int) -> Ping:
        """Wait until the node probes ``target``."""
        while True:
            self.now = self.gossip.due
            for message in messages(self.step(Tick()), Ping):
                if message.to == target:
                    return message
                self.hear(Ack, message.to, message.number)

    def suspect(self, target: int) -> list[Any]:
        """Fail a probe of ``target``: no member that is asked has an answer either."""
        self.probe(target)
        actions = []
        while target not in self.gossip.suspicions:
            self.now = self.gossip.due
            taken = self.step(Tick())
            actions += taken
            for request in messages(taken, PingRequest):
                self.hear(Nack, request.to, request.number)
        return actions


def messages(actions: list[Any], kind: type[M]) -> list[M]:
    decoded = [decode(action.payload) for action in actions if isinstance(action, Send)]
    return [message for message in decoded if isinstance(message, kind)]


def is_suspected(talk: Talk, generation: int) -> bool:
    """Whether anybody suspects a member that has not refuted it, as far as this node knows."""
    record = talk.gossip.table.record(generation)
    return record is not None and bool(record.suspects)


def told(actions: list[Any]) -> dict[int, Record]:
    """All records in the messages."""
    table = MemberTable()
    for message in messages(actions, GossipMessage):
        if message.state:
            table.merge(message.state)
    return {record.generation: record for record in table.records()}


def state(
    *records: Record, snapshot: tuple[int, int, list[tuple[int, int]]] | None = None
) -> bytes:
    table = MemberTable()
    if snapshot is not None:
        table.put_snapshot(*snapshot)
    for record in records:
        table.put(*record)
    return table.encode()


# --- probing --------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_its_number() -> None:
    talk = Talk(3)
    (ack,) = messages(talk.hear(Ping, 2, 77), Ack)
    assert (ack.to, ack.source, ack.number, ack.version) == (2, 1, 77, 10)


def test_a_ping_for_another_generation_is_not_answered() -> None:
    talk = Talk(3)
    assert talk.hear(Ping, 2, 77, to=5) == []
    assert talk.gossip.rejected == 1


def test_a_message_in_the_name_of_another_member_is_refused() -> None:
    talk = Talk(3)
    assert talk.step(MessageReceived(3, encode(Ping(1, 2, 10, 0, b"", 77)))) == []
    assert talk.gossip.rejected == 1


@pytest.mark.parametrize("is_listed", [True, False], ids=["dead in the storage", "purged"])
def test_an_earlier_member_at_an_address_does_not_speak_for_its_successor(is_listed: bool) -> None:
    talk = Talk(4)
    talk.change(2, status=DEAD)
    talk.change(4, address="a:2")
    if not is_listed:
        del talk.members[1]
    talk.read()
    ping = talk.probe(4)
    slander = state(Record(4, 1, ACTIVE, b"", (2,)))
    assert talk.hear(Ack, 2, ping.number, state=slander) == []
    assert talk.hear(Ping, 2, 77, state=slander) == []
    assert talk.gossip.table.record(4) is None, "what it says is not heard"
    talk.wait(10.0, answering=False)
    assert 4 in talk.gossip.suspicions, "its answer is none of the member that was asked"


def test_members_are_probed_in_turn_each_once_a_round() -> None:
    talk = Talk(6)
    targets = [message.to for message in messages(talk.wait(20.0), Ping)]
    rounds = [targets[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(one) == [2, 3, 4, 5, 6] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1  # in another order each time


def test_a_member_that_answers_a_probe_is_not_suspected() -> None:
    talk = Talk(3)
    talk.wait(60.0)
    assert not talk.gossip.suspicions


def test_before_a_member_is_suspected_three_others_are_asked() -> None:
    talk = Talk(8)
    ping = talk.probe(5)
    sent_at = talk.now
    talk.now = talk.gossip.due
    asked = messages(talk.step(Tick()), PingRequest)
    assert talk.now == pytest.approx(sent_at + 0.5)
    assert len({request.to for request in asked}) == 3
    assert {(request.target, request.number) for request in asked} == {(5, ping.number)}
    talk.hear(Ack, asked[0].to, ping.number)
    talk.wait(5.0)
    assert not talk.gossip.suspicions


@pytest.mark.parametrize("liar", ["wrong number", "not asked"])
def test_an_answer_that_was_not_asked_for_counts_for_nothing(liar: str) -> None:
    talk = Talk(8)
    ping = talk.probe(5)
    talk.hear(Ack, 5 if liar == "wrong number" else 6, ping.number + (liar == "wrong number"))
    talk.wait(1.0, answering=False)
    assert 5 in talk.gossip.suspicions


def test_who_is_asked_pings_the_target_and_passes_the_answer_on() -> None:
    talk = Talk(4)
    (ping,) = messages(talk.hear(PingRequest, 2, 5, 3), Ping)
    assert ping.to == 3
    (ack,) = messages(talk.hear(Ack, 3, ping.number), Ack)
    assert (ack.to, ack.number) == (2, 5)
    assert messages(talk.hear(Ack, 3, ping.number), Ack) == []  # exactly one


def test_who_is_asked_says_in_time_that_it_has_no_answer() -> None:
    talk = Talk(4)
    talk.hear(PingRequest, 2, 5, 3)
    (nack,) = messages(talk.wait(0.41, answering=False), Nack)
    assert (nack.to, nack.number) == (2, 5)


def test_a_sick_node_does_not_probe_for_others_and_says_so_at_once() -> None:
    talk = Talk(4)
    talk.gossip.awareness.adjust(3)
    actions = talk.hear(PingRequest, 2, 5, 3)
    assert messages(actions, Ping) == []
    assert [nack.number for nack in messages(actions, Nack)] == [5]


def test_members_that_say_they_are_sick_are_not_asked() -> None:
    talk = Talk(4)
    talk.hear(Update, 3, health=3)
    talk.probe(2)
    talk.now = talk.gossip.due
    assert [request.to for request in messages(talk.step(Tick()), PingRequest)] == [4]


def test_a_failed_probe_whose_helpers_did_not_answer_either_is_ones_own_fault_too() -> None:
    talk = Talk(4)
    talk.probe(2)
    talk.wait(1.0, answering=False)
    assert talk.gossip.awareness.health == 1
    other = Talk(4)
    other.suspect(2)
    assert other.gossip.awareness.health == 0


def test_a_node_that_distrusts_itself_probes_more_slowly_until_its_probes_succeed() -> None:
    talk = Talk(4)
    talk.wait(3.0)
    talk.gossip.awareness.adjust(4)
    talk.wait(1.0)
    assert talk.gossip.awareness.health == 3
    talk.wait(20.0)
    assert talk.gossip.awareness.health == 0


@pytest.mark.parametrize(
    ("late", "health"), [(0.1, 0), (0.25, 0), (0.3, 1), (1.0, 1), (1.1, 2), (20.0, 2)]
)
def test_a_late_event_loop_makes_a_node_distrust_itself(late: float, health: int) -> None:
    talk = Talk(3)
    talk.gossip.step(LoopLate(late), 0.0)
    assert talk.gossip.awareness.health == health


def test_a_failed_probe_asks_for_a_new_connection() -> None:
    talk = Talk(4)
    assert ResetLink("a:3") in talk.suspect(3)


# --- suspicion and refutation ---------------------------------------------------------------------


def test_a_suspicion_is_told_and_first_of_all_to_the_suspect() -> None:
    talk = Talk(4)
    talk.suspect(3)
    assert is_suspected(talk, 3)
    talk.gossip.news.clear()
    ping = talk.probe(3)
    assert told([Send("", encode(ping))]) == {3: Record(3, 0, ACTIVE, b"", (1,))}


def test_a_suspicion_that_is_heard_is_looked_into_before_it_is_shared() -> None:
    talk = Talk(8)
    talk.hear(Update, 2, state=state(Record(5, 0, ACTIVE, b"", (2,))))
    assert not talk.gossip.suspicions
    pings = messages(talk.wait(2.0), Ping)
    assert 5 in [ping.to for ping in pings]
    record = talk.gossip.table.record(5)
    assert record is not None
    assert record.suspects == (2,)  # member 3 answered this node


def test_a_suspicion_that_enough_share_is_not_looked_into_again() -> None:
    talk = Talk(8)
    talk.hear(Update, 2, state=state(Record(5, 0, ACTIVE, b"", (2, 3, 4, 6))))
    assert not talk.gossip.suspicions.needs_witness(5)


def test_a_node_that_hears_that_it_is_suspected_refutes_it() -> None:
    talk = Talk(3, metadata=b"zone a")
    talk.hear(Update, 2, state=state(Record(1, 0, ACTIVE, b"", (3,))))
    assert talk.gossip.awareness.health == 0  # it was joining then, so that is refuted already
    actions = talk.hear(Update, 2, state=state(Record(1, 1, ACTIVE, b"", (3,))))
    assert talk.gossip.awareness.health == 1
    assert told(actions + talk.wait(0.5))[1] == Record(1, 2, ACTIVE, b"zone a", ())


@pytest.mark.parametrize(
    "forged",
    [
        Record(1, 7, DRAINING, b"", ()),
        Record(1, 7, ACTIVE, b"lie", ()),
        Record(1, 0, DRAINING, b"", ()),
    ],
)
def test_a_node_takes_back_what_others_say_in_its_name(forged: Record) -> None:
    talk = Talk(3)
    actions = talk.hear(Update, 2, state=state(forged)) + talk.wait(0.5)
    assert told(actions)[1] == Record(1, forged.incarnation + 1, ACTIVE, b"", ())


def test_only_the_owner_refutes() -> None:
    talk = Talk(4)
    talk.suspect(3)
    for source in (2, 3, 4):
        talk.hear(Update, source, state=state(Record(3, 0, ACTIVE, b"", ())))
    assert is_suspected(talk, 3)
    # no message from here raises the incarnation
    assert told(talk.wait(20.0, answering=False))[3].incarnation == 0
    talk.hear(Update, 4, state=state(Record(3, 1, ACTIVE, b"", ())))
    assert not is_suspected(talk, 3)
    assert 3 not in talk.gossip.suspicions


def test_an_answer_ends_ones_own_suspicion_but_not_that_of_others() -> None:
    talk = Talk(4)
    talk.suspect(3)
    ping = talk.probe(3)
    talk.hear(Ack, 3, ping.number)
    assert not talk.gossip.suspicions
    assert is_suspected(talk, 3)  # until member 2 refutes


def test_a_sick_node_keeps_its_suspicions_to_itself() -> None:
    talk = Talk(4)
    talk.gossip.awareness.adjust(8)
    talk.suspect(3)
    assert not is_suspected(talk, 3)


def test_a_draining_member_says_so_under_a_new_incarnation() -> None:
    talk = Talk(3)
    talk.change(1, status=DRAINING)
    assert told(talk.read() + talk.wait(0.5))[1] == Record(1, 1, DRAINING, b"", ())


def test_gossip_about_a_member_that_has_ended_is_dropped_and_it_never_comes_back() -> None:
    talk = Talk(4)
    talk.suspect(3)
    talk.change(3, status=DEAD)
    talk.read()
    assert not talk.gossip.suspicions
    for incarnation in (0, 5, 0xFFFF_FFFF):
        talk.hear(Update, 2, state=state(Record(3, incarnation, ACTIVE, b"", ())))
    assert talk.gossip.table.record(3) is None
    assert 3 not in talk.gossip.view.members
    assert talk.hear(Ping, 3, 9) == []  # nor is it answered
    assert 3 not in {message.to for message in messages(talk.wait(30.0), GossipMessage)}


# --- news -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "limit"), [(3, 4), (12, 8), (100, 12)])
def test_news_is_sent_as_often_as_the_limit_says_and_no_more(count: int, limit: int) -> None:
    talk = Talk(count)
    talk.wait(30.0)
    actions = talk.hear(Update, 2, state=state(Record(2, 1, ACTIVE, b"m", ())))
    carriers = [
        message for message in messages(actions + talk.wait(30.0), GossipMessage) if message.state
    ]
    assert len(carriers) == limit


def test_what_was_known_is_no_news() -> None:
    talk = Talk(3)
    news = state(Record(2, 1, ACTIVE, b"m", ()))
    talk.hear(Update, 2, state=news)
    talk.wait(10.0)
    talk.hear(Update, 3, state=news)
    assert told(talk.wait(10.0)) == {}


def test_what_was_sent_least_often_goes_first() -> None:
    talk = Talk(200)
    talk.gossip._news_round._next_at = math.inf
    for generation in range(2, 100):
        talk.hear(Update, 2, state=state(Record(generation, 1, ACTIVE, b"", ())))
    first, second = talk.gossip.news.take(64), talk.gossip.news.take(34)
    assert len({*first, *second}) == 98


def test_a_message_is_refused_whole_when_one_record_is_bad() -> None:
    talk = Talk(3)
    good = state(Record(2, 1, ACTIVE, b"m", ()))
    assert talk.hear(Ping, 2, 7, state=good[:-1]) == []
    assert talk.gossip.rejected == 1
    assert talk.gossip.table.record(2) is None


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc0", b"\x93\x01\x02\x03", bytes(MAX_MESSAGE + 1), encode((9, 1, 2, 0, 0, b""))],
)
def test_bytes_that_are_no_message_are_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(payload)
    talk = Talk(3)
    assert talk.step(MessageReceived(2, payload)) == []
    assert talk.gossip.rejected == 1


# --- anti-entropy ---------------------------------------------------------------------------------


def test_one_exchange_makes_two_members_know_the_same() -> None:
    one, other = Talk(300), Talk(300, own=2)
    for talk, generations in ((one, range(3, 150)), (other, range(100, 300))):
        for generation in generations:
            talk.gossip.table.put(generation, generation % 3, ACTIVE, b"x" * (generation % 5))
    one.gossip.ring._members = [2]
    one.gossip.comparisons.due = one.now
    inbox = [(other, 1, payload) for payload in payloads(one.step(Tick()), Digest)]
    while inbox:
        talk, source, payload = inbox.pop(0)
        answer = talk.step(MessageReceived(source, payload))
        back = (one, 2) if talk is other else (other, 1)
        inbox += [(*back, sent) for sent in payloads(answer, Update, Difference)]
    assert one.gossip.table.encode() == other.gossip.table.encode()
    assert len(one.gossip.table) == 297


def payloads(actions: list[Any], *kinds: type[GossipMessage]) -> list[bytes]:
    return [
        action.payload
        for action in actions
        if isinstance(action, Send) and isinstance(decode(action.payload), kinds)
    ]


def test_members_that_know_the_same_compare_numbers_only() -> None:
    talk = Talk(5)
    assert messages(talk.hear(Digest, 2, tuple(talk.gossip.table.digests())), Difference) == []


def test_who_has_a_newer_snapshot_sends_it() -> None:
    talk = Talk(3)
    (answer,) = messages(
        talk.hear(Digest, 2, tuple(talk.gossip.table.digests()), version=9), Difference
    )
    table = MemberTable()
    table.merge(answer.state)
    assert (table.version, table.listed) == (10, [(1, 1), (2, 1), (3, 1)])


def test_comparisons_are_answered_three_times_at_once_and_then_every_10_seconds() -> None:
    talk = Talk(3)
    answered = 0
    for _ in range(600):
        answered += len(messages(talk.hear(Digest, 2, (1,) * 64), Difference))
        talk.wait(0.1)
    assert 3 <= answered <= 3 + 6


def test_a_difference_that_was_not_asked_for_is_not_answered() -> None:
    talk = Talk(5, metadata=b"m")
    assert messages(talk.hear(Difference, 2, 2**64 - 1), Update) == []


def test_all_messages_of_an_exchange_of_1024_members_stay_below_32_kib() -> None:
    talk = Talk(2)
    talk.members = [Member(generation, f"a:{generation}", ACTIVE) for generation in range(1, 1025)]
    talk.version, talk.gossip.view.generation_high = 11, 1024
    talk.step(SnapshotRead(MembershipSnapshot(11, 1024, tuple(talk.members)), 0.0))
    for generation in range(2, 1025):
        talk.gossip.table.put(generation, 9, ACTIVE, bytes(128), range(1, 9))
    sizes = [
        len(action.payload)
        for action in talk.hear(Digest, 2, (0,) * 64, version=3)
        if isinstance(action, Send)
    ]
    assert len(sizes) == 1 + 16
    assert max(sizes) <= MAX_MESSAGE
    assert sum(sizes) <= 256 * 1024


# --- the storage ----------------------------------------------------------------------------------


def test_a_newer_version_heard_is_read_at_once_and_passed_on_once_read() -> None:
    talk = Talk(3)
    talk.wait(5.0)
    assert talk.hear(Update, 2, version=11).count(Refresh()) == 1
    talk.change(3, status=DRAINING)
    actions = talk.read()
    assert [message.version for message in messages(actions, Update)] == [11, 11]
    assert Refresh() not in talk.hear(Update, 2, version=11)


def test_what_is_heard_causes_no_more_than_one_read_a_second_on_average() -> None:
    talk = Talk(3)
    reads = 0
    for number in range(1000):
        reads += talk.hear(Update, 2, version=11 + number).count(Refresh())
        reads += talk.wait(0.01).count(Refresh())
    assert 3 <= reads <= 3 + 10


def test_all_messages_of_one_change_share_one_read() -> None:
    talk = Talk(4)
    reads = [talk.hear(Update, source, version=11).count(Refresh()) for source in (2, 3, 4)]
    assert reads == [1, 0, 0]
    sent = talk.now
    talk.change(3, status=DRAINING)
    talk.now += 0.01
    assert Refresh() not in talk.read(sent=sent)


def test_a_change_that_is_heard_of_while_another_is_read_is_read_next() -> None:
    talk = Talk(3)
    assert Refresh() in talk.hear(Update, 2, version=11)
    talk.now += 0.01
    assert Refresh() not in talk.hear(Update, 2, version=12)
    talk.change(3, status=DRAINING)
    assert Refresh() not in talk.read(sent=0.0)
    assert Refresh() in talk.wait(0.1)


def test_true_claims_are_read_at_once_however_many_there_were_before() -> None:
    talk = Talk(3)
    for _ in range(100):
        talk.change(3, status=DRAINING)
        assert Refresh() in talk.hear(Update, 2, version=talk.version)
        talk.read()
        talk.now += 0.06


def test_a_read_that_brings_no_answer_is_made_again() -> None:
    talk = Talk(3)
    assert Refresh() in talk.hear(Update, 2, version=11)
    assert talk.wait(0.9).count(Refresh()) == 0
    assert talk.wait(0.2).count(Refresh()) == 1


def test_who_ends_tells_what_is_new_before_its_round_is_due() -> None:
    talk = Talk(3)
    talk.wait(5.0)
    for version in 11, 12:
        talk.change(3, status=DRAINING)
        actions = talk.read()
        told = [message.version for message in messages(actions, Update)]
        assert told == ([11, 11] if version == 11 else [])
    assert [message.version for message in messages(talk.step(NewsDue()), Update)] == [12, 12]


def test_a_peer_whose_claim_the_storage_disproves_is_not_believed_for_a_minute() -> None:
    talk = Talk(3)
    assert Refresh() in talk.hear(Update, 2, version=10**9)
    talk.now += 0.01
    talk.read(sent=0.0)  # at the moment of the claim, which counts as later
    talk.now += 0.01
    talk.read()
    assert Refresh() not in talk.hear(Update, 2, version=10**9)
    assert Refresh() in talk.hear(Update, 3, version=11)
    talk.now += 61.0
    assert Refresh() in talk.hear(Update, 2, version=10**9)


def test_a_node_that_hears_that_it_was_given_up_fences_itself_and_asks_the_storage() -> None:
    talk = Talk(3)
    actions = talk.hear(
        Difference, 2, 0, version=11, state=state(snapshot=(11, 100, [(1, 5), (2, 1), (3, 1)]))
    )
    assert Fence() in actions
    assert Refresh() in actions


def test_a_snapshot_that_the_storage_does_not_know_is_forgotten_after_one_read() -> None:
    talk = Talk(3)
    lie = state(snapshot=(10**9, 10**9, [(1, 5), (2, 1), (3, 5)]))
    assert Fence() in talk.hear(Update, 2, state=lie)
    assert set(talk.gossip.view.members) == {2, 3}  # its own reads decide whom the node talks to
    talk.now += 1.0
    talk.read()
    assert (talk.gossip.table.version, talk.gossip.table.status_of(3)) == (10, 1)
    assert Fence() not in talk.hear(Update, 2, state=lie)
    assert talk.gossip.table.version == 10


def test_a_heard_snapshot_is_not_passed_on_as_ones_own() -> None:
    talk = Talk(3)
    talk.hear(Update, 2, state=state(snapshot=(50, 100, [(1, 1), (2, 1), (3, 5)])))
    assert all(message.version == 10 for message in messages(talk.wait(5.0), GossipMessage))
    assert (
        messages(talk.hear(Digest, 3, tuple(talk.gossip.table.digests()), version=1), Difference)
        == []
    )


def test_a_message_of_a_member_newer_than_the_snapshot_is_answered_once_it_has_been_read() -> None:
    talk = Talk(3)
    actions = talk.step(MessageReceived(200, encode(Ping(1, 200, 11, 0, b"", 5))))
    assert actions == [Refresh()]
    talk.members.append(Member(200, "a:200", JOINING))
    talk.version = 11
    actions = talk.step(SnapshotRead(MembershipSnapshot(11, 200, tuple(talk.members)), talk.now))
    assert [(ack.to, ack.number) for ack in messages(actions, Ack)] == [(200, 5)]


def test_a_message_of_nobody_is_not_answered_and_not_kept() -> None:
    talk = Talk(3)
    for source in range(5000, 6000):
        talk.step(MessageReceived(source, encode(Ping(1, source, 0, 0, b"", 5))))
    assert len(talk.gossip._strangers) <= 64
    # member 50 was purged
    assert talk.step(MessageReceived(50, encode(Ping(1, 50, 0, 0, b"", 5)))) == []


def test_who_joins_greets_the_active_members_until_a_majority_has_answered() -> None:
    talk = Talk(4, status=JOINING)
    others = frozenset({2, 3, 4})
    greetings = messages(talk.step(GreetingDue()), Ping)
    assert sorted(ping.to for ping in greetings) == [2, 3, 4]
    for ping in greetings[:2]:
        assert not talk.gossip.greeting.reached_majority_of(others)
        talk.hear(Ack, ping.to, ping.number)
    assert talk.gossip.greeting.reached_majority_of(others)
    assert [ping.to for ping in messages(talk.step(GreetingDue()), Ping)] == [greetings[2].to]
    assert talk.gossip.greeting.reached_majority_of(frozenset())


# --- votes ----------------------------------------------------------------------------------------


def suspected(
    count: int, target: int = 3, *, renewing: bool = True, shared_by: tuple[int, ...] = ()
) -> tuple[Talk, list[Any]]:
    """Talk until the shortest suspicion has passed, while ``target`` never answers.

    Returns the actions of that time.
    """
    talk, actions = Talk(count), list[Any]()
    talk.suspect(target)
    if shared_by:
        talk.hear(Update, shared_by[0], state=state(Record(target, 0, ACTIVE, b"", shared_by)))
    for _ in range(6):
        if renewing:
            talk.renew_all()
        actions += talk.read()
        end = talk.now + 1.0
        while talk.gossip.due <= end:
            talk.now = max(talk.now, talk.gossip.due)
            for message in messages(talk.step(Tick()), GossipMessage):
                if isinstance(message, Ping) and message.to != target:
                    talk.hear(Ack, message.to, message.number)
                elif isinstance(message, PingRequest):
                    talk.hear(Nack, message.to, message.number)
        talk.now = end
    return talk, actions


def test_a_suspicion_that_others_share_becomes_a_vote_after_the_shortest_time() -> None:
    _, actions = suspected(5, shared_by=(2, 4))
    assert [action for action in actions if isinstance(action, CastVote)] == [CastVote(3)]


def test_a_suspicion_that_nobody_shares_does_not_yet() -> None:
    _, actions = suspected(5)
    assert not any(isinstance(action, CastVote) for action in actions)


def test_confirmations_by_strangers_count_for_nothing() -> None:
    _, actions = suspected(5, shared_by=(77, 78, 79))
    assert not any(isinstance(action, CastVote) for action in actions)


def test_no_vote_is_cast_on_a_member_whose_lease_stands_still() -> None:
    _, actions = suspected(5, shared_by=(2, 4), renewing=False)
    assert not any(isinstance(action, CastVote | Condemn) for action in actions)


def test_what_others_say_is_never_enough_for_a_vote() -> None:
    talk = Talk(8)
    for _ in range(30):
        talk.hear(Update, 2, state=state(Record(5, 0, ACTIVE, b"", (2, 3, 4, 6, 7, 8))))
        talk.renew_all()
        actions = talk.read() + talk.wait(1.0)
        assert not any(isinstance(action, CastVote | Condemn) for action in actions)


def test_a_sick_node_does_not_vote() -> None:
    talk, _ = suspected(5, shared_by=(2, 4))
    talk.gossip.suspicions.by_member[3].voted_at = -math.inf
    talk.gossip.awareness.adjust(3)
    talk.renew_all()
    assert not any(isinstance(action, CastVote | Condemn) for action in talk.read())


def test_who_cannot_reach_a_majority_does_not_vote() -> None:
    talk, _ = suspected(5, shared_by=(2, 4))
    talk.gossip.suspicions.by_member[3].voted_at = -math.inf
    for other in (2, 4):
        talk.gossip.suspicions.by_member[other] = talk.gossip.suspicions.by_member[3]
    talk.renew_all()
    assert not any(isinstance(action, CastVote | Condemn) for action in talk.read())


def voted(talk: Talk, *voters: int, at: float = 1.0) -> list[Any]:
    """Have the storage show these votes on member 3."""
    import msgspec

    talk.renew_all()
    votes = tuple(Vote(voter, at) for voter in voters)
    talk.members[2] = msgspec.structs.replace(talk.members[2], votes=votes)
    return talk.read()


def test_a_quorum_condemns() -> None:
    talk, _ = suspected(5, shared_by=(2, 4))  # 4 others: 3 votes
    assert not any(isinstance(action, Condemn) for action in voted(talk, 1, 2))
    assert not any(
        isinstance(action, Condemn) for action in voted(talk, 1, 2, 3)
    )  # its own vote does not count
    assert not any(
        isinstance(action, Condemn) for action in voted(talk, 1, 2, 77)
    )  # nor does the vote of a member that is not active
    (condemned,) = (action for action in voted(talk, 1, 2, 4) if isinstance(action, Condemn))
    assert (condemned.member.generation, condemned.member.status) == (3, ACTIVE)


def test_the_vote_that_completes_a_quorum_condemns_without_another_read() -> None:
    talk, _ = suspected(5, shared_by=(2, 4))
    member = Member(
        3, "a:3", ACTIVE, lease_counter=9, votes=(Vote(1, 1.0), Vote(2, 1.0), Vote(4, 1.0))
    )
    assert Condemn(member) in talk.step(VoteWritten(member))


def test_nobody_votes_on_or_probes_for_votes_a_member_that_is_condemned_already() -> None:
    talk, _ = suspected(5, shared_by=(2, 4))
    talk.change(3, status=CONDEMNED)
    assert not any(isinstance(action, CastVote | Condemn) for action in voted(talk, 1, 2, 4))


def test_of_two_nodes_that_cannot_reach_each_other_the_older_one_votes_first() -> None:
    talk, actions = suspected(2, target=2)
    assert [action for action in actions if isinstance(action, CastVote)] == [CastVote(2)]
    assert (
        talk.gossip.awareness.health == 0
    )  # no member was there to be asked, so nothing speaks against the node itself
