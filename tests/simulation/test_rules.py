"""The simulation's own rules find what they exist to find.

``tests/cluster/processes/test_history.py`` tests the other rules.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus
from rio.contracts.placement import Placement
from rio.errors import ConnectionLost, Expired
from rio.identity import ObjectId
from rio.testing import Host, run
from tests.simulation import linearizable as checker
from tests.simulation.history import SLACK, History, NotedTurn
from tests.simulation.linearizable import Operation, linearizable
from tests.simulation.objects import Elements, Value

ADA = ObjectId("Counter", "ada")


def setting(began: float, ended: float, expected: int, new: int, answer: int | None) -> Operation:
    return Operation(began, ended, expected, new, answer)


def get(began: float, ended: float, answer: int) -> Operation:
    return Operation(began, ended, 0, 0, answer)


UNKNOWN = math.inf


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param([], id="nothing"),
        pytest.param(
            [get(0, 1, 0), setting(2, 3, 0, 5, 5), get(4, 5, 5), setting(6, 7, 0, 6, 5)],
            id="one after the other",
        ),
        pytest.param(
            [setting(0, 9, 0, 5, 5), get(1, 2, 0), get(3, 4, 5)], id="it takes effect in between"
        ),
        pytest.param(
            [setting(0, 9, 0, 5, 5), setting(0, 9, 5, 6, 6), get(8, 9, 5)], id="two at once"
        ),
        pytest.param(
            [setting(0, UNKNOWN, 0, 5, None), get(1, 2, 0), get(3, 4, 5)],
            id="the unknown took effect",
        ),
        pytest.param(
            [setting(0, UNKNOWN, 0, 5, None), get(1, 2, 0), get(300, 400, 0)],
            id="the unknown did not",
        ),
    ],
)
def test_answers_that_one_order_explains_are_right(operations: list[Operation]) -> None:
    assert linearizable(operations, 0)
    assert linearizable(operations[::-1], 0)


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param([get(0, 1, 7)], id="from nowhere"),
        pytest.param([setting(0, 1, 0, 5, 5), get(2, 3, 0)], id="lost"),
        pytest.param([setting(0, 1, 0, 5, 5), setting(2, 3, 5, 6, 6), get(4, 5, 5)], id="stale"),
        pytest.param(
            [setting(0, 9, 0, 5, 5), get(1, 2, 5), get(3, 4, 0)], id="there and gone again"
        ),
        pytest.param([setting(0, 1, 0, 5, 5), setting(2, 3, 0, 6, 6)], id="both won"),
        pytest.param([setting(2, UNKNOWN, 0, 5, None), get(0, 1, 5)], id="before it was asked for"),
    ],
)
def test_answers_that_no_order_explains_are_found(operations: list[Operation]) -> None:
    assert not linearizable(operations, 0)


def test_too_much_to_find_out_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "MOST_STEPS", 100)
    with pytest.raises(RuntimeError, match="too many"):
        linearizable(
            [setting(0, UNKNOWN, 0, number, None) for number in range(1, 30)] + [get(1, 2, 99)], 0
        )


# --- what is found while it happens ---------------------------------------------------------------


def member(status: MemberStatus) -> MembershipSnapshot:
    return MembershipSnapshot(1, 1, (Member(1, "a:1", status),))


def test_a_status_that_moves_back_is_found() -> None:
    history = History()
    for status in (MemberStatus.JOINING, MemberStatus.ACTIVE, MemberStatus.DEAD):
        history.members(member(status))
    assert history.found == []
    history.members(member(MemberStatus.ACTIVE))
    assert "moved back from 5 to 1" in history.found[0]


def test_taking_over_from_a_member_that_has_not_ended_is_found() -> None:
    history = History()
    history.claimed(ADA, None, Placement(1, 1), False)
    history.claimed(
        ADA, Placement(1, 1), Placement(1, 1), False
    )  # another caller asked, and learnt who owns it
    history.claimed(ADA, Placement(1, 1), Placement(1, 2), False)  # the owner asked again
    history.claimed(ADA, None, Placement(2, 3), False)  # it was released
    history.claimed(ADA, Placement(2, 3), Placement(3, 4), True)
    assert (history.found, history.takeovers) == ([], 1)
    history.claimed(ADA, Placement(3, 4), Placement(1, 5), False)
    assert "which has not ended" in history.found[0]


def test_a_token_that_does_not_grow_is_found() -> None:
    history = History()
    history.claimed(ADA, None, Placement(1, 5), False)
    history.claimed(ADA, None, Placement(2, 5), False)
    assert history.found == ["token 5 of Counter/ada came after 5"]


def test_a_save_under_an_old_token_and_one_over_another_are_found() -> None:
    history = History()
    history.loaded(ADA, 3)
    history.saved(ADA, 3, 1)
    history.saved(ADA, 3, 2)
    assert history.found == []
    history.loaded(ADA, 4)
    history.saved(ADA, 3, 3)
    history.saved(ADA, 4, 3)
    assert history.found == [
        "Counter/ada was saved under token 3 after token 4 had read it",
        "version 3 of Counter/ada was saved after version 3",
    ]


# --- what callers see -----------------------------------------------------------------------------


async def reply(outcome: Any) -> Any:
    await asyncio.sleep(1.0)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def test_each_outcome_is_noted_as_what_its_caller_knows() -> None:
    async def main() -> None:
        history = History()
        await history.call("add", "Counter/1", "me", 1, reply(Value(7, "me", 1)))
        await history.call("get", "Counter/1", "me", 2, reply(Expired("too late")))
        await history.call("put", "Bag/1", "me", 3, reply(ConnectionLost("gone")), 33)
        await history.call("read", "Bag/1", "me", 4, reply(Elements([33], "me", 4)))
        giving_up = asyncio.create_task(
            history.call("add", "Counter/1", "me", 5, reply(Value(8, "me", 5)))
        )
        await asyncio.sleep(0.5)
        giving_up.cancel()
        await asyncio.gather(giving_up, return_exceptions=True)
        assert [(call.kind, call.outcome, call.value) for call in history.calls] == [
            ("add", "acknowledged", 7),
            ("get", "not executed", None),
            ("put", "unknown", 33),
            ("read", "acknowledged", [33]),
            ("add", "unknown", None),
        ]
        assert history.found == []

    run(main())


def test_an_answer_to_somebody_else_is_found() -> None:
    async def main() -> None:
        history = History()
        await history.call("add", "Counter/1", "me", 1, reply(Value(7, "you", 2)))
        assert history.found == ["me got the answer to number 2 of you for its own number 1"]

    run(main())


def test_a_call_that_outlasts_its_deadline_is_found() -> None:
    async def main() -> None:
        history = History(patience={"me": 1.0, "you": 0.9 - SLACK})
        await history.call("get", "Counter/1", "me", 1, reply(Value(0, "me", 1)))
        assert history.findings({}, no_overlap=True, good_clocks=True) == []
        await history.call("get", "Counter/1", "you", 1, reply(Value(0, "you", 1)))
        findings = history.findings({}, no_overlap=True, good_clocks=True)
        assert findings == ["Counter/1: a call (get) of you ended after 1.000 s"]

    run(main())


# --- turns ----------------------------------------------------------------------------------------

HOST, OTHER = Host("a"), Host("b")


def turn(
    began: float, ended: float, token: int = 1, host: Host = HOST, number: int = 0
) -> NotedTurn:
    return NotedTurn("Counter/1", token, host, "me" if number else "", number, began, ended)


def findings(
    turns: list[NotedTurn],
    stalls: dict[Host, list[tuple[float, float]]] | None = None,
    *,
    no_overlap: bool = True,
) -> list[str]:
    history = History(turns=turns, owners={1: 1, 2: 2})
    history.stalls.update(stalls or {})
    return history.findings({}, no_overlap=no_overlap, good_clocks=True)


def test_turns_that_overlap_are_found_where_they_must_not() -> None:
    turns = [turn(0, 5), turn(3, 4, token=2, host=OTHER)]
    assert findings(turns, no_overlap=False) == []  # it began before, and was still running
    assert "while one under token 1 ran" in findings(turns)[0]


def test_a_turn_that_begins_under_an_old_token_is_found() -> None:
    assert (
        "after one under token 2"
        in findings([turn(0, 1, token=2, host=OTHER), turn(2, 3)], no_overlap=False)[0]
    )


def test_while_its_process_is_stopped_a_turn_does_not_run() -> None:
    stalled = {HOST: [(1.0, 9.0)]}
    assert findings([turn(0, 9), turn(3, 4, token=2, host=OTHER)], stalled) == []
    assert findings([turn(0, 9), turn(3, 4, token=2, host=OTHER)], {OTHER: [(5.0, 9.0)]}) != []
    assert findings([turn(0, 10), turn(3, 4, token=2, host=OTHER)], stalled) != []  # it went on


def test_a_message_that_was_handled_twice_is_found() -> None:
    assert findings([turn(0, 1, number=7), turn(2, 3, number=8), turn(4, 5), turn(6, 7)]) == []
    assert findings([turn(0, 1, number=7), turn(2, 3, number=7)]) == [
        "Counter/1 handled number 7 of me 2 times"
    ]
