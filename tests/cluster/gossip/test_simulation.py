"""A whole cluster under virtual time: what it detects and when, what it must not, and the cost.

``pytest -s`` prints the figures. Seeds are few here, so that the file takes seconds;
``RIO_SEEDS=1000`` is for a night.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from rio._core.gossip import MemberTable
from rio.cluster.gossip.messages import Ping, Update, encode
from rio.contracts.membership import MemberStatus, Vote
from tests.cluster.gossip.world import STRICT, Node, World, at_once
from tests.effort import MANY, how_to_replay, seeds

pytestmark = pytest.mark.timeout(300)


def percentile(values: Sequence[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def summary(values: Sequence[float]) -> str:
    return f"p50 {percentile(values, 0.5):.2f} p99 {percentile(values, 0.99):.2f} s"


# --- detection ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "few"), [(3, 60), (10, 30), (50, 6)])
def test_a_killed_node_is_suspected_evicted_and_known_to_be_dead_by_all(
    count: int, few: int
) -> None:
    suspected, evicted, agreed = [], [], []
    for seed in seeds(few):
        world = World(count, seed)
        world.run(world.rng.uniform(5.0, 10.0))
        victim = world.nodes[world.rng.randint(1, count)]
        victim.alive = False
        killed = world.now
        evicted.append(world.run_until_ended(victim.generation))
        agreed.append(world.run_until_all_see_the_end_of(victim.generation))
        suspected.append(
            first_suspicion(world, victim) - killed
        )  # the suspicion of the lease is at times the first
        world.run(10.0)
        assert world.ended() == [victim.generation]
    print(
        f"\n{count} nodes, kill: suspected {summary(suspected)}, evicted {summary(evicted)}, "
        f"known to all {summary(agreed)} later"
    )
    assert percentile(suspected, 0.99) <= 10.0
    assert percentile(evicted, 0.99) <= STRICT.failover_bound
    assert percentile(agreed, 0.99) <= 2.0


def first_suspicion(world: World, victim: Node) -> float:
    suspicions = (
        node.suspected_at.get(victim.generation, world.now) for node in world.nodes.values()
    )
    return min(
        *suspicions, *(moment for moment, _, ended in world.log if ended == victim.generation)
    )


def cut_off(victim: int, way: str) -> Callable[[int, int], bool]:
    return {
        "to and from it": lambda source, target: victim in (source, target),
        "to it": lambda source, target: target == victim,
        "from it": lambda source, target: source == victim,
    }[way]


@pytest.mark.parametrize(("count", "few"), [(2, 20), (3, 40), (10, 15), (50, 3)])
@pytest.mark.parametrize("way", ["to and from it", "to it", "from it"])
def test_a_node_that_cannot_be_reached_though_it_renews_is_condemned_by_votes(
    count: int, few: int, way: str
) -> None:
    condemned = []
    for seed in seeds(few):
        world = World(count, seed)
        world.run(world.rng.uniform(5.0, 10.0))
        victim = count  # the youngest: of two that cannot reach each other, the older one stays
        world.cut = cut_off(victim, way)
        condemned.append(world.run_until_ended(victim))
        world.run(20.0)
        assert world.ended() == [victim]
        assert world.nodes[victim].evicted
    print(f"\n{count} nodes, cut {way}: condemned {summary(condemned)}")
    assert percentile(condemned, 0.99) <= 25.0


# --- false alarms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "few", "seconds"), [(2, 10, 300), (3, 20, 300), (10, 6, 200), (50, 2, 90)]
)
def test_one_message_in_ten_lost_evicts_nobody(count: int, few: int, seconds: float) -> None:
    votes = refuted = 0
    for seed in seeds(few):
        world = World(count, seed, loss=0.1)
        world.run(seconds)
        assert world.ended() == []
        votes += world.votes
        refuted += sum(node.gossip.own.incarnation for node in world.nodes.values())
    print(
        f"\n{count} nodes, 10 % loss, {len(seeds(few)) * seconds:.0f} s: 0 evictions, "
        f"{votes} votes, {refuted} suspicions refuted"
    )


@pytest.mark.parametrize(("count", "few"), [(3, 20), (10, 10), (50, 2)])
def test_a_node_whose_loop_stalls_again_and_again_evicts_nobody_else(count: int, few: int) -> None:
    for seed in seeds(few):
        world = World(count, seed)
        slow = world.nodes[world.rng.randint(1, count)]
        while world.now < 120.0:
            world.run(world.rng.uniform(1.0, 6.0))
            slow.frozen_until = world.now + world.rng.uniform(2.0, 20.0)
        assert set(world.ended()) <= {slow.generation}


@pytest.mark.parametrize("count", [3, 6])
def test_one_broken_link_evicts_nobody(count: int) -> None:
    for seed in seeds(5):
        world = World(count, seed)
        world.cut = lambda source, target: {source, target} == {1, 2}
        world.run(120.0)
        assert (world.ended(), world.votes) == ([], 0)


def test_an_outage_of_the_storage_evicts_nobody() -> None:
    for seed in seeds(5):
        world = World(10, seed)
        world.run(10.0)
        for node in world.nodes.values():
            node.storage_down = True
        world.run(15.0)
        for node in world.nodes.values():
            node.storage_down = False
        world.run(30.0)
        assert world.ended() == []


@pytest.mark.parametrize(("count", "minority"), [(5, 2), (10, 3), (50, 10)])
@pytest.mark.parametrize("older", [True, False])
def test_of_a_parted_cluster_the_larger_side_stays(count: int, minority: int, older: bool) -> None:
    world = World(count, 7)
    world.run(10.0)
    small = set(range(1, minority + 1) if older else range(count - minority + 1, count + 1))
    world.cut = lambda source, target: (source in small) != (target in small)
    world.run(60.0)
    assert set(world.ended()) == small


@pytest.mark.parametrize(("count", "few"), [(3, 120), (4, 20), (5, 20)])
def test_of_nodes_that_hear_nobody_none_is_voted_on(count: int, few: int) -> None:
    for seed in seeds(few):
        world = World(count, seed)
        world.run(world.rng.uniform(5.0, 10.0))
        world.cut = lambda source, target: True
        world.run(60.0)
        assert (world.ended(), world.votes) == ([], 0), how_to_replay(seed)


@pytest.mark.parametrize("seed", range(5))
def test_of_two_nodes_that_cannot_reach_each_other_exactly_one_stays(seed: int) -> None:
    world = World(2, seed)
    world.run(10.0)
    world.cut = lambda source, target: True
    world.run(120.0)
    assert world.ended() == [2]


# --- a liar ---------------------------------------------------------------------------------------


def lies(world: World, liar: Node) -> None:
    """Do whatever one member can say and do.

    That is slander, forged names and incarnations, a snapshot in which all are dead, and votes on
    everybody.
    """
    rng = world.rng
    others = [generation for generation in world.nodes if generation != liar.generation]
    table = MemberTable()
    for generation in others:
        known = liar.gossip.table.record(generation)
        suspects = rng.sample([*world.nodes, 7777], min(len(world.nodes), rng.randint(1, 8)))
        table.put(
            generation, (known.incarnation if known else 0) + rng.randint(0, 2), 1, b"", suspects
        )
    if rng.random() < 0.3:
        table.put_snapshot(
            10**9 + int(world.now), 10**9, [(generation, 5) for generation in others]
        )
    for generation in others:
        kind = rng.choice((Update, Ping))
        fields = () if kind is Update else (rng.getrandbits(30),)
        message = kind(
            generation, liar.generation, 10**9 * rng.randint(0, 1), 0, table.encode(), *fields
        )
        world.deliver(liar, f"10.0.0.{generation - 1}:1", encode(message))
        at_once(world.storage.vote(generation, Vote(liar.generation, world.now)))
    world.at(world.now + 0.5, lambda: lies(world, liar))


@pytest.mark.parametrize(("count", "few"), [(3, 8), (10, 3)])
def test_one_liar_evicts_nobody(count: int, few: int) -> None:
    for seed in seeds(few):
        world = World(count, seed)
        world.run(5.0)
        liar = world.nodes[world.rng.randint(1, count)]
        before = {node: (node.queries, node.fences) for node in world.nodes.values()}
        lies(world, liar)
        world.run(120.0)
        assert world.ended() == []
        for node, (queries, fences) in before.items():
            assert (
                node is liar or (node.queries - queries) / 120.0 <= 3.5
            )  # renew, poll, one read because of a claim
            assert (
                node.fences - fences <= 6
            )  # each costs a pause of one renewal, until the storage disproves the claim


def test_a_liar_that_is_cut_off_evicts_nobody() -> None:
    """The liar reaches only the storage, and votes freely. A cluster of rio-rs dies of this."""
    for seed in seeds(5):
        world = World(5, seed)
        world.cut = lambda source, target: 3 in (source, target)
        lies(world, world.nodes[3])
        world.run(60.0)
        assert world.ended() == [3]


# --- what it costs --------------------------------------------------------------------------------

MOST_BYTES = 32 * 1024
"""The bound for each node in any second, whatever happens.

Three messages of 64 records five times, and probes; the simulation stays far below.
"""

SIZES = [3, 10, 100, pytest.param(1000 if MANY else 300, marks=[pytest.mark.slow])]


def spent(
    world: World, seconds: int, during: Callable[[int], None] = lambda second: None
) -> tuple[float, float, float, float]:
    """Mean and maximum of the bytes, mean and maximum of the queries, a node and second."""
    total_bytes, total_queries, most_bytes, most_queries = 0, 0, 0, 0
    nodes = list(world.nodes.values())
    for second in range(seconds):
        before = [(node.bytes_sent, node.queries) for node in nodes]
        during(second)
        world.run(1.0)
        sent = [node.bytes_sent - was for node, (was, _) in zip(nodes, before, strict=True)]
        asked = [node.queries - was for node, (_, was) in zip(nodes, before, strict=True)]
        total_bytes, total_queries = total_bytes + sum(sent), total_queries + sum(asked)
        most_bytes, most_queries = max(most_bytes, *sent), max(most_queries, *asked)
    samples = seconds * len(nodes)
    return total_bytes / samples, most_bytes, total_queries / samples, most_queries


@pytest.mark.parametrize("count", SIZES)
def test_bytes_and_queries_of_each_node_and_second_are_bounded_whatever_the_size(
    count: int,
) -> None:
    world = World(count, 1, observers=count <= 100)
    world.run(3.0)
    quiet = spent(world, 8)

    def trouble(second: int) -> None:
        """A node dies, and one in ten drains."""
        if second == 0:
            world.nodes[count].alive = False
            for generation in range(1, count // 10 + 1):
                at_once(
                    world.storage.set_status(generation, MemberStatus.ACTIVE, MemberStatus.DRAINING)
                )

    busy = spent(world, 8, trouble)
    for name, (bytes_, most_bytes, queries, most_queries) in (("quiet", quiet), ("trouble", busy)):
        print(
            f"\n{count:5} nodes, {name:7}: {bytes_:6.0f} B (most {most_bytes:5.0f}), "
            f"{queries:.2f} queries (most {most_queries})",
            end="",
        )
    assert quiet[0] <= 120.0
    assert quiet[2] == pytest.approx(2.0, abs=0.1)
    assert busy[1] <= MOST_BYTES
    assert busy[2] <= 3.5
    assert busy[3] <= 8
