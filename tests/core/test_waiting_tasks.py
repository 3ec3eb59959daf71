"""A task that awaits a call goes on as soon as the reply is read, and else as asyncio has it.

Every test but the first ones runs both ways: the short one, and the plain one, which
``RIO_PLAIN_TASKS=1`` asks for and which an interpreter has whose tasks wait in another way.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import msgpack
import pytest

from rio._core import dispatch
from rio._core.calls import Call
from rio.errors import Expired
from tests.core.node import Echo, Node, read, request, settle
from tests.core.test_calls import Asker, Line

number = contextvars.ContextVar("number", default=0)


@pytest.fixture(params=["short", "plain"])
def asker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Asker]:
    """What makes a client that has its tasks woken the one way or the other."""

    def make() -> Asker:
        monkeypatch.setenv("RIO_PLAIN_TASKS", "1" if request.param == "plain" else "0")
        return Asker()

    return make


async def start(work: Any, **options: Any) -> asyncio.Task[Any]:
    """A task that has come to the first thing that it awaits."""
    task = asyncio.get_running_loop().create_task(work, **options)
    await settle()
    return task


async def from_the_loop(*steps: Callable[[], object]) -> None:
    """Do something as the loop does it: where no task runs."""
    done = asyncio.get_running_loop().create_future()

    def work() -> None:
        try:
            for step in steps:
                step()
        finally:
            done.set_result(None)

    asyncio.get_running_loop().call_soon(work)
    await done


def answers(line: Line, n: int = 0) -> Callable[[], None]:
    """The reply to the last call that was sent."""
    id = line.last_id
    return lambda: line.answer(id, n)


async def value(awaitable: Awaitable[Any]) -> int:
    reply = await awaitable
    return int(reply.n)


# --- when -----------------------------------------------------------------------------------------


async def steps_of_a_reply(asker: Asker) -> list[str]:
    """What happens, in order, when a reply is read for which a task waits."""
    seen: list[str] = []

    async def wait() -> None:
        await asker.ask(1)
        seen.append("woken")
        asker.ask(2)
        seen.append("asked")

    task = await start(wait())
    answer = answers(asker.line)
    writes = len(asker.line.transport.writes)
    await from_the_loop(
        answer,
        lambda: seen.append(f"read, {len(asker.line.transport.writes) - writes} written"),
    )
    await task
    return seen


async def test_a_task_goes_on_while_its_reply_is_read_and_what_it_sends_leaves_at_the_end() -> None:
    assert await steps_of_a_reply(Asker()) == ["woken", "asked", "read, 1 written"]


async def test_the_switch_has_a_task_woken_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIO_PLAIN_TASKS", "1")
    assert await steps_of_a_reply(Asker()) == ["read, 0 written", "woken", "asked"]


async def test_in_debug_mode_the_loop_wakes_each_task() -> None:
    asyncio.get_running_loop().set_debug(True)
    assert await steps_of_a_reply(Asker()) == ["read, 0 written", "woken", "asked"]


@pytest.mark.parametrize(("budget", "woken"), [(0.0, [0]), (60.0, [0, 1, 2])])
async def test_tasks_whose_turn_comes_after_the_budget_of_a_read_are_woken_by_the_loop(
    budget: float, woken: list[int]
) -> None:
    asker = Asker()
    asker.line.step_budget = budget
    seen: list[int] = []

    async def wait(n: int) -> None:
        seen.append(await value(asker.ask(n)))

    tasks = [await start(wait(n)) for n in range(3)]
    asked = asker.line.asked()
    replies = [[2, asked[n], {"n": n}] for n in range(3)]
    await from_the_loop(
        lambda: asker.line.receive(*map(msgpack.packb, replies)),
        lambda: assert_equal(seen, woken),
    )
    await asyncio.gather(*tasks)
    assert seen == [0, 1, 2]


def assert_equal(one: object, other: object) -> None:
    assert one == other


async def test_a_reply_that_is_read_while_a_task_runs_steps_no_other_task() -> None:
    asker = Asker()
    task = await start(value(asker.ask(1)))
    answers(asker.line, 5)()
    assert not task.done()
    assert await task == 5


async def test_a_reply_that_is_read_while_a_plain_handler_runs_steps_no_task() -> None:
    asker = Asker()
    task = await start(value(asker.ask(1)))
    seen: list[bool] = []

    def handle(thing: Any, message: Any) -> Echo:
        asker.line.answer(asker.line.last_id, 5)
        seen.append(task.done())
        return Echo(message.n)

    node = Node(dispatch)
    node.add_method("handle", handle, is_async=False)
    connection = node.connect()
    await from_the_loop(lambda: read(connection, request(1, 7, message="handle")))
    assert (await task, seen, connection.transport.answers()) == (5, [False], {1: 7})


async def test_a_task_whose_context_is_that_of_the_read_is_woken_by_the_loop() -> None:
    asker = Asker()
    context = contextvars.copy_context()
    task = await start(value(asker.ask(1)), context=context)
    answer = answers(asker.line, 5)
    await from_the_loop(lambda: context.run(answer), lambda: assert_equal(task.done(), False))
    assert await task == 5


# --- what a task sees -----------------------------------------------------------------------------


async def test_a_woken_task_is_the_current_one_in_its_own_context(
    asker: Callable[[], Asker],
) -> None:
    client = asker()

    async def wait() -> list[Any]:
        number.set(7)
        await client.ask(1)
        task = asyncio.current_task()
        assert task is not None
        return [task, task.get_name(), number.get(), task in asyncio.all_tasks()]

    task = await start(wait(), name="waiting")
    await from_the_loop(answers(client.line), lambda: assert_equal(asyncio.current_task(), None))
    assert await task == [task, "waiting", 7, True]
    assert number.get() == 0


async def test_the_debugger_follows_a_woken_task(asker: Callable[[], Asker]) -> None:
    client = asker()
    seen: list[str] = []

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_name == "value":
            seen.append(event)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        task = await start(value(client.ask(1)))
        await from_the_loop(answers(client.line, 3))
        assert await task == 3
    finally:
        sys.settrace(before)
    assert seen.count("call") >= 1
    assert seen[-1] == "return"


async def test_a_profiler_follows_a_woken_task(asker: Callable[[], Asker]) -> None:
    client = asker()
    seen: list[str] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        if frame.f_code.co_name == "value":
            seen.append(event)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        task = await start(value(client.ask(1)))
        await from_the_loop(answers(client.line, 3))
        assert await task == 3
    finally:
        sys.setprofile(before)
    assert seen[-1] == "return"


# --- cancellation ---------------------------------------------------------------------------------


async def test_a_cancelled_task_ends_as_asyncio_ends_it(asker: Callable[[], Asker]) -> None:
    client = asker()
    task = await start(value(client.ask(1)))
    await from_the_loop(
        lambda: assert_equal(task.cancel("enough"), True),
        lambda: assert_equal(task.done(), False),  # cancel() never steps a task
    )
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    await settle()
    assert client.line.cancelled() == [client.line.last_id]


async def test_a_task_that_is_cancelled_after_the_reply_and_before_its_step_is_cancelled() -> None:
    client = Asker()
    client.line.step_budget = 0.0
    first, task = await start(value(client.ask(1))), await start(value(client.ask(2)))
    asked = client.line.asked()
    await from_the_loop(
        lambda: client.line.receive(
            *(msgpack.packb([2, asked[n], {"n": n}]) for n in (1, 2)),
        ),
        lambda: assert_equal((first.done(), task.done(), task.cancel()), (True, False, True)),
    )
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.line.cancelled() == []


async def test_a_task_may_cancel_itself_and_others_when_it_is_woken(
    asker: Callable[[], Asker],
) -> None:
    client = asker()
    other = await start(value(client.ask(1)))

    async def wait() -> None:
        await client.ask(2)
        other.cancel()
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    task = await start(wait())
    await from_the_loop(answers(client.line), lambda: assert_equal(other.done(), False))
    results = await asyncio.gather(task, other, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    assert task.cancelled()
    assert other.cancelled()


async def test_a_task_that_was_cancelled_while_it_ran_gives_up_the_call_that_it_awaits_next(
    asker: Callable[[], Asker],
) -> None:
    client = asker()

    async def wait() -> None:
        await client.ask(1)
        task = asyncio.current_task()
        assert task is not None
        task.cancel("enough")
        await client.ask(2)

    task = await start(wait())
    await from_the_loop(answers(client.line))
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    await settle()
    assert client.line.cancelled() == [client.line.last_id]


async def test_timeouts_hold_for_a_call(asker: Callable[[], Asker]) -> None:
    client = asker()

    async def in_time() -> int:
        async with asyncio.timeout(60):
            return await value(client.ask(1))

    task = await start(in_time())
    await from_the_loop(answers(client.line, 4))
    assert await task == 4
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await client.ask(2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.ask(3), 0)
    task = await start(asyncio.wait_for(client.ask(4), 60))
    await from_the_loop(answers(client.line, 4))
    assert (await task).n == 4
    await settle()
    assert len(client.line.cancelled()) == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from 3.12 on")
async def test_a_task_that_starts_eagerly_waits_for_its_call(asker: Callable[[], Asker]) -> None:
    client = asker()
    tasks: list[asyncio.Task[int]] = []

    async def begin_others() -> None:
        await client.ask(1)
        me = asyncio.current_task()
        tasks.append(asyncio.create_task(value(client.ask(2))))
        assert asyncio.current_task() is me

    def start_eagerly(loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(work, loop=loop, **{**options, "eager_start": True})

    loop = asyncio.get_running_loop()
    loop.set_task_factory(start_eagerly)
    task = loop.create_task(begin_others())
    await settle()
    await from_the_loop(answers(client.line))
    await task
    await settle()
    assert not tasks[0].done()
    await from_the_loop(answers(client.line, 6))
    assert await tasks[0] == 6


async def test_a_group_of_tasks_ends_with_the_first_that_fails(asker: Callable[[], Asker]) -> None:
    client = asker()

    async def fail() -> None:
        await client.ask(2)
        raise LookupError("on purpose")

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(value(client.ask(1)))
            await asyncio.sleep(0)
            tasks.create_task(fail())

    task = await start(group())
    await settle()
    await from_the_loop(answers(client.line))
    with pytest.raises(ExceptionGroup) as raised:
        await task
    assert [type(error) for error in raised.value.exceptions] == [LookupError]
    assert len(client.line.cancelled()) == 1


# --- a call as a future ---------------------------------------------------------------------------


async def test_calls_are_futures_for_whatever_takes_some(asker: Callable[[], Asker]) -> None:
    client = asker()

    async def answer_all() -> None:
        for n, id in client.line.asked().items():
            await from_the_loop(lambda n=n, id=id: client.line.answer(id, n))  # type: ignore[misc]

    calls = [client.ask(n) for n in range(3)]
    assert all(asyncio.isfuture(call) and not asyncio.iscoroutine(call) for call in calls)
    assert asyncio.ensure_future(calls[0]) is calls[0]
    await settle()
    gathered = asyncio.gather(*calls)
    await answer_all()
    assert [reply.n for reply in await gathered] == [0, 1, 2]
    done, pending = await asyncio.wait(calls)
    assert (done, pending) == (set(calls), set())
    assert [(await call).n for call in calls] == [0, 1, 2]

    client = asker()
    calls = [client.ask(n) for n in range(3)]
    await settle()
    waiting = await start(asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED))
    await from_the_loop(answers(client.line, 2))
    assert await waiting == ({calls[2]}, {calls[0], calls[1]})

    shielded = await start(value(asyncio.shield(calls[0])))
    shielded.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shielded
    assert not calls[0].done()
    await answer_all()
    assert sorted([(await call).n for call in asyncio.as_completed(calls)]) == [0, 1, 2]


async def test_a_gather_of_calls_ends_with_the_cancellation_of_one(
    asker: Callable[[], Asker],
) -> None:
    client = asker()
    calls = [client.ask(n) for n in range(3)]
    gathered = asyncio.gather(*calls)
    calls[1].cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await gathered
    for call in calls:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3


async def test_two_tasks_may_await_one_call(asker: Callable[[], Asker]) -> None:
    client = asker()
    call = client.ask(1)
    one, other = await start(value(call)), await start(value(call))
    await from_the_loop(answers(client.line, 6))
    assert [await one, await other] == [6, 6]


async def test_callbacks_are_called_once_each_in_their_order_and_context() -> None:
    client = Asker()
    call = client.ask(1)
    seen: list[Any] = []
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    context.run(number.set, 5)

    def first(ended: Any) -> None:
        seen.append((ended is call, number.get()))

    def second(ended: Any) -> None:
        seen.append("second")

    def never(ended: Any) -> None:
        seen.append("never")

    for callback in (never, never):
        call.add_done_callback(callback)
    call.add_done_callback(first, context=context)
    call.add_done_callback(second)
    call.add_done_callback(never)
    assert (call.remove_done_callback(never), call.remove_done_callback(never)) == (3, 0)
    await settle()
    await from_the_loop(answers(client.line), lambda: assert_equal(seen, []))
    await settle()
    assert seen == [(True, 5), "second"]
    call.add_done_callback(second)
    assert seen == [(True, 5), "second"]
    await settle()
    assert seen == [(True, 5), "second", "second"]
    assert (call.get_loop(), call.done(), call.cancelled(), call.exception()) == (
        loop,
        True,
        False,
        None,
    )


async def test_a_call_that_has_not_ended_has_no_result() -> None:
    call = Asker().ask(1)
    for ask in (call.result, call.exception):
        with pytest.raises(asyncio.InvalidStateError):
            ask()
    assert (call.cancel(), call.cancel(), call.cancelled()) == (True, False, True)
    for ask in (call.result, call.exception):
        with pytest.raises(asyncio.CancelledError):
            ask()


async def test_a_call_may_be_stepped_by_hand_as_a_future_may() -> None:
    client = Asker()
    call = client.ask(1, returns=tuple[int, int])

    async def wait() -> Any:
        return await call

    coroutine = wait()
    assert coroutine.send(None) is call
    assert call._asyncio_future_blocking
    with pytest.raises(RuntimeError, match="not awaited"):
        coroutine.send(None)
    await settle()
    assert "pending" in repr(call)
    client.line.receive(msgpack.packb([2, client.line.last_id, [3, 4]]))
    assert repr(call) == "<Call of ask to Thing/a, answered>"
    for step in (wait().send, lambda _: next(iter(call)), lambda _: call.__await__().__next__()):
        with pytest.raises(StopIteration) as ended:
            step(None)
        assert ended.value.value == (3, 4)


# --- errors ---------------------------------------------------------------------------------------


async def test_an_error_is_raised_where_the_call_is_awaited_and_grows_no_longer(
    asker: Callable[[], Asker],
) -> None:
    client = asker()
    call = client.ask(1, timeout=0.0)
    lengths = []
    for _ in range(3):
        with pytest.raises(Expired) as raised:
            await call
        frames = traceback.extract_tb(raised.value.__traceback__)
        assert frames[0].filename == __file__
        lengths.append(len(frames))
    assert lengths[0] >= lengths[1] == lengths[2]
    assert isinstance(call.exception(), Expired)


async def test_an_error_that_nobody_asks_for_is_told_to_the_loop() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    client = Asker()
    client.ask(1, timeout=0.0)
    known = client.ask(1, timeout=0.0)
    assert isinstance(known.exception(), Expired)
    del known
    gc.collect()
    assert [type(context["exception"]) for context in told] == [Expired]
    assert "ask to Thing/a" in told[0]["message"]


async def test_a_stop_iteration_is_no_end_of_the_coroutine_that_awaits() -> None:
    client = Asker()
    calls: list[Call] = client.routed
    future = client.ask(1)
    calls[0].fail(StopIteration(5))
    with pytest.raises(RuntimeError, match="StopIteration"):
        await future


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("way", ["0", "1"])
def test_what_ends_a_program_ends_it_from_a_woken_task_too(
    kind: type[BaseException], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIO_PLAIN_TASKS", way)

    async def leave(client: Asker) -> None:
        await client.ask(1)
        raise kind

    async def main() -> None:
        client = Asker()
        tasks.append(await start(leave(client)))
        await from_the_loop(answers(client.line))
        await asyncio.Event().wait()

    tasks: list[asyncio.Task[Any]] = []
    with pytest.raises(kind):
        asyncio.run(main())
    assert isinstance(tasks[0].exception(), kind)


class Stubborn(Exception):
    def with_traceback(self, _: Any) -> NoReturn:
        raise ValueError("this error takes no traceback")


async def test_whoever_awaits_a_call_is_told_why_its_error_cannot_be_raised(
    asker: Callable[[], Asker],
) -> None:
    one = asker()
    call = one.ask(1)
    await settle()
    one.line.error_received = lambda call, body: call.fail(Stubborn())  # type: ignore[method-assign]
    one.line.receive(msgpack.packb([3, one.line.last_id, "code"]))
    with pytest.raises(ValueError, match="takes no traceback"):
        await call
