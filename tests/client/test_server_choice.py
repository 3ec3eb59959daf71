"""Which server is asked for an object whose place is not known."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rio._core.rendezvous import Ranking
from rio.client.server_choice import ServerChoice
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
ADDRESSES = ["a:1", "b:1", "c:1", "d:1"]


class FakePeer:
    def __init__(self, address: str) -> None:
        self.address = address
        self.draining = False
        self.avoid_until = 0.0

    def rank(self, moment: float) -> tuple[bool, bool]:
        return self.draining, moment < self.avoid_until


class World:
    """Four active servers, and the choice of one client."""

    def __init__(self, preferred: str = "") -> None:
        self.moment = 100.0
        self.peers = {address: FakePeer(address) for address in ADDRESSES}
        members = tuple(
            Member(generation, address, MemberStatus.ACTIVE)
            for generation, address in enumerate(ADDRESSES, 1)
        )
        pool: Any = SimpleNamespace(peer=self.peers.__getitem__)
        self.members: Any = SimpleNamespace(snapshot=MembershipSnapshot(1, 4, members))
        access: Any = SimpleNamespace(preferred_address=preferred)
        self.choice = ServerChoice(access, pool, self.members, lambda: self.moment)

    def choose(self, id: str, refusals: Any = None, attempts: int = 0) -> str:
        call: Any = SimpleNamespace(
            type_name="Thing", id=id, refusals=refusals, attempts=attempts, message_name="Ask"
        )
        peer = self.choice.choose(call)
        return "" if peer is None else peer.address

    def chosen(self) -> set[str]:
        return {self.choose(str(number)) for number in range(100)}


def test_all_clients_choose_the_same_server_for_an_object_and_spread_the_objects() -> None:
    one, other = World(), World()
    assert [one.choose(str(n)) for n in range(100)] == [other.choose(str(n)) for n in range(100)]
    assert one.chosen() == set(ADDRESSES)


def test_the_next_attempt_asks_another_server() -> None:
    world = World()
    assert {world.choose("t", attempts=attempts) for attempts in range(4)} == set(ADDRESSES)


def test_a_server_that_drains_or_could_not_be_reached_is_chosen_last() -> None:
    world = World()
    world.peers["a:1"].draining = True
    world.peers["b:1"].avoid_until = 105.0
    assert world.chosen() == {"c:1", "d:1"}
    assert world.choose("t", refusals={"c:1": "", "d:1": ""}) == "b:1"
    assert world.choose("t", refusals={"b:1": "", "c:1": "", "d:1": ""}) == "a:1"


def test_a_server_that_could_not_be_reached_is_chosen_again_after_a_while() -> None:
    world = World()
    world.peers["b:1"].avoid_until = 105.0
    assert "b:1" not in world.chosen()
    world.moment = 105.0
    assert world.chosen() == set(ADDRESSES)


def test_news_of_a_server_count_from_the_moment_at_which_the_choice_hears_of_them() -> None:
    world = World()
    assert world.chosen() == set(ADDRESSES)
    world.peers["a:1"].draining = True
    world.choice.reconsider()
    assert world.chosen() == {"b:1", "c:1", "d:1"}


def test_no_server_is_left_when_all_have_refused_or_none_is_active() -> None:
    world = World()
    assert world.choose("t", refusals=dict.fromkeys(ADDRESSES, "")) == ""
    world.members.snapshot = MembershipSnapshot(2, 4)
    world.choice.reconsider()
    assert world.choose("t") == ""


def test_the_preferred_server_comes_first_until_it_refuses() -> None:
    world = World(preferred="c:1")
    assert world.chosen() == {"c:1"}
    assert world.choose("t", refusals={"c:1": ""}) in {"a:1", "b:1", "d:1"}


# --- rendezvous hashing ---------------------------------------------------------------------------

NAMES = [f"Thing/{number}" for number in range(6000)]
MASK = (1 << 64) - 1


def score(address: str, name: str) -> int:
    """The score of docs/protocol.md in plain Python."""
    x = (crc32(address.encode()) << 32 | crc32(name.encode())) + 0x9E3779B97F4A7C15 & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def homes(addresses: list[str]) -> dict[str, str]:
    """Where each object is asked for first."""
    ranking = Ranking(addresses)
    return {name: addresses[ranking.choose(name, 0)] for name in NAMES}


def addresses_of(count: int) -> list[str]:
    return [f"10.0.0.{number}:7000" for number in range(1, count + 1)]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=20, unique=True), st.text(max_size=40))
def test_the_attempts_ask_the_servers_in_the_order_of_their_scores(
    addresses: list[str], name: str
) -> None:
    ranking = Ranking(addresses)
    asked = [addresses[ranking.choose(name, attempt)] for attempt in range(2 * len(addresses))]
    assert asked == 2 * sorted(addresses, key=lambda address: -score(address, name))


def test_the_scores_are_those_of_the_protocol() -> None:
    lines = PROTOCOL.read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("| object | `10.0.0.1:7000`"))
    addresses, *rows = (re.findall("`([^`]+)`", line) for line in lines[at : at + 5])
    for name, *scores in rows[1:]:  # below the dashes
        assert [f"{score(address, name):016x}" for address in addresses] == scores


def test_no_server_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(IndexError):
        Ranking([]).choose("Thing/1", 0)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_each_server_gets_its_share(count: int) -> None:
    shares = Counter(homes(addresses_of(count)).values())
    share = len(NAMES) / count
    assert all(abs(shares[address] - share) < 0.15 * share for address in addresses_of(count))


def test_a_server_that_comes_takes_its_share_and_moves_no_other_object() -> None:
    three, four = homes(addresses_of(3)), homes(addresses_of(4))
    moved = [name for name in NAMES if three[name] != four[name]]
    assert {four[name] for name in moved} == {"10.0.0.4:7000"}
    assert 0.2 < len(moved) / len(NAMES) < 0.3


def test_servers_that_are_replaced_one_after_the_other_leave_the_objects_spread() -> None:
    addresses = addresses_of(3)
    home = homes(addresses)
    for index in range(3):
        left = homes([address for address in addresses if address != addresses[index]])
        orphans = [name for name in NAMES if home[name] == addresses[index]]
        heirs = Counter(left[name] for name in orphans)
        assert len(heirs) == 2
        assert min(heirs.values()) > 0.25 * len(orphans)
        home.update((name, left[name]) for name in orphans)
        addresses[index] = f"10.0.1.{index}:7000"
