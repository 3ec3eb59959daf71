"""What clients may have of a node: shares of its limits, and time and room for large frames."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rio._core import dispatch
from rio._core.backlog import Backlog
from rio._core.budget import Budget, Usage
from tests.core.node import FRAME_LIMIT, Echo, Node, Note, read_bytes, request, settle
from tests.server.harness import until

MB = 1_000_000
LIMIT = 100 * MB


class Greedy:
    """A connection that takes all it can get."""

    def __init__(self, node: Node, usage: Usage) -> None:
        self.half = node.connect()
        self.half.is_node = False
        self.half.usage = usage
        self.unsent = 0

    def take(self, budget: Budget, step: int) -> bool:
        taken = budget.allows(self.unsent, self.half.usage.held, step)
        if taken:
            self.unsent += step
            self.half.note_unsent(self.unsent)
        return taken


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
async def test_whoever_comes_next_finds_something_left(connections: list[int]) -> None:
    """For each client how many connections it has, of which each takes all it can get."""
    node = Node(dispatch, held_limit=LIMIT)
    budget = node.dispatcher.budget
    usages = [Usage() for _ in connections]
    greedy = [
        Greedy(node, usage)
        for usage, count in zip(usages, connections, strict=True)
        for _ in range(count)
    ]
    while sum(each.take(budget, LIMIT // 4000) for each in greedy):
        pass
    assert budget.used == sum(usage.held for usage in usages)
    assert 0.8 * LIMIT < budget.used < 15 / 16 * LIMIT
    assert budget.allows_node(LIMIT // 16)
    assert budget.allows(0, 0, LIMIT // 5000), "another client"
    if len(usages) == 1:
        assert budget.allows(0, usages[0].held, LIMIT // 20_000), "another connection of it"


async def test_calls_of_one_client_count_over_all_its_connections() -> None:
    node = Node(dispatch, in_flight_limit=64)
    shared, other, peer = Usage(), Usage(), Usage()
    attackers = [Greedy(node, shared).half for _ in range(20)]
    honest, member = Greedy(node, other).half, Greedy(node, peer).half
    member.is_node = True
    for number in range(1, 6):
        for connection in attackers:
            read_bytes(
                connection, whole(request(number, number, object=f"{number}", message="wait"))
            )
    assert 40 < shared.calls == node.dispatcher.in_flight < 60
    assert {answer for each in attackers for answer in each.transport.answers().values()} == {
        "overloaded"
    }
    read_bytes(honest, whole(request(1, 100, object="h", message="wait")))
    assert other.calls == 1
    for number in range(1, 20):
        read_bytes(member, whole(request(number, number, object="m", message="wait")))
    assert node.dispatcher.in_flight == 64, "nodes may have what clients may not"
    for connection in [*attackers, honest, member]:
        node.disconnect(connection)
    await settle()
    assert shared.calls == other.calls == node.dispatcher.in_flight == 0


async def test_what_is_written_counts_before_the_transport_says_that_it_is_too_much() -> None:
    node = Node(dispatch)
    node.add_method("large", lambda thing, message: bytes(6_000), is_async=False)
    connection = node.connect()
    connection.unsent = 17_000
    for number in range(1, 4):
        assert node.dispatcher.budget.used == 0
        read_bytes(connection, whole(request(number, number, message="large")))
    assert node.dispatcher.budget.used == 17_000


async def test_what_a_peer_that_was_cut_off_has_not_taken_counts_until_it_is_gone() -> None:
    node = Node(dispatch, held_limit=LIMIT)
    budget = node.dispatcher.budget
    node.connect().note_unsent(60 * MB)
    assert budget.is_half_used
    budget.leaving += 60 * MB
    assert not budget.is_half_used, "no other need go"
    assert not budget.allows_node(50 * MB)
    node.dispatcher.sweep()
    assert budget.is_half_used


def whole(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def test_a_client_has_one_turn_however_many_connections_it_has() -> None:
    backlog, taken = Backlog(), Counter[str]()
    for number in range(100):
        for connection in range(20):
            backlog.put(f"attacker {connection}", "attacker", "attackers")
        backlog.put("honest", "honest")
        backlog.put(f"other {number % 2}", "others", "others")
    for _ in range(150):
        taken[backlog.take()] += 1
    assert max(taken.values()) - min(taken.values()) <= 1
    assert backlog.turns_until("honest") == 3 * 51
    assert backlog.turns_until("attacker 30", "attackers") == 3 * 21
    assert backlog.turns_until("other 0", "others") == 3 * 2 * 26


# --- large frames ---------------------------------------------------------------------------------


class Peer(dispatch.ServerHalf):
    """A connection of a client that does not send all that it has announced."""

    def __init__(self, node: Node, usage: Usage) -> None:
        super().__init__(node.dispatcher, 4 * MB)
        self.node = node
        self.usage = usage
        self.is_node = False
        self.accepted = True
        self.transport = self
        self.reads = True
        self.ended = ""
        node.dispatcher.connections[self] = None

    def announce(self, size: int, sent: int = 100) -> None:
        read_bytes(self, size.to_bytes(4, "big") + b"\x92\x05\x01" + bytes(sent))

    def write(self, data: bytes) -> None: ...
    def frame_received(self, kind: int, id: int, body: bytes) -> None: ...

    def stop_reading(self) -> None:
        self.reads = False

    def go_on_reading(self) -> None:
        self.reads = True

    def cut_off(self, reason: str) -> None:
        self.ended = reason

    def break_off(self, error: Exception) -> None:
        raise error


def sweep(node: Node, seconds: float) -> None:
    for _ in range(round(seconds / 0.125)):
        node.time += 0.125
        node.dispatcher.sweep()


def small_node() -> Node:
    node = Node(dispatch, held_limit=8 * MB)
    node.dispatcher.sweep()
    return node


async def test_a_peer_that_sends_half_a_frame_is_cut_off_after_ten_seconds() -> None:
    node = Node(dispatch)
    node.dispatcher.sweep()
    silent, slow, fast, idle = (Peer(node, Usage()) for _ in range(4))
    silent.announce(30, sent=0)
    slow.announce(3 * MB, sent=10 * 65536)
    fast.announce(200, sent=197)
    sweep(node, 9.75)
    assert not silent.ended
    sweep(node, 0.5)
    assert silent.ended == "it has sent 7 bytes of a frame of 30 in 10.1 seconds"
    sweep(node, 9.5)
    assert not slow.ended
    sweep(node, 0.5)
    assert "of a frame of 3000000" in slow.ended
    assert not fast.ended + idle.ended


async def test_a_loop_that_stood_still_does_not_cut_off_those_who_were_sending() -> None:
    node = small_node()
    peer = Peer(node, Usage())
    peer.announce(3 * MB)
    for _ in range(10):
        node.time += 60
        node.dispatcher.sweep()
    assert not peer.ended


async def test_large_frames_that_begin_leave_room_for_those_of_others() -> None:
    node = small_node()
    attacker, others = Usage(), Usage()
    attackers = [Peer(node, attacker) for _ in range(20)]
    for peer in attackers:
        peer.announce(2 * MB)
    assert attacker.arriving == node.dispatcher.arriving == 8 * MB, "half of twice the limit"
    assert [peer.reads for peer in attackers] == 4 * [True] + 16 * [False]
    honest = [Peer(node, others) for _ in range(3)]
    for peer in honest:
        peer.announce(2 * MB)
    assert [peer.reads for peer in honest] == [True, True, False]
    member = Peer(node, Usage())
    member.is_node = True
    member.announce(2 * MB)
    assert member.reads
    read_bytes(honest[0], bytes(2 * MB - 103))
    assert others.arriving == 2 * MB
    sweep(node, 2)
    assert honest[2].reads, "its turn has come"
    assert any(peer.ended for peer in attackers), "where there is little room, they have a second"
    assert not honest[0].ended
    for peer in [*attackers, *honest, member]:
        peer.abandon()
    assert node.dispatcher.arriving == attacker.arriving == others.arriving == 0


async def test_small_frames_need_no_room() -> None:
    node = small_node()
    usage = Usage()
    for _ in range(10):
        Peer(node, usage).announce(FRAME_LIMIT)
    assert usage.arriving == 0


# --- the time of the loop -------------------------------------------------------------------------


class BusyNode(Node):
    """A node whose handlers take 50 microseconds."""

    def __init__(self) -> None:
        super().__init__(dispatch)
        self.ran: list[int] = []

        def work(thing: object, message: Note) -> Echo:
            self.time += 50e-6
            self.ran.append(message.n)
            return Echo(message.n)

        self.add_method("work", work, is_async=False)

    def work(self, numbers: range) -> bytes:
        return b"".join(whole(request(n, n, object=f"{n}", message="work")) for n in numbers)


async def contended() -> tuple[BusyNode, Peer, Peer]:
    """A node that two clients use at the moment."""
    node = BusyNode()
    first, second = Peer(node, Usage()), Peer(node, Usage())
    read_bytes(first, node.work(range(1)))
    read_bytes(second, node.work(range(1)))
    node.ran.clear()
    node.time += 0.001
    return node, first, second


async def test_a_client_that_sends_much_is_read_on_after_the_others_had_their_turn() -> None:
    node, greedy, modest = await contended()
    read_bytes(greedy, node.work(range(1, 201)))
    assert len(node.ran) < 10
    assert not greedy.reads
    read_bytes(modest, node.work(range(1000, 1001)))
    for _ in range(4):
        await asyncio.sleep(0)
    assert node.ran.index(1000) < 50
    await until(lambda: greedy.reads and len(node.ran) == 201)
    assert [n for n in node.ran if n < 1000] == list(range(1, 201)), "in their order"


async def test_who_keeps_up_is_served_before_those_whose_requests_wait() -> None:
    node, greedy, modest = await contended()
    node.dispatcher.loop_budget = 0.0001  # what is read beyond it waits for its turn
    read_bytes(greedy, node.work(range(1, 4)))
    node.time += 0.001
    assert len(node.ran) < 3
    read_bytes(modest, node.work(range(1000, 1001)))
    assert node.ran[-1] == 1000
    await until(lambda: len(node.ran) == 4)


async def test_those_that_are_behind_go_on_for_a_moment_when_others_need_nothing() -> None:
    node, greedy, modest = await contended()
    read_bytes(greedy, node.work(range(1, 201)))
    for number in range(1000, 1020):
        ran = len(node.ran)
        node.time += 0.001
        read_bytes(modest, node.work(range(number, number + 1)))
        assert node.ran[ran:] == [number]
        await asyncio.sleep(0)
        assert len(node.ran) - ran == 1, "others may need more"
        await asyncio.sleep(0)
        assert 2 <= len(node.ran) - ran <= 3, "one of those that wait, or one and one begun"
    node.time += 0.1
    ran = len(node.ran)
    await asyncio.sleep(0)
    assert len(node.ran) - ran > 50, "nobody else is there any more"
    await until(lambda: greedy.reads)


async def turns_beside(others: list[Peer], node: BusyNode, requests: int) -> int:
    """How many turns of the loop so many requests take, while each of the others sends one."""
    turns = 0
    while sum(number <= requests for number in node.ran) < requests:
        assert turns < 1000
        for number, other in enumerate(others):
            read_bytes(other, node.work(range(1000 + number, 1001 + number)))
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_those_that_are_behind_have_a_fifth_of_the_time() -> None:
    node, greedy, _ = await contended()
    node.dispatcher.loop_budget = 1.0
    others = [Peer(node, Usage()) for _ in range(8)]
    read_bytes(greedy, node.work(range(1, 201)))
    turns = await turns_beside(others, node, 200)
    assert all(other.reads for other in others)
    assert 90 <= turns <= 110, "two of ten"


async def test_writing_the_answers_to_those_that_are_behind_is_a_part_of_their_time() -> None:
    node, _, _ = await contended()

    class SlowPeer(Peer):
        def write(self, data: bytes) -> None:
            node.time += 100e-6

    greedy = SlowPeer(node, Usage())
    others = [Peer(node, Usage()) for _ in range(8)]
    node.dispatcher.loop_budget = 0.0
    read_bytes(greedy, node.work(range(1, 51)))
    assert node.ran == [], "all wait"
    node.dispatcher.loop_budget = 1.0
    turns = await turns_beside(others, node, 50)
    assert 45 <= turns <= 55, "in each second one two of ten, for as long as one writes"


async def test_a_client_whose_requests_wait_is_not_read_before_them() -> None:
    node, greedy, modest = await contended()
    node.dispatcher.loop_budget = 0.0001
    read_bytes(greedy, node.work(range(1, 4)))
    assert len(node.ran) < 3
    assert greedy.reads
    node.time += 0.001
    read_bytes(modest, node.work(range(1000, 1001)))
    read_bytes(greedy, node.work(range(4, 5)))
    assert not greedy.reads
    await until(lambda: greedy.reads and len(node.ran) == 5)
    assert [number for number in node.ran if number < 1000] == [1, 2, 3, 4], "in their order"


async def test_who_uses_less_than_half_of_the_time_never_waits_for_others() -> None:
    node, _, modest = await contended()
    node.dispatcher.loop_budget = 1.0
    others = Peer(node, Usage())
    for number in range(100):
        read_bytes(others, node.work(range(1)))
        read_bytes(modest, node.work(range(10 * number, 10 * number + 2)))
        assert modest.reads
        node.time += 60e-6
    for number in range(100):
        read_bytes(others, node.work(range(1)))
        read_bytes(modest, node.work(range(10 * number, 10 * number + 7)))
        if not modest.reads:
            break
    assert number <= 5, "until it has used up what it has saved"
    await until(lambda: modest.reads)


async def test_all_connections_of_a_client_have_one_turn() -> None:
    node, greedy, modest = await contended()
    more = [Peer(node, greedy.usage) for _ in range(20)]
    for number, peer in enumerate([greedy, *more], 1):
        read_bytes(peer, node.work(range(1000 * number, 1000 * number + 100)))
    assert len(node.ran) < 10, "as for one connection"
    read_bytes(modest, node.work(range(100, 101)))
    for _ in range(4):
        await asyncio.sleep(0)
    assert node.ran.index(100) < 50
    more.pop().abandon()
    await until(lambda: all(peer.reads for peer in [greedy, *more]))
    await until(lambda: len(node.ran) >= 20 * 100)


async def test_a_client_that_is_alone_is_read_for_as_long_as_the_loop_may_be_kept() -> None:
    node = BusyNode()
    alone = Peer(node, Usage())
    read_bytes(alone, node.work(range(1)))
    node.time += 0.1
    node.ran.clear()
    read_bytes(alone, node.work(range(1, 201)))
    assert 90 <= len(node.ran) <= 110, "5 ms"
    await until(lambda: alone.reads and len(node.ran) == 200)
    assert node.ran == list(range(1, 201))


async def test_what_comes_with_the_proof_of_a_client_has_no_more_time() -> None:
    node, greedy, _ = await contended()
    usage = greedy.usage

    class Stranger(Peer):
        def frame_received(self, kind: int, id: int, body: bytes) -> None:
            self.usage, self.is_node, self.accepted = usage, False, True

    stranger = Stranger(node, Usage())
    stranger.is_node, stranger.accepted = True, False
    read_bytes(stranger, whole(bytes([0x92, 7, 0])) + node.work(range(1, 201)))
    assert stranger.accepted
    assert len(node.ran) < 10
    await until(lambda: stranger.reads and len(node.ran) == 200)
    assert node.ran == list(range(1, 201))


async def test_calls_within_this_process_do_not_wait_for_what_clients_have_sent() -> None:
    node, greedy, _ = await contended()
    node.dispatcher.loop_budget = 0.0
    read_bytes(greedy, node.work(range(1, 51)))
    assert node.ran == [], "all wait"
    node.dispatcher.loop_budget = 1.0
    within = Peer(node, Usage())
    within.receive(node.work(range(1000, 1003)))
    assert node.ran == [1000, 1001, 1002]
    await until(lambda: len(node.ran) == 53)
