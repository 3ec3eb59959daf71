"""What keeps an event loop awake, for how long, and what else runs meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rio._core import dispatch
from rio._core.calls import ClientHalf
from rio._core.connection import Connection
from rio._core.spin import SPIN_TIME, Spinner
from rio.testing import ManualClock
from tests.core.node import Node, Wire


class CountingClock(ManualClock):
    """A clock that each turn of a spinner moves on."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.readings = 0
        self.reached = asyncio.Event()
        self._step = step

    def __call__(self) -> float:
        self.readings += 1
        self.advance(self._step)
        if self.readings == 50:
            self.reached.set()
        return super().__call__()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def spinner(clock: ManualClock) -> AsyncIterator[Spinner]:
    spinner = Spinner(clock)
    spinner.open()
    yield spinner
    spinner.close()


async def turns(count: int = 5) -> None:
    """Let the loop make so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def time_out(spinner: Spinner, clock: ManualClock) -> None:
    """Let nothing happen for so long that the loop sleeps."""
    clock.advance(2 * SPIN_TIME)
    await turns()
    assert not spinner.is_spinning


async def test_the_loop_makes_turns_with_nothing_else_to_do() -> None:
    spinner = Spinner(clock := CountingClock(SPIN_TIME / 100))
    spinner.open()
    spinner.note_write()
    await clock.reached.wait()  # only the spinner's own turns bring it about
    assert spinner.is_spinning
    spinner.close()


async def test_it_sleeps_once_nothing_was_written_for_the_time(
    spinner: Spinner, clock: ManualClock
) -> None:
    spinner.note_write()
    await turns()
    clock.advance(0.9 * SPIN_TIME)
    await turns()
    assert spinner.is_spinning
    clock.advance(0.2 * SPIN_TIME)
    await turns()
    assert not spinner.is_spinning


async def test_each_write_gives_it_the_whole_time_again(
    spinner: Spinner, clock: ManualClock
) -> None:
    for _ in range(5):
        spinner.note_write()
        await turns()
        clock.advance(0.9 * SPIN_TIME)
        await turns()
        assert spinner.is_spinning


async def test_a_loop_that_sleeps_is_left_alone() -> None:
    spinner = Spinner(clock := CountingClock(SPIN_TIME))
    spinner.open()
    spinner.note_read()
    await turns()
    assert clock.readings == 0
    spinner.note_write()
    await turns()
    assert not spinner.is_spinning
    readings = clock.readings
    await turns()
    assert clock.readings == readings


async def test_while_it_does_not_pay_it_is_tried_more_and_more_rarely(
    spinner: Spinner, clock: ManualClock
) -> None:
    tries = []
    for write in range(300):
        spinner.note_write()
        await turns(1)
        if spinner.is_spinning:
            tries.append(write)
            await time_out(spinner, clock)
            spinner.note_read()  # too late
    assert tries == [0, 2, 6, 14, 30, 62, 126, 190, 254]


async def test_as_soon_as_it_pays_each_write_keeps_the_loop_awake_again(
    spinner: Spinner, clock: ManualClock
) -> None:
    for _ in range(2):
        spinner.note_write()
        await turns()
        await time_out(spinner, clock)
        spinner.note_write()  # one passes after one try for nothing
        assert not spinner.is_spinning
        for _ in range(3):
            spinner.note_write()
            await turns()
            assert spinner.is_spinning
            spinner.note_read()
            await time_out(spinner, clock)


async def test_each_answer_in_time_halves_what_passes_before_the_next_try(
    spinner: Spinner, clock: ManualClock
) -> None:
    tries = []
    for write in range(50):
        spinner.note_write()
        await turns(1)
        if spinner.is_spinning:
            tries.append(write)
            if len(tries) > 3:
                spinner.note_read()
            await time_out(spinner, clock)
    assert tries[:9] == [0, 2, 6, 14, 18, 20, 21, 22, 23]


async def test_an_answer_that_came_too_late_has_not_paid(
    spinner: Spinner, clock: ManualClock
) -> None:
    spinner.note_write()
    await turns()
    clock.advance(1.1 * SPIN_TIME)  # the machine has run other things meanwhile
    spinner.note_read()
    await turns()
    spinner.note_write()
    assert not spinner.is_spinning


async def test_callbacks_timers_and_threads_have_their_turns_meanwhile(spinner: Spinner) -> None:
    loop = asyncio.get_running_loop()
    called, timed, from_thread = (loop.create_future() for _ in range(3))
    spinner.note_write()  # and the clock stands still
    await turns()
    loop.call_soon(called.set_result, None)
    loop.call_later(0.001, timed.set_result, None)
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(from_thread.set_result, None))
    thread.start()
    await asyncio.gather(called, timed, from_thread)
    thread.join()
    assert spinner.is_spinning


async def test_closing_leaves_nothing_on_the_loop() -> None:
    spinner = Spinner(clock := CountingClock(0.0))
    spinner.open()
    spinner.note_write()
    await clock.reached.wait()
    spinner.close()
    spinner.close()
    readings = clock.readings
    spinner.note_write()  # what still happens on a connection that closes
    spinner.note_read()
    await turns()
    assert not spinner.is_spinning
    assert clock.readings == readings


async def test_it_can_be_opened_again(spinner: Spinner) -> None:
    spinner.note_write()
    spinner.close()
    spinner.open()
    spinner.note_write()
    await turns()
    assert spinner.is_spinning


def test_it_is_opened_on_a_loop() -> None:
    with pytest.raises(RuntimeError):
        Spinner().open()


async def test_the_loop_calls_it_in_a_context_of_its_own() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    def read() -> float:
        seen.append(variable.get())
        return 0.0

    spinner = Spinner(read)
    spinner.open()
    variable.set("that of the code that writes")
    spinner.note_write()
    await turns()
    spinner.close()
    assert set(seen) == {"unset"}


async def test_the_garbage_collector_finds_one_that_holds_itself() -> None:
    clock: Any = CountingClock(0.0)
    clock.spinner = Spinner(clock)
    clock.spinner.open()
    clock.spinner.note_write()
    await turns()
    clock.spinner.close()
    gone = weakref.ref(clock)
    del clock
    await turns()
    gc.collect()
    assert gone() is None


# --- of a connection ------------------------------------------------------------------------------


def client_half() -> ClientHalf:
    half = ClientHalf(asyncio.get_running_loop())
    half.transport = Wire()
    return half


def server_half() -> dispatch.ServerHalf:
    half: dispatch.ServerHalf = Node(dispatch).connect()
    return half


@pytest.fixture(params=[client_half, server_half])
async def half(request: pytest.FixtureRequest) -> Connection:
    made: Connection = request.param()
    return made


async def test_it_hears_of_each_write_of_a_connection(half: Connection) -> None:
    half.spinner = spinner = Spinner(CountingClock(0.0))
    spinner.open()
    half.flush()
    assert not spinner.is_spinning, "nothing waited to be written"
    half.put(b"x")
    half.flush()
    assert spinner.is_spinning
    spinner.close()


async def test_it_hears_of_each_read_of_a_connection(half: Connection) -> None:
    half.spinner = spinner = Spinner(clock := CountingClock(0.0))
    spinner.open()
    spinner.note_write()
    half.buffer_updated(0)
    assert clock.readings == 1
    half.receive(b"")
    assert clock.readings == 1, "what comes from within the process was not waited for"
    spinner.close()


async def test_a_connection_can_lose_it_while_it_is_told(half: Connection) -> None:
    def let_go() -> float:
        half.spinner = None
        return 0.0

    half.spinner = Spinner(let_go)
    half.spinner.open()
    half.spinner.note_write()
    half.spinner.close()
    half.spinner.open()
    half.spinner.note_write()
    half.buffer_updated(0)
    assert half.spinner is None


async def test_a_connection_takes_nothing_else_for_one(half: Connection) -> None:
    assert half.spinner is None
    with pytest.raises(TypeError):
        half.spinner = object()  # type: ignore[assignment]
