"""What keeps an event loop awake, for how long, and what else runs meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rio.errors import ConfigurationError
from rio.testing import ManualClock
from rio.transport.low_latency import SPIN_TIME, Spinner, make_spinner

pytestmark = pytest.mark.both_loops


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


@pytest.mark.parametrize("latency", ["lowest", "", None, True, 50e-6])
def test_a_latency_that_there_is_not_is_refused(latency: Any) -> None:
    with pytest.raises(ConfigurationError, match='latency= takes "normal" or "low", got '):
        make_spinner(latency)
