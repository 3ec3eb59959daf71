"""Requests run as they are read for a few milliseconds, then the loop serves everything else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rio._core import dispatch
from tests.core.node import Echo, Node, cancel, frames, read, read_bytes, request, settle


class SlowNode(Node):
    """A node whose handlers take ``cost`` seconds of the loop."""

    def __init__(self, cost: float, **limits: int) -> None:
        super().__init__(dispatch, **limits)
        self.ran: list[int] = []

        def slow(thing: Any, message: Any) -> Echo:
            self.time += cost
            self.ran.append(message.n)
            return Echo(message.n)

        async def slow_async(thing: Any, message: Any) -> Echo:
            return slow(thing, message)

        self.add_method("slow", slow, is_async=False)
        self.add_method("slow async", slow_async, is_async=True)


def requests(numbers: range, message: str = "slow", **fields: Any) -> bytes:
    return frames(*(request(n, n, message=message, **fields) for n in numbers))


@pytest.mark.parametrize("message", ["slow", "slow async"])
async def test_a_read_with_many_requests_leaves_the_loop_time_for_others(message: str) -> None:
    node = SlowNode(0.002)
    connection = node.connect()
    read_bytes(connection, requests(range(100), message))
    assert node.ran == [0, 1, 2], "as long as the budget lasts"
    ticks = 0
    while node.dispatcher.in_flight:
        await asyncio.sleep(0)
        ticks += 1
    assert node.ran == list(range(100)), "in the order in which they came"
    assert ticks >= 30
    await asyncio.sleep(0)
    assert len(connection.transport.answers()) == 100


async def test_what_is_cancelled_while_it_waits_is_not_executed() -> None:
    node = SlowNode(0.002)
    connection = node.connect()
    read_bytes(connection, requests(range(20)))
    read(connection, cancel(10))
    await settle()
    assert node.ran == [n for n in range(20) if n != 10]


async def test_what_waits_for_longer_than_its_deadline_is_not_executed() -> None:
    node = SlowNode(0.1)
    connection = node.connect()
    read_bytes(connection, requests(range(8), timeout=450))
    await settle()
    answers = connection.transport.answers()
    assert answers == {n: n if n in node.ran else "overloaded" for n in range(8)}
    assert node.ran == [0, 1, 2, 3, 4]


async def test_what_would_wait_too_long_is_refused_at_once() -> None:
    node = SlowNode(0.02)
    connection = node.connect()
    read_bytes(connection, requests(range(1000)))
    refused = [frame for frame in connection.transport.frames if frame[2] == "overloaded"]
    assert 940 <= len(refused) <= 960, "a second is about fifty of them"
    assert len(node.ran) == 1


async def test_another_connection_does_not_wait_for_all_of_a_greedy_one() -> None:
    node = SlowNode(0.002)
    greedy, modest = node.connect(), node.connect()
    read_bytes(greedy, requests(range(400)))
    read(modest, request(1, 1000, message="slow", object="b"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 1000 in node.ran
    assert len(node.ran) < 12


async def test_turns_that_waited_for_one_object_leave_the_loop_time_for_others() -> None:
    node = SlowNode(0.002)
    connection = node.connect()
    read(connection, request(1000, 1000, message="wait"))
    await asyncio.sleep(0)
    read_bytes(connection, requests(range(50)))
    node.open_gate(1000)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 1 <= len(node.ran) <= 4
    await settle()
    await settle()
    assert node.ran == list(range(50))


async def test_small_requests_that_come_now_and_then_never_wait() -> None:
    node = SlowNode(0.0001)
    connection = node.connect()
    for n in range(200):
        read(connection, request(n, n, message="slow"))
        assert node.ran[-1] == n
        node.time += 0.001
