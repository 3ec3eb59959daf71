"""The events that wait for a slow reader: which are kept, and what the reader is told."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import rio
from rio.client.event_queue import EventQueue, Overflow
from rio.errors import BadReply, ConfigurationError, ConnectionLost, Gap


class Said(rio.Message):
    number: int


def put(queue: EventQueue[Any], *numbers: int) -> None:
    for number in numbers:
        queue.put(number, "Said", msgspec.msgpack.encode({"number": number}))


def queue_of(
    *events: type[rio.Message[Any]], limit: int = 3, overflow: Overflow = "raise"
) -> EventQueue[Any]:
    return EventQueue(events, limit, overflow)


async def read(queue: EventQueue[Any], count: int) -> list[int]:
    return [(await queue.get()).number for _ in range(count)]


async def test_events_are_read_in_the_order_in_which_they_come() -> None:
    queue = queue_of(Said)
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    put(queue, 1, 2)
    assert await waiting == Said(1)
    assert await read(queue, 1) == [2]


async def test_without_classes_all_events_are_read_as_plain_values() -> None:
    queue = queue_of()
    put(queue, 1)
    queue.put(2, "Left", msgspec.msgpack.encode(None))
    assert await queue.get() == rio.DynamicMessage("Said", {"number": 1})
    assert await queue.get() == rio.DynamicMessage("Left", None)


async def test_events_of_other_classes_are_passed_over_and_are_not_missed() -> None:
    queue = queue_of(Said)
    queue.put(1, "Left", b"")
    put(queue, 2)
    assert await read(queue, 1) == [2]
    assert queue.missed == 0


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_oldest", [3, 4, 5]), ("drop_newest", [1, 2, 3])]
)
async def test_a_full_queue_drops_and_counts(overflow: Overflow, kept: list[int]) -> None:
    queue = queue_of(Said, overflow=overflow)
    put(queue, 1, 2, 3, 4, 5)
    assert await read(queue, 3) == kept
    assert queue.missed == 2


async def test_a_reader_who_wants_to_know_is_told_once_and_can_read_on() -> None:
    queue = queue_of(Said)
    put(queue, 1, 2, 3, 4, 5)
    with pytest.raises(Gap, match="2 event") as caught:
        await queue.get()
    assert caught.value.missed == 2
    assert await read(queue, 3) == [3, 4, 5]


async def test_a_gap_in_the_numbers_is_missed_until_they_start_again() -> None:
    queue = queue_of(Said, overflow="drop_oldest")
    put(queue, 1, 4)
    assert queue.missed == 2
    queue.restart()
    queue.begin(1, 0)
    put(queue, 1)
    assert (await read(queue, 3), queue.missed) == ([1, 4, 1], 2)


async def test_an_event_that_does_not_decode_is_raised_after_those_before_it() -> None:
    queue = queue_of(Said)
    put(queue, 1)
    queue.put(2, "Said", b"\xc1")
    assert await read(queue, 1) == [1]
    with pytest.raises(BadReply, match="does not decode into Said"):
        await queue.get()


async def test_a_failure_is_raised_after_what_has_arrived() -> None:
    queue = queue_of(Said)
    put(queue, 1)
    queue.fail(ConnectionLost("gone"))
    assert await read(queue, 1) == [1]
    with pytest.raises(ConnectionLost, match="gone"):
        await queue.get()


async def test_a_closed_queue_is_read_to_its_end() -> None:
    queue = queue_of(Said)
    put(queue, 1)
    queue.close()
    assert await read(queue, 1) == [1]
    with pytest.raises(StopAsyncIteration):
        await queue.get()


@pytest.mark.parametrize(("limit", "overflow"), [(0, "raise"), (-1, "raise"), (1, "explode")])
def test_settings_that_cannot_work_are_refused(limit: int, overflow: Any) -> None:
    with pytest.raises(ConfigurationError):
        EventQueue((), limit, overflow)


async def test_after_an_event_that_does_not_decode_the_next_one_is_read() -> None:
    queue = queue_of(Said)
    put(queue, 1)
    queue.put(2, "Said", b"\xc1")
    put(queue, 3)
    assert await read(queue, 1) == [1]
    with pytest.raises(BadReply, match="does not decode into Said"):
        await queue.get()
    assert await read(queue, 1) == [3]


class Odd(rio.Message):
    number: int

    def __post_init__(self) -> None:
        if self.number == 2:
            raise Raised.what("odd")


class Raised:
    what: type[BaseException] = ValueError


@pytest.mark.parametrize("raised", [ValueError, SystemExit, asyncio.CancelledError])
async def test_an_event_that_raises_anything_while_it_is_read_is_told_to_its_reader(
    monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]
) -> None:
    monkeypatch.setattr(Raised, "what", raised)
    queue = queue_of(Odd)
    for number in (1, 2, 3):
        queue.put(number, "Odd", msgspec.msgpack.encode({"number": number}))
    assert await read(queue, 1) == [1]
    with pytest.raises(BadReply, match="Odd") as caught:
        await queue.get()
    assert isinstance(caught.value.__cause__, (raised, msgspec.ValidationError))
    assert await read(queue, 1) == [3]


async def test_a_failure_is_raised_once() -> None:
    queue = queue_of(Said)
    queue.fail(ConnectionLost("gone"))
    with pytest.raises(ConnectionLost, match="gone"):
        await queue.get()
    reading = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    assert not reading.done(), "a loop that tries again gives others a turn"
    reading.cancel()


async def gap(queue: EventQueue[Any]) -> int | None:
    with pytest.raises(Gap) as caught:
        await queue.get()
    missed: int | None = caught.value.missed
    return missed


async def test_after_the_same_activation_went_on_the_missing_events_are_counted() -> None:
    queue = queue_of(Said)
    queue.begin(7, 100)
    put(queue, 1, 2)
    queue.restart()
    queue.begin(7, 102)
    put(queue, 1)
    assert await read(queue, 3) == [1, 2, 1]
    queue.restart()
    queue.begin(7, 108)
    assert await gap(queue) == queue.missed == 5


async def test_another_activation_is_a_gap_of_unknown_size() -> None:
    queue = queue_of(Said)
    queue.begin(7, 0)
    queue.restart()
    queue.begin(8, 0)
    put(queue, 1)
    assert await gap(queue) is None
    assert await read(queue, 1) == [1]


async def test_events_that_come_before_the_answer_are_read_after_the_gap() -> None:
    queue = queue_of(Said)
    queue.begin(7, 0)
    put(queue, 1)
    queue.restart()
    put(queue, 1)
    queue.begin(8, 0)
    assert await read(queue, 1) == [1]
    assert await gap(queue) is None
    assert await read(queue, 1) == [1]


async def test_a_notice_of_dropped_events_is_a_gap_and_no_event() -> None:
    queue = queue_of()
    put(queue, 1)
    queue.put(5, "rio.dropped", b"\xc0")
    put(queue, 6)
    assert (await queue.get()).value == {"number": 1}
    assert await gap(queue) == 4
    assert (await queue.get()).value == {"number": 6}


async def test_gaps_that_are_not_read_become_one_gap_before_what_is_kept() -> None:
    queue = queue_of(Said)
    queue.begin(7, 0)
    put(queue, 1, 2, 3)
    queue.restart()
    queue.begin(8, 0)
    put(queue, 1, 2, 3, 4)
    assert await gap(queue) is None
    assert len(await read(queue, 3)) == 3


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_a_reader_who_does_not_want_to_know_gets_no_gap(overflow: Overflow) -> None:
    queue = queue_of(Said, overflow=overflow)
    queue.begin(7, 0)
    queue.restart()
    queue.begin(8, 0)
    put(queue, 3)
    assert (await read(queue, 1), queue.missed) == ([3], 2)
