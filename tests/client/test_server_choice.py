"""Which server is asked for an object whose place is not known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rio.client.server_choice import ServerChoice
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus

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
