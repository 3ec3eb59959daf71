"""The client's half: every answer finds its own call.

That holds whatever is cancelled, late, repeated or wrong.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rio._core import dispatch
from rio._core.calls import Call, Caller, ClientHalf, MessageCodec
from rio._core.clock import now
from rio.errors import BadIdentity, Expired, FrameTooLarge, Overloaded, ProtocolError
from tests.core import twin
from tests.core.node import Node, Wire, frames, read, request, settle
from tests.effort import examples

some_examples = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

RESPONSE, ERROR, CANCEL = 2, 3, 4


class Ask(msgspec.Struct):
    n: int


class Reply(msgspec.Struct):
    n: int


class Slow(Wire):
    """A transport that keeps what is written in its buffer."""

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.writes))


class Line(ClientHalf):
    """A connection to a server that the test plays."""

    def __init__(self, limit: int = 64 * 1024, transport: Wire | None = None) -> None:
        super().__init__(asyncio.get_running_loop(), limit)
        self.transport = transport or Wire()
        self.usable = True
        self.others: list[tuple[int, int]] = []
        self.failed: list[BaseException] = []

    def frame_received(self, kind: int, id: int, body: bytes) -> None:
        self.others.append((kind, id))

    def error_received(self, call: Call, body: bytes) -> None:
        call.fail(LookupError(msgpack.unpackb(body)[2]))

    def break_off(self, error: BaseException) -> None:
        self.failed.append(error)

    # --- for the test -----------------------------------------------------------------------------

    def receive(self, *bodies: bytes) -> None:
        data = frames(*bodies)
        room = memoryview(self.get_buffer(-1))
        room[: len(data)] = data
        room.release()
        self.buffer_updated(len(data))

    def answer(self, id: int, n: int) -> None:
        self.receive(msgpack.packb([RESPONSE, id, {"n": n}]))

    @property
    def frames(self) -> list[list[Any]]:
        """The frames that were sent."""
        return self.transport.frames  # type: ignore[no-any-return]

    def asked(self) -> dict[int, int]:
        """The number in each request, to the request's id."""
        return {frame[7]["n"]: frame[1] for frame in self.frames if frame[0] == 1}

    @property
    def last_id(self) -> int:
        """The id of the last request that was sent."""
        return next(frame[1] for frame in reversed(self.frames) if frame[0] == 1)

    def cancelled(self) -> list[int]:
        return [frame[1] for frame in self.frames if frame[0] == CANCEL]


class Asker:
    """A client that sends every call without a known place to one server."""

    def __init__(self, line: Line | None = None, **options: Any) -> None:
        self.caller = Caller(self, self, **options)
        self.caller.loop = asyncio.get_running_loop()
        self.line = line or Line()
        self.routed: list[Call] = []
        self.armed: list[float] = []
        self.gone: list[Call] = []
        self.described = 0

    def ask(self, n: int, id: str = "a", **options: Any) -> asyncio.Future[Any]:
        future = self.caller.send("Thing", id, Ask(n), **options)
        assert asyncio.isfuture(future)
        return future

    # --- the owner of the caller ------------------------------------------------------------------

    def route(self, call: Call) -> None:
        self.routed.append(call)
        self.line.submit(call)

    def arm(self, deadline: float) -> None:
        self.armed.append(deadline)

    def withdraw(self, call: Call) -> None:
        self.gone.append(call)

    # --- its codecs -------------------------------------------------------------------------------

    def name_of(self, object_type: Any) -> str:
        return str(object_type)

    def codec_of(self, message: Any) -> MessageCodec:
        self.described += 1
        return MessageCodec(
            "ask",
            msgspec.msgpack.Encoder().encode,
            msgspec.msgpack.Decoder(Reply).decode,
            repeatable=True,
        )

    def reply_decoder(self, message: Any, object_type: Any, returns: Any) -> Any:
        return msgspec.msgpack.Decoder(returns).decode

    def unencodable(self, message: Any, error: Exception) -> Exception:
        return TypeError(f"unencodable: {error}")

    def undecodable(self, call: Call, error: Exception) -> Exception:
        return ValueError(f"undecodable: {error}")

    def context_of(self, turn: Any) -> bytes:
        return f"in turn of {turn.id}".encode()

    def context_with(self, turn: Any, values: Any, trace: Any) -> bytes:
        return f"in turn of {turn.id} with {values} and {trace}".encode()


async def outcome(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except Exception as error:
        return f"{type(error).__name__}: {error}"


# --- answers --------------------------------------------------------------------------------------


async def test_every_answer_finds_its_call_in_whatever_order_they_come() -> None:
    asker = Asker()
    futures = [asker.ask(n, id=str(n % 3)) for n in range(50)]
    await settle()
    asked = asker.line.asked()
    for n in sorted(asked, key=lambda n: n * 7 % 50):
        asker.line.answer(asked[n], n)
    assert [reply.n for reply in await asyncio.gather(*futures)] == list(range(50))
    assert (asker.line.waiting, asker.gone) == (0, [])


async def test_a_request_says_all_that_the_server_needs() -> None:
    asker = Asker()
    asker.ask(5, id="ä" * 100, timeout=2.5)
    await settle()
    [[kind, id, type_name, object, message, timeout, context, payload]] = asker.line.frames
    assert (kind, type_name, object, message, context, payload) == (
        1,
        "Thing",
        "ä" * 100,
        "ask",
        None,
        {"n": 5},
    )
    assert id > 0
    assert 2000 < timeout <= 2500


@pytest.mark.parametrize(("timeout", "sent"), [(1e-9, 1), (0.0001, 1), (math.inf, 10**15)])
async def test_an_odd_timeout_is_sent_as_a_number_that_is_not_zero(
    timeout: float, sent: int
) -> None:
    asker = Asker()
    asker.ask(1, timeout=timeout)
    await settle()
    assert asker.line.frames[0][5] == sent


async def test_an_error_is_told_to_the_owner_with_its_call() -> None:
    asker = Asker()
    one, other = asker.ask(1), asker.ask(2)
    await settle()
    asked = asker.line.asked()
    asker.line.receive(
        msgpack.packb([ERROR, asked[1], "code", "text", None]),
        msgpack.packb([RESPONSE, asked[2], {"n": 2}]),
    )
    assert await outcome(one) == "LookupError: code"
    assert (await other).n == 2


async def test_a_reply_that_does_not_decode_fails_its_own_call_only() -> None:
    asker = Asker()
    one, other = asker.ask(1), asker.ask(2)
    await settle()
    asked = asker.line.asked()
    asker.line.receive(
        msgpack.packb([RESPONSE, asked[1], "no reply"]),
        msgpack.packb([RESPONSE, asked[2], {"n": 2}]),
    )
    assert (await outcome(one)).startswith("ValueError: undecodable")
    assert (await other).n == 2


async def test_an_answer_to_no_call_and_other_frames_go_to_the_owner() -> None:
    asker = Asker()
    asker.ask(1)
    await settle()
    id = asker.line.asked()[1]
    asker.line.answer(id, 1)
    asker.line.answer(id, 1)
    asker.line.receive(
        msgpack.packb([ERROR, 0, "code", "text", None]),
        msgpack.packb([6, 1, 2, "event", None]),
        msgpack.packb([8, id]),
    )
    assert asker.line.others == [(RESPONSE, id), (ERROR, 0), (6, 1), (8, id)]


async def test_a_class_is_described_once_and_returns_overrides_its_reply() -> None:
    asker = Asker()
    first, second = asker.ask(1), asker.ask(2, returns=dict[str, int])
    await settle()
    for n, id in asker.line.asked().items():
        asker.line.answer(id, n)
    assert await first == Reply(1)
    assert await second == {"n": 2}
    assert asker.described == 1


async def test_calls_of_one_turn_of_the_loop_leave_in_one_write_in_order() -> None:
    asker = Asker()
    for n in range(100):
        asker.ask(n, id=str(n % 5))
    assert asker.line.transport.writes == []
    await settle()
    assert len(asker.line.transport.writes) == 1
    assert list(asker.line.asked()) == list(range(100))
    asker.ask(100)
    await settle()
    assert len(asker.line.transport.writes) == 2


@given(st.binary(max_size=100))
@some_examples
async def test_garbage_from_a_server_breaks_the_connection_and_nothing_else(garbage: bytes) -> None:
    asker = Asker()
    future = asker.ask(1)
    await settle()
    asker.line.receive(garbage)
    assert all(isinstance(error, ProtocolError | FrameTooLarge) for error in asker.line.failed)
    if future.done():
        assert asker.line.waiting == 0
        future.exception()
    future.cancel()
    await settle()


# --- what is refused at once ----------------------------------------------------------------------


@pytest.mark.parametrize("id", ["", "x" * 513, "ä" * 257, "\ud800"])
async def test_an_id_that_cannot_be_is_refused_before_anything_is_sent(id: str) -> None:
    asker = Asker()
    with pytest.raises(BadIdentity):
        await asker.ask(1, id=id)
    await settle()
    assert asker.line.frames == []


async def test_a_message_that_does_not_encode_is_refused() -> None:
    asker = Asker()
    with pytest.raises(TypeError, match="unencodable"):
        await asker.caller.send("Thing", "a", Ask(2**70))


async def test_a_message_over_the_frame_limit_is_refused_and_the_connection_goes_on() -> None:
    asker = Asker(Line(limit=1000))
    with pytest.raises(FrameTooLarge, match="1000"):
        await asker.caller.send("Thing", "a", Ask(b"x" * 1000))  # type: ignore[arg-type]
    future = asker.ask(1)
    await settle()
    asker.line.answer(asker.line.asked()[1], 1)
    assert (await future).n == 1


async def test_a_server_that_takes_nothing_is_given_no_more_than_the_limit() -> None:
    asker = Asker(Line(transport=Slow()))
    asker.line.unsent_limit = 10
    asker.line.congested = True
    asker.ask(1)
    await settle()
    with pytest.raises(Overloaded):
        await asker.ask(2)
    asker.line.congested = False
    asker.ask(3)
    await settle()
    assert list(asker.line.asked()) == [1, 3]


async def test_a_client_that_is_not_open_sends_nothing() -> None:
    asker = Asker()
    asker.caller.loop = None
    with pytest.raises(RuntimeError, match="not open"):
        asker.ask(1)


# --- cancellation ---------------------------------------------------------------------------------


async def test_a_call_cancelled_before_it_was_written_is_cancelled_on_the_server_too() -> None:
    asker = Asker()
    future = asker.ask(1)
    future.cancel()
    await settle()
    assert [frame[:2] for frame in asker.line.frames] == [[1, 1], [CANCEL, 1]]
    assert [call.message_name for call in asker.gone] == ["ask"]
    assert asker.line.waiting == 0


async def test_a_call_cancelled_while_it_waits_is_cancelled_on_the_server_once() -> None:
    asker = Asker()
    future = asker.ask(1)
    await settle()
    future.cancel()
    await settle()
    assert asker.line.cancelled() == [1]
    asker.line.answer(1, 1)
    await settle()
    assert future.cancelled()
    assert asker.line.others == [(RESPONSE, 1)]


async def test_a_call_cancelled_in_the_turn_of_its_answer_is_cancelled_without_a_message() -> None:
    asker = Asker()
    first, second = asker.ask(1), asker.ask(2)
    await settle()
    first.cancel()
    asker.line.answer(1, 1)
    asker.line.answer(2, 2)
    second.cancel()
    await settle()
    assert first.cancelled()
    assert second.result().n == 2
    assert asker.line.cancelled() == []


async def test_cancelling_the_waiting_task_cancels_its_call() -> None:
    asker = Asker()

    async def wait() -> None:
        async with asyncio.timeout(60):
            await asker.ask(1)

    task = asyncio.create_task(wait())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert asker.line.cancelled() == [1]


async def test_giving_up_fails_the_call_and_tells_the_server() -> None:
    asker = Asker()
    future = asker.ask(1)
    [call] = asker.routed
    call.give_up(TimeoutError("too late"))
    await settle()
    assert await outcome(future) == "TimeoutError: too late"
    assert (asker.line.cancelled(), asker.gone) == ([1], [])


async def test_calls_taken_from_a_lost_connection_are_not_cancelled_on_it() -> None:
    asker = Asker()
    futures = [asker.ask(n) for n in range(3)]
    await settle()
    calls = asker.line.take_calls()
    assert (len(calls), asker.line.waiting) == (3, 0)
    futures[0].cancel()
    calls[1].fail(LookupError("lost"))
    asker.line.submit(calls[2])
    await settle()
    assert asker.line.cancelled() == []
    assert await outcome(futures[1]) == "LookupError: lost"
    assert asker.line.frames[-1][1] == 4, "a call that is sent again has a new id"
    asker.line.answer(4, 2)
    assert (await futures[2]).n == 2


storm = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "cancel", "answer", "answer", "error", "settle", "give up"]),
        st.integers(0, 1000),
    ),
    max_size=60,
)


@given(storm, st.sampled_from([1, 2, 1000]))
@settings(some_examples, max_examples=examples(150))
async def test_in_a_storm_of_cancellations_no_call_gets_the_answer_of_another(
    storm: list[tuple[str, int]], window: int
) -> None:
    asker = Asker()
    asker.line.window = window
    futures: list[asyncio.Future[Any]] = []
    for what, choice in storm:
        asked = asker.line.asked()
        if what == "ask":
            futures.append(asker.ask(len(futures), id=str(choice % 3)))
        elif what == "settle":
            await settle()
        elif what == "give up" and asker.routed:
            asker.routed[choice % len(asker.routed)].give_up(LookupError("given up"))
        elif what == "cancel" and futures:
            futures[choice % len(futures)].cancel()
        elif what == "answer" and asked:
            n = list(asked)[choice % len(asked)]
            asker.line.answer(asked[n], n)
        elif what == "error" and asked:
            n = list(asked)[choice % len(asked)]
            asker.line.receive(msgpack.packb([ERROR, asked[n], f"of {n}", "", None]))
    await settle()
    for n, future in enumerate(futures):
        if future.done() and not future.cancelled():
            answer = await outcome(future)
            assert answer in (Reply(n), f"LookupError: of {n}", "LookupError: given up")
        future.cancel()
    await settle()
    assert (asker.line.waiting, asker.line.unwritten) == (0, 0)
    last = asker.ask(len(futures), id="last")
    await settle()
    asker.line.answer(asker.line.last_id, len(futures))
    assert (await last).n == len(futures)


# --- more calls than may be under way -------------------------------------------------------------


async def test_of_many_calls_those_without_room_follow_in_order_as_others_are_answered() -> None:
    asker = Asker()
    asker.line.window = 2
    futures = [asker.ask(n) for n in range(6)]
    await settle()
    # one more than there is room for, so that whoever has nothing under way is never held up
    assert (sorted(asker.line.asked()), asker.line.unwritten) == ([0, 1, 2], 3)
    for n in (2, 0, 1, 3, 4, 5):
        asker.line.answer(asker.line.asked()[n], n)
        await settle()
    assert [(await future).n for future in futures] == list(range(6))
    assert list(asker.line.asked()) == list(range(6))
    assert (asker.line.waiting, asker.line.unwritten) == (0, 0)


async def test_a_call_that_was_not_written_leaves_without_a_word_to_the_server() -> None:
    asker = Asker()
    asker.line.window = 1
    futures = [asker.ask(n) for n in range(5)]
    futures[3].cancel()
    await settle()
    assert (asker.line.unwritten, asker.line.cancelled()) == (2, [])
    asker.line.answer(asker.line.asked()[0], 0)
    asker.line.answer(asker.line.asked()[1], 1)
    await settle()
    asker.line.answer(asker.line.asked()[2], 2)
    await settle()
    assert sorted(asker.line.asked()) == [0, 1, 2, 4]
    asker.line.answer(asker.line.asked()[4], 4)
    assert (await futures[4]).n == 4


async def test_a_call_that_cannot_be_written_any_more_makes_room_for_the_next() -> None:
    moment = [100.0]
    asker = Asker(Line(200), clock=lambda: moment[0])
    asker.line.window = 1
    asker.ask(0)
    asker.ask(1)
    late, large = asker.ask(2, timeout=1.0), asker.ask(3, id="x" * 300)
    last = asker.ask(4)
    await settle()
    moment[0] += 2.0
    asker.line.answer(asker.line.asked()[1], 1)
    await settle()
    assert isinstance(late.exception(), Expired)
    assert isinstance(large.exception(), FrameTooLarge)
    asker.line.answer(asker.line.asked()[4], 4)
    assert (await last).n == 4


async def test_a_call_that_cannot_be_written_holds_up_none_after_it() -> None:
    asker = Asker(Line(200))
    asker.line.window = 1
    asker.ask(0)
    large = asker.ask(1, id="x" * 300)
    assert isinstance(large.exception(), FrameTooLarge)
    asker.ask(2)
    await settle()
    assert (sorted(asker.line.asked()), asker.line.unwritten) == ([0, 2], 0)


async def test_calls_that_were_not_written_are_overdue_like_others_and_say_so() -> None:
    moment = [100.0]
    asker = Asker(Line(200), clock=lambda: moment[0])
    asker.line.window = 1
    for n in range(3):
        asker.ask(n, timeout=1.0)
    moment[0] += 2.0
    late, earliest = asker.line.find_overdue(moment[0])
    assert [call.is_unwritten for call in late] == [False, False, True]
    assert earliest == math.inf


async def test_calls_that_were_not_written_leave_a_lost_connection_apart_from_the_others() -> None:
    asker = Asker()
    asker.line.window = 1
    for n in range(4):
        asker.ask(n)
    assert [call.is_unwritten for call in asker.line.take_calls()] == [False, False]
    unwritten = asker.line.take_unwritten()
    assert (len(unwritten), asker.line.unwritten) == (2, 0)
    asker.line.submit(unwritten[0])
    await settle()
    assert sorted(asker.line.asked()) == [0, 1, 2]


async def test_the_companions_of_a_call_are_also_those_that_were_not_written() -> None:
    class Refusing(Line):
        def error_received(self, call: Call, body: bytes) -> None:
            found.extend(self.find_companions(call))

    found: list[Call] = []
    asker = Asker(Refusing())
    asker.line.window = 1
    for n, id in enumerate("abab"):
        asker.ask(n, id=id)
    await settle()
    asker.line.receive(msgpack.packb([ERROR, asker.line.asked()[0], "busy", "", None]))
    assert found == [asker.routed[0], asker.routed[2]]


async def test_whoever_has_nothing_under_way_is_not_held_up_by_others() -> None:
    async def nested(thing: Any, message: Any) -> None:
        turn = dispatch.current()
        assert turn is not None
        for n in range(4):
            asker.ask(int(turn.id) * 10 + n)
        await asyncio.sleep(0)

    asker = Asker()
    asker.line.window = 2
    node = Node(dispatch)
    node.time = now()
    node.dispatcher.set_lease(node.time + 1000.0)
    node.add_method("nested", nested, is_async=True)
    read(node.connect(), *(request(n, n, object=str(n), message="nested") for n in (1, 2)))
    bystander = asker.ask(1)
    await settle()
    assert sorted(asker.line.asked()) == [1, 10, 11, 12, 20]
    for n in (20, 21, 22, 23):  # what the second turn has is answered, and it goes on
        asker.line.answer(asker.line.asked()[n], n)
        await settle()
    asker.line.answer(asker.line.asked()[1], 1)
    assert (await bystander).n == 1
    assert sorted(asker.line.asked()) == [1, 10, 11, 12, 20, 21, 22, 23]
    assert asker.line.failed == []
    assert len(set(asker.line.cancelled())) == len(asker.line.cancelled())


# --- deadlines ------------------------------------------------------------------------------------


async def test_the_timer_is_armed_for_the_earliest_deadline_only() -> None:
    asker = Asker(default_timeout=50.0)
    began = now()
    for timeout in (None, 60.0, 20.0, 30.0, 10.0):
        asker.ask(1, timeout=timeout)
    assert [round(deadline - began) for deadline in asker.armed] == [50, 20, 10]
    assert asker.caller.armed_for == asker.armed[-1]
    asker.caller.rearm(math.inf)
    asker.ask(2, timeout=70.0)
    assert round(asker.armed[-1] - began) == 70


async def test_overdue_calls_are_told_from_the_others() -> None:
    asker = Asker()
    for n, timeout in enumerate((1.0, 5.0, 9.0)):
        asker.ask(n, timeout=timeout)
    late, earliest = asker.line.find_overdue(now() + 6.0)
    assert [round(call.deadline - now()) for call in late] == [1, 5]
    assert round(earliest - now()) == 9
    assert asker.line.find_overdue(0.0)[0] == []
    assert Line().find_overdue(0.0) == ([], math.inf)


# --- routes ---------------------------------------------------------------------------------------


async def test_where_an_answer_came_from_is_where_the_next_call_goes() -> None:
    asker = Asker()
    future = asker.ask(1)
    await settle()
    assert asker.caller.find("Thing", "a") is None
    asker.line.answer(1, 1)
    await future
    assert asker.caller.find("Thing", "a") is asker.line
    asker.ask(2)
    assert len(asker.routed) == 1
    asker.ask(3, id="b")
    assert len(asker.routed) == 2


async def test_what_is_forgotten_or_unusable_is_looked_for_again() -> None:
    asker = Asker()
    other = Line()
    asker.caller.learn("Thing", "a", other)
    asker.caller.learn("Thing", "b", other)
    asker.caller.forget("Thing", "a")
    asker.caller.forget("Thing", "c")
    asker.caller.forget("Nobody", "c")
    asker.ask(1)
    asker.ask(2, id="b")
    assert len(asker.routed) == 1
    other.usable = False
    assert asker.caller.find("Thing", "b") is None
    asker.ask(3, id="b")
    assert len(asker.routed) == 2


async def test_of_routes_the_most_recently_used_are_kept_and_their_number_is_bounded() -> None:
    asker = Asker(route_limit=100)
    for n in range(1000):
        asker.caller.learn("Thing", str(n), asker.line)
        assert asker.caller.find("Thing", "0") is asker.line, (
            "a route that is used all the time is never forgotten"
        )
    known = [n for n in range(1000) if asker.caller.find("Thing", str(n)) is not None]
    assert len(known) <= 100
    assert 0 in known
    assert 999 in known


# --- calls within a turn --------------------------------------------------------------------------


async def test_only_a_call_made_in_a_turn_inherits_its_deadline_and_context() -> None:
    async def nested(thing: Any, message: Any) -> None:
        asker.ask(1, timeout=60.0)
        asker.ask(2, timeout=1.0)
        await asyncio.sleep(0)
        asker.ask(3)

    asker = Asker()
    node = Node(dispatch)
    node.time = now()
    node.dispatcher.set_lease(node.time + 1000.0)
    node.add_method("nested", nested, is_async=True)
    connection = node.connect()
    read(connection, request(1, 1, object="outer", message="nested", timeout=5000))
    asker.ask(4)
    await settle()
    sent = {frame[7]["n"]: frame for frame in asker.line.frames}
    assert {n: frame[6] for n, frame in sent.items()} == {
        1: b"in turn of outer",
        2: b"in turn of outer",
        3: b"in turn of outer",
        4: None,
    }
    assert 4000 < sent[1][5] <= 5000
    assert sent[2][5] <= 1000
    assert 4000 < sent[3][5] <= 5000
    assert sent[4][5] > 20_000


async def test_what_a_turn_hands_on_is_made_once() -> None:
    made: list[str] = []

    class Counting(Asker):
        def context_of(self, turn: Any) -> bytes:
            made.append(turn.id)
            return b"context"

    def nested(thing: Any, message: Any) -> None:
        for n in range(3):
            asker.ask(n)

    asker = Counting()
    node = Node(dispatch)
    node.add_method("nested", nested, is_async=False)
    connection = node.connect()
    read(connection, request(1, 1, message="nested"), request(2, 2, object="b", message="nested"))
    assert made == ["a", "b"]


# --- both halves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("core", [dispatch, twin], ids=["compiled", "twin"])
async def test_what_the_client_writes_the_server_reads(core: Any) -> None:
    asker = Asker()
    node = Node(core)
    node.add_method("ask", lambda thing, message: thing.end(message), is_async=False)
    connection = node.connect()
    futures = [asker.ask(n, id=str(n % 4)) for n in range(40)]
    await settle()
    [sent] = asker.line.transport.writes
    read(connection, *twin.FrameReader().feed(sent))
    asker.line.receive(*twin.FrameReader().feed(b"".join(connection.transport.writes)))
    assert [reply.n for reply in await asyncio.gather(*futures)] == list(range(40))
