"""The rules find what they exist to find, and nothing in a run without faults."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.processes.history import Call, Turn, counter, fifo, set_full, single_activation


def add(began: float, ended: float, value: int | None, outcome: Any = "acknowledged") -> Call:
    return Call(kind="add", object="C/1", began=began, ended=ended, outcome=outcome, value=value)


def get(began: float, ended: float, value: int) -> Call:
    return Call(
        kind="get", object="C/1", began=began, ended=ended, outcome="acknowledged", value=value
    )


def put(began: float, ended: float, element: int, outcome: Any = "acknowledged") -> Call:
    return Call(kind="put", object="B/1", began=began, ended=ended, outcome=outcome, value=element)


def read(began: float, ended: float, *elements: int) -> Call:
    return Call(
        kind="read",
        object="B/1",
        began=began,
        ended=ended,
        outcome="acknowledged",
        value=list(elements),
    )


def turn(
    began: float,
    ended: float,
    token: int = 1,
    generation: int = 1,
    object: str = "C/1",
    caller: str = "",
    number: int = 0,
) -> Turn:
    return Turn(
        object=object,
        generation=generation,
        token=token,
        began=began,
        ended=ended,
        caller=caller,
        number=number,
    )


UNKNOWN = add(0, 9, None, "unknown")
NOT_EXECUTED = add(0, 9, None, "not executed")


@pytest.mark.parametrize("final", [3, 4])
def test_a_counter_whose_unknown_addition_counted_or_not_is_right(final: int) -> None:
    overlapping = [add(0, 5, 2), add(1, 4, 1), add(6, 7, 3)]
    assert (
        counter(
            [*overlapping, UNKNOWN, NOT_EXECUTED, get(0, 1, 0), get(3, 8, 3), get(8, 9, final)],
            final,
        )
        == []
    )


@pytest.mark.parametrize(
    ("calls", "final", "finding"),
    [
        pytest.param(
            [add(0, 1, 1), add(0, 1, 1)], 2, "value 1 was answered 2 times", id="one value for two"
        ),
        pytest.param([add(0, 1, 1), add(2, 3, 2)], 1, "the counter stands at 1", id="lost"),
        pytest.param([add(0, 1, 1), UNKNOWN], 3, "the counter stands at 3", id="counted twice"),
        pytest.param(
            [add(0, 1, 1), NOT_EXECUTED],
            2,
            "the counter stands at 2",
            id="counted although it was not executed",
        ),
        pytest.param(
            [add(0, 1, 2), UNKNOWN], 1, "value 2 was answered", id="answered before it was saved"
        ),
        pytest.param(
            [add(0, 1, 2), add(2, 3, 1)],
            2,
            "(add) that began after 2 had been answered was answered with 1",
            id="stale",
        ),
        pytest.param(
            [add(0, 1, 1), get(2, 3, 0)],
            1,
            "(get) that began after 1 had been answered was answered with 0",
            id="stale get",
        ),
        pytest.param(
            [get(0, 1, 1), add(2, 3, 1)],
            1,
            "(add) that began after 1 had been answered was answered with 1",
            id="seen before",
        ),
        pytest.param(
            [add(0, 1, 1), add(2, 9, 2), add(3, 4, 3), add(5, 6, 2)],
            4,
            "(add) that began after 3 had been",
            id="hidden stale",
        ),
    ],
)
def test_a_counter_that_lost_or_doubled_something_is_found(
    calls: list[Call], final: int, finding: str
) -> None:
    assert any(finding in found.text for found in counter(calls, final))


def newer(began: float, value: int, count: int) -> Call:
    """An addition by newer code, which counts its own."""
    call = add(began, began + 0.5, value)
    call.newer = count
    return call


def test_a_field_that_older_code_has_kept_is_right() -> None:
    assert counter([newer(0, 1, 1), add(1, 2, 2), newer(3, 3, 2)], 3) == []


def test_a_field_that_older_code_has_erased_is_found() -> None:
    [finding] = counter([newer(0, 1, 1), add(1, 2, 2), newer(3, 3, 1)], 3)
    assert finding.kind == "lost"
    assert "a field of newer code" in finding.text


def test_a_set_that_holds_what_was_acknowledged_is_right() -> None:
    calls = [
        put(0, 3, 1),
        put(0, 9, 2, "unknown"),
        put(0, 9, 3, "unknown"),
        put(0, 9, 4, "not executed"),
        put(5, 6, 5),
    ]
    assert (
        set_full([*calls, read(1, 2), read(1, 2, 1), read(4, 5, 1, 2), read(7, 8, 2, 1, 5)]) == []
    )


@pytest.mark.parametrize(
    ("calls", "finding"),
    [
        pytest.param([put(0, 1, 1), read(2, 3)], "element 1 is missing", id="lost"),
        pytest.param(
            [put(0, 1, 1), read(2, 3, 1), read(4, 5)], "element 1 is missing", id="lost later"
        ),
        pytest.param(
            [put(0, 9, 1, "unknown"), read(2, 3, 1), read(4, 5)],
            "element 1 is missing",
            id="taken back after it was seen",
        ),
        pytest.param([put(0, 1, 1), read(2, 3, 1, 1)], "element 1 was read twice", id="put twice"),
        pytest.param([read(2, 3, 1)], "nobody put it", id="made up"),
        pytest.param(
            [put(0, 1, 1, "not executed"), read(2, 3, 1)],
            "it was not executed",
            id="executed all the same",
        ),
        pytest.param(
            [put(4, 5, 1), read(2, 3, 1)], "it had not been put yet", id="from the future"
        ),
    ],
)
def test_a_set_that_lost_or_doubled_something_is_found(calls: list[Call], finding: str) -> None:
    assert any(finding in found.text for found in set_full(calls))


def test_turns_one_after_the_other_under_ascending_tokens_are_right() -> None:
    assert (
        single_activation(
            [
                turn(4, 5, 3, 1),
                turn(0, 1, 1, 1),
                turn(1, 2, 1, 1),
                turn(2, 3, 2, 2),
                turn(0, 9, 1, 1, object="C/2"),
            ]
        )
        == []
    )


@pytest.mark.parametrize(
    ("turns", "finding"),
    [
        pytest.param(
            [turn(0, 2, 1, 1), turn(1, 3, 2, 2)],
            "began while one under token 1 ran",
            id="on two servers at once",
        ),
        pytest.param(
            [turn(0, 9, 1, 1), turn(1, 2, 2, 2), turn(3, 4, 2, 2)],
            "began while one under token 1 ran",
            id="within a long one",
        ),
        pytest.param(
            [turn(0, 2, 1, 1), turn(1, 3, 1, 1)],
            "began while one under token 1 ran",
            id="twice on one server",
        ),
        pytest.param(
            [turn(0, 1, 2, 2), turn(2, 3, 1, 1)],
            "under token 1 began after one under token 2",
            id="by an old owner",
        ),
        pytest.param(
            [turn(0, 1, 1, 1), turn(2, 3, 1, 2)],
            "members 1 and 2 both ran turns under token 1",
            id="two owners of one token",
        ),
    ],
)
def test_turns_of_two_activations_at_once_are_found(turns: list[Turn], finding: str) -> None:
    assert any(finding in found.text for found in single_activation(turns))


def test_messages_of_one_caller_in_their_order_are_right() -> None:
    first, second, third = (
        turn(0, 1, caller="a", number=1),
        turn(2, 3, caller="b", number=1),
        turn(4, 5, caller="a", number=2),
    )
    assert (
        fifo(
            [
                third,
                second,
                first,
                turn(6, 7),
                turn(8, 9),
                turn(4, 5, object="C/2", caller="a", number=1),
            ]
        )
        == []
    )


@pytest.mark.parametrize("numbers", [(2, 1), (1, 1)], ids=["in another order", "twice"])
def test_messages_of_one_caller_out_of_order_are_found(numbers: tuple[int, int]) -> None:
    turns = [turn(at, at + 0.5, caller="a", number=number) for at, number in enumerate(numbers)]
    assert [found.text for found in fifo(turns)] == [
        f"C/1: number {numbers[1]} of a was handled after number {numbers[0]}"
    ]
