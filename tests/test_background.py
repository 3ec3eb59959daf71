"""Tasks of our own: when they begin, and what they do not disturb."""

import asyncio
import contextvars

import pytest

from rio import background

pytestmark = pytest.mark.both_loops

here = contextvars.ContextVar("here", default="outside")


async def test_a_task_that_starts_now_makes_its_first_step_before_it_is_returned() -> None:
    loop, steps = asyncio.get_running_loop(), []
    gate = loop.create_future()

    async def work() -> str:
        here.set("inside")
        steps.append(asyncio.current_task())
        await gate
        return here.get()

    outer = asyncio.current_task()
    task = background.start_now(work(), "a name", loop=loop)
    assert steps == [task]
    assert asyncio.current_task() is outer
    assert here.get() == "outside"
    assert task.get_name() == "a name"
    assert not task.done()
    gate.set_result(None)
    assert await task == "inside"


async def test_a_task_that_starts_now_may_end_at_once_and_keeps_its_error() -> None:
    async def fail() -> None:
        raise ValueError("in the first step")

    task = background.start_now(fail(), "a name", loop=asyncio.get_running_loop())
    assert task.done()
    with pytest.raises(ValueError, match="first step"):
        await task


async def test_a_task_that_starts_now_can_be_cancelled_while_it_waits() -> None:
    loop = asyncio.get_running_loop()

    async def wait() -> None:
        await loop.create_future()

    task = background.start_now(wait(), "a name", loop=loop)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
