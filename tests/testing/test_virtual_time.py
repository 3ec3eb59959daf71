"""The virtual loop: time that jumps, clocks that differ, hosts that stall, and a seed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from rio.testing import Host, ManualClock, VirtualTimeLoop, current_host, run
from rio.testing.virtual_time import true_time


def the_loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


# --- time -----------------------------------------------------------------------------------------


def test_a_year_passes_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(365 * 86_400)
        return asyncio.get_running_loop().time()

    assert run(main()) == 365 * 86_400


def test_things_happen_when_they_are_due_and_those_of_one_moment_in_the_order_of_asyncio() -> None:
    async def main() -> list[tuple[float, str]]:
        loop, seen = asyncio.get_running_loop(), []
        for delay, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (0.0, "now")):
            loop.call_later(delay, lambda name=name: seen.append((loop.time(), name)))
        await asyncio.sleep(3.0)
        return seen

    assert run(main()) == [(0.0, "now"), (1.0, "a"), (1.0, "b"), (2.0, "c")]


def test_timeouts_end_what_takes_longer_and_nothing_else() -> None:
    async def main() -> float:
        async with asyncio.timeout(2.0):
            await asyncio.sleep(1.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main()) == 3.0


def test_a_program_that_waits_for_nothing_is_told_so_and_does_not_hang() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing will ever happen again"):
        run(main())


def test_a_manual_clock_stands_until_it_is_advanced_and_does_not_go_back() -> None:
    clock = ManualClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(2.5)
    assert clock() == 7.5
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1.0)


# --- hosts ----------------------------------------------------------------------------------------


def test_code_runs_on_the_host_in_whose_context_it_was_started() -> None:
    async def nested() -> Host | None:
        return await asyncio.create_task(whoever())

    async def whoever() -> Host | None:
        await asyncio.sleep(1.0)
        return current_host()

    async def main() -> None:
        host = Host("a")
        assert await host.run(nested()) is host
        assert await nested() is None
        seen = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(
            1.0, lambda: seen.set_result(current_host()), context=host.context()
        )
        assert await seen is host

    run(main())


@pytest.mark.parametrize(("rate", "takes"), [(1.0, 10.0), (1.1, 10.0 / 1.1), (0.5, 20.0)])
def test_timers_of_a_host_go_by_its_own_clock(rate: float, takes: float) -> None:
    async def work() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(10.0)
        return began, loop.time()

    async def main() -> None:
        await asyncio.sleep(3.0)
        host = Host("a", rate=rate, offset=100.0)
        began, ended = await host.run(work())
        assert began == pytest.approx(100.0 + 3.0 * rate)
        assert ended - began == pytest.approx(10.0)
        assert true_time(asyncio.get_running_loop()) == pytest.approx(3.0 + takes)
        assert host.clock() == pytest.approx(ended)

    run(main())


def test_a_stalled_host_does_nothing_until_it_goes_on_and_then_everything_in_order() -> None:
    async def main() -> list[tuple[float, str]]:
        loop, seen = the_loop(), []
        slow, other = Host("slow"), Host("other")

        async def tick(host: Host, name: str) -> None:
            for number in range(4):
                await asyncio.sleep(1.0)
                seen.append((loop.true_time(), f"{name}{number}"))

        work: list[Coroutine[Any, Any, None]] = [
            slow.run(tick(slow, "s")),
            other.run(tick(other, "o")),
        ]
        running = asyncio.gather(*work)
        await asyncio.sleep(1.5)
        loop.stall(slow, 2.0)
        await running
        return sorted(seen)

    assert run(main()) == [
        (1.0, "o0"), (1.0, "s0"), (2.0, "o1"), (3.0, "o2"),
        (3.5, "s1"), (4.0, "o3"), (4.5, "s2"), (5.5, "s3"),
    ]  # fmt: skip


def test_what_came_due_during_a_stall_runs_in_the_order_in_which_it_was_due() -> None:
    async def main() -> list[str]:
        loop, seen, host = the_loop(), [], Host("slow")

        async def arrange() -> None:
            for delay, name in ((3.0, "third"), (1.0, "first"), (2.0, "second")):
                asyncio.get_running_loop().call_later(delay, seen.append, name)

        await host.run(arrange())
        loop.stall(host, 5.0)
        await asyncio.sleep(4.9)
        assert seen == []
        await asyncio.sleep(0.2)
        return seen

    assert run(main()) == ["first", "second", "third"]


def test_of_two_stalls_the_longer_counts_and_it_can_be_ended_early() -> None:
    async def main() -> None:
        loop, host, woke = the_loop(), Host("slow"), []
        loop.call_later(1.0, lambda: woke.append(loop.true_time()), context=host.context())
        loop.call_later(2.0, lambda: woke.append(loop.true_time()), context=host.context())
        loop.stall(host, 10.0)
        loop.stall(host, 3.0)
        await asyncio.sleep(5.0)
        assert woke == []
        loop.resume(host)
        await asyncio.sleep(1.0)
        assert woke == []
        loop.resume(host, at_once=True)
        await asyncio.sleep(0.1)
        assert woke == [6.0, 6.0]

    run(main())


# --- the seed -------------------------------------------------------------------------------------


async def race() -> str:
    """Four hosts with three things to do each, all at the same moments."""
    seen: list[str] = []

    async def step(name: str) -> None:
        for number in range(3):
            await asyncio.sleep(1.0)
            seen.append(f"{name}{number}")

    await asyncio.gather(*(Host(name).run(step(name)) for name in "abcd"))
    return " ".join(seen)


def test_the_seed_decides_which_host_comes_first_and_always_in_the_same_way() -> None:
    orders = [run(race(), seed=seed) for seed in range(20)]
    assert orders == [run(race(), seed=seed) for seed in range(20)]
    assert len(set(orders)) > 15


def test_on_one_host_nothing_is_mixed() -> None:
    async def main() -> list[int]:
        host, seen = Host("a"), list[int]()
        await asyncio.gather(*(host.run(step(seen, number)) for number in range(10)))
        return seen

    async def step(seen: list[int], number: int) -> None:
        await asyncio.sleep(1.0)
        seen.append(number)

    assert {tuple(run(main(), seed=seed)) for seed in range(10)} == {tuple(range(10))}


def test_the_order_does_not_hang_on_where_objects_lie_in_memory() -> None:
    async def main(names: str) -> list[str]:
        seen: list[str] = []
        loop = the_loop()
        for name in names:
            loop.call_later(1.0, seen.append, name, context=Host(name).context())
        await asyncio.sleep(2.0)
        return seen

    assert run(main("abcd"), seed=3) == run(main("dbca"), seed=3)
