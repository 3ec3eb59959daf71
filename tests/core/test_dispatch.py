"""The dispatcher: parse, find, queue, take turns, answer.

Every claim holds for the compiled one and for its twin.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rio._core import dispatch
from rio.errors import (
    CallTimeout,
    Expired,
    FrameTooLarge,
    HandlerFailed,
    Overloaded,
    ProtocolError,
    UnknownMessage,
    UnknownType,
)
from tests.core import twin
from tests.core.node import FRAME_LIMIT, Node, cancel, frames, read, read_bytes, request, settle
from tests.effort import examples

some_examples = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(params=["compiled", "twin"])
def core(request: pytest.FixtureRequest) -> ModuleType:
    return dispatch if request.param == "compiled" else twin


# --- turns ----------------------------------------------------------------------------------------


async def test_a_handler_is_called_and_its_reply_sent(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(7, 1), request(8, 2, message="quick"))
    assert connection.transport.frames == [[2, 7, {"n": 1}], [2, 8, {"n": 2}]]


async def test_answers_to_one_read_leave_in_few_writes(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, *(request(id, id, object=f"{id % 7}") for id in range(100)))
    assert len(connection.transport.writes) <= 7
    assert list(connection.transport.answers()) == list(range(100))


async def test_answers_that_become_ready_in_one_turn_of_the_loop_leave_in_one_write() -> None:
    node = Node(dispatch)
    connection = node.connect()
    read(connection, *(request(id, id, object=str(id), message="wait") for id in range(20)))
    for n in range(20):
        node.open_gate(n)
    await settle()
    assert len(connection.transport.frames) == 20
    assert len(connection.transport.writes) == 1


async def test_an_object_takes_one_turn_at_a_time_in_the_order_of_arrival(core: ModuleType) -> None:
    node = Node(core)
    one, other = node.connect(), node.connect()
    read(one, request(1, 1, message="wait"), request(2, 2), request(3, 3, message="wait"))
    read(other, request(1, 4, message="quick"))
    assert node.numbers("a", "begin") == [1]
    node.open_gate(1)
    await settle()
    assert node.log[-1] == ("a", "begin", 3)
    node.open_gate(3)
    await settle()
    assert node.numbers("a", "end") == [1, 2, 3, 4]
    assert [list(wire.transport.answers()) for wire in (one, other)] == [[1, 2, 3], [1]]


async def test_a_busy_object_does_not_hold_up_another(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, message="wait"), request(2, 2, object="b"))
    assert connection.transport.answers() == {2: 2}
    node.open_gate(1)
    await settle()


async def test_requests_for_an_object_that_is_being_activated_wait_in_order(
    core: ModuleType,
) -> None:
    node = Node(core, slow=True)
    connection = node.connect()
    read(connection, *(request(id, id) for id in range(1, 6)))
    assert node.log == []
    assert node.dispatcher.in_flight == 5
    node.activated()
    await settle()
    assert node.numbers("a", "begin") == [1, 2, 3, 4, 5]
    assert node.dispatcher.in_flight == 0


async def test_a_failed_activation_fails_all_that_waited_for_it(core: ModuleType) -> None:
    node = Node(core, slow=True)
    connection = node.connect()
    read(connection, request(1, 1), request(2, 2))
    node.activated(fail=True)
    await settle()
    assert connection.transport.answers() == {1: "unavailable", 2: "unavailable"}
    assert (node.dispatcher.live, node.dispatcher.in_flight) == (0, 0)


async def test_what_waits_for_an_object_that_closes_goes_to_its_next_activation(
    core: ModuleType,
) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, "close", message="wait"), request(2, 2))
    node.open_gate(1)
    await settle()
    assert node.log[2:] == [("a", "removed", 0), ("a", "begin", 2), ("a", "end", 2)]
    assert connection.transport.answers() == {1: 1, 2: 2}


async def test_application_data_is_handed_to_handlers_that_take_it(core: ModuleType) -> None:
    node = Node(core)
    node.add_method("app", lambda thing, message, data: data, is_async=False, takes_app_data=True)
    node.dispatcher.app_data = b"the data"
    connection = node.connect()
    read(connection, request(1, 1, message="app"))
    assert connection.transport.frames == [[2, 1, b"the data"]]


async def test_a_task_that_has_no_context_is_refused_and_the_loop_goes_on() -> None:
    waiting = asyncio.sleep(0)
    with pytest.raises(TypeError, match=r"a context is a contextvars\.Context, got <object"):
        Node(dispatch).dispatcher.start_task(waiting, "task", object())  # type: ignore[arg-type]
    waiting.close()
    assert asyncio.current_task() is not None
    await asyncio.sleep(0)


async def test_counters_count_requests_and_errors(core: ModuleType) -> None:
    node = Node(core)
    read(
        node.connect(),
        request(1, 1),
        request(2, 2, message="nothing"),
        request(3, 3, type_name="Nobody"),
    )
    assert (
        node.dispatcher.calls,
        node.dispatcher.failures,
        node.dispatcher.in_flight,
        node.dispatcher.live,
    ) == (3, 2, 0, 1)


# --- what is refused, and what fails --------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"type_name": "Nobody"}, "unknown_type"),
        ({"message": "nothing"}, "unknown_message"),
        ({"type_name": ""}, "bad_identity"),
        ({"type_name": "x" * 129}, "bad_identity"),
        ({"message": ""}, "bad_identity"),
        ({"message": "x" * 129}, "bad_identity"),
        ({"object": ""}, "bad_identity"),
        ({"object": "x" * 513}, "bad_identity"),
        ({"object": "ä" * 257}, "bad_identity"),
        ({"payload": b"\x81\xa1n\xa1x"}, "bad_message"),
        ({"payload": b""}, "bad_message"),
        ({"payload": b"\xc1"}, "bad_message"),
        ({"payload": b"\x81\xa1n\x01\x01"}, "bad_message"),
    ],
)
async def test_a_request_that_cannot_be_handled_is_answered_with_its_error(
    core: ModuleType, changes: dict[str, Any], code: str
) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, **changes), request(2, 2))
    await settle()
    assert connection.transport.answers() == {1: code, 2: 2}
    assert node.broken == []


async def test_the_longest_id_is_taken(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, object="x" * 512))
    assert connection.transport.answers() == {1: 1}


@pytest.mark.parametrize("message", ["plain", "quick", "wait"])
@pytest.mark.parametrize(
    ("do", "code"), [("raise", "handler_failed"), ("odd", "bad_reply"), ("big", "reply_too_large")]
)
async def test_a_handler_that_ends_badly_costs_one_answer_and_the_node_lives_on(
    core: ModuleType, message: str, do: str, code: str
) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, do, message=message), request(2, 2))
    if message == "wait":
        node.open_gate(1)
    await settle()
    assert connection.transport.answers() == {1: code, 2: 2}
    assert node.dispatcher.in_flight == 0


@pytest.mark.parametrize("size", [FRAME_LIMIT - 40, FRAME_LIMIT - 32, FRAME_LIMIT - 31])
async def test_a_reply_up_to_the_frame_limit_is_sent(core: ModuleType, size: int) -> None:
    node = Node(core)
    node.add_method("bytes", lambda thing, message: b"x" * message.n, is_async=False)
    connection = node.connect()
    read(connection, request(1, size - 3, message="bytes"))
    [frame] = connection.transport.frames
    assert (frame[0] == 2) == (size <= FRAME_LIMIT - 32)


@pytest.mark.parametrize("message", ["plain", "quick", "wait"])
async def test_sys_exit_in_a_handler_does_not_escape(message: str) -> None:
    node = Node(dispatch)
    connection = node.connect()
    read(connection, request(1, 1, "exit", message=message), request(2, 2))
    if message == "wait":
        node.open_gate(1)
    await settle()
    assert connection.transport.answers() == {1: "handler_failed", 2: 2}


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_a_handler_raises_ends_its_call_and_nothing_else(
    is_async: bool, error: type[BaseException]
) -> None:
    def end(thing: object, message: object) -> None:
        raise error

    async def end_later(thing: object, message: object) -> None:
        await asyncio.sleep(0)
        raise error

    node = Node(dispatch)
    node.add_method("end", end_later if is_async else end, is_async=is_async)
    connection = node.connect()
    read(connection, request(1, 1, message="end"), request(2, 2))
    await settle()
    assert connection.transport.answers() == {1: "handler_failed", 2: 2}


@pytest.mark.parametrize("what", ["undecodable", "unencodable", "answer_failure"])
@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, SystemExit])
async def test_an_object_takes_turns_after_the_error_of_one_could_not_be_told(
    what: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    node = Node(dispatch)
    connection = node.connect()
    monkeypatch.setattr(node, what, fail)
    read(connection, request(1, 1, message="wait"))
    bad = {
        "undecodable": request(2, 2, payload=b"\xc0"),
        "unencodable": request(2, 2, "odd"),
        "answer_failure": request(2, 2, "raise"),
    }
    monkeypatch.setattr(node, "encode_reply", fail)
    read(connection, bad[what], request(3, 3), request(4, 4))
    node.open_gate(1)
    await settle()
    code = "bad_message" if what == "undecodable" else "handler_failed"
    assert connection.transport.answers() == {1: 1, 2: code, 3: 3, 4: 4}
    assert node.dispatcher.in_flight == 0


async def test_the_answers_of_others_are_sent_if_one_connection_cannot_be_written() -> None:
    node = Node(dispatch)
    one, other = node.connect(), node.connect()
    read(one, request(1, 1, message="wait", object="a"))
    read(other, request(1, 2, message="wait", object="b"))

    def refuse(data: bytes) -> None:
        raise RuntimeError("the transport is broken")

    one.transport.write = refuse
    node.open_gate(1)
    node.open_gate(2)
    await settle()
    assert other.transport.answers() == {1: 2}
    [broken] = node.broken
    assert str(broken) == "the transport is broken"


@pytest.mark.parametrize("do", ["raise", "odd"])
async def test_an_error_of_a_handler_is_withheld_after_the_lease_has_ended(do: str) -> None:
    node = Node(dispatch)
    connection = node.connect()
    read(connection, request(1, 1, do, message="wait"))
    node.time = 2000.0
    node.open_gate(1)
    await settle()
    assert connection.transport.answers() == {1: "outcome_unknown"}
    assert node.dispatcher.fenced == 1


async def test_a_full_queue_answers_overloaded(core: ModuleType) -> None:
    node = Node(core, waiting_limit=3)
    connection = node.connect()
    read(connection, *(request(id, id, message="wait") for id in range(1, 7)))
    assert node.dispatcher.in_flight == 4
    await settle()
    assert connection.transport.answers() == {5: "overloaded", 6: "overloaded"}
    node.disconnect(connection)
    await settle()


async def test_a_full_node_answers_overloaded_and_recovers(core: ModuleType) -> None:
    node = Node(core, in_flight_limit=2)
    connection = node.connect()
    read(connection, *(request(id, id, object=str(id), message="wait") for id in range(1, 4)))
    await settle()
    assert connection.transport.answers() == {3: "overloaded"}
    node.open_gate(1)
    await settle()
    read(connection, request(4, 4))
    await settle()
    assert connection.transport.answers() == {3: "overloaded", 1: 1, 4: 4}
    node.open_gate(2)
    await settle()


async def test_a_call_that_would_wait_for_itself_is_refused(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    read(
        connection,
        request(1, 1, message="wait"),
        request(2, 2, context=b"cycle"),
        request(3, 3, object="b", context=b"cycle"),
    )
    await settle()
    assert connection.transport.answers() == {2: "unavailable", 3: 3}
    node.open_gate(1)
    await settle()


# --- cancellation and deadlines -------------------------------------------------------------------


async def test_a_cancelled_call_that_waits_is_not_started_and_its_caller_is_told(
    core: ModuleType,
) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, message="wait"), request(2, 2), request(3, 3))
    read(connection, cancel(2))
    node.open_gate(1)
    await settle()
    assert node.numbers("a", "begin") == [1, 3]
    assert connection.transport.answers() == {1: 1, 2: "expired", 3: 3}


@pytest.mark.parametrize("do", ["", "stay"])
async def test_a_cancelled_call_that_runs_is_cancelled_and_its_caller_is_told(
    core: ModuleType, do: str
) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, do, message="wait"), request(2, 2))
    read(connection, cancel(1))
    await settle()
    assert node.log == [
        ("a", "begin", 1),
        ("a", "cancelled", 1),
        ("a", "begin", 2),
        ("a", "end", 2),
    ]
    assert connection.transport.answers() == {1: "timeout", 2: 2}
    assert node.dispatcher.in_flight == 0


async def test_a_handler_is_cancelled_once_by_its_caller_and_its_deadline(
    core: ModuleType,
) -> None:
    cancelled = 0

    async def clean_up(thing: Any, message: Any) -> None:
        nonlocal cancelled
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled += 1
            for _ in range(3):
                pause = asyncio.get_running_loop().create_future()
                pause.get_loop().call_soon(pause.set_result, None)
                await pause
            cancelled += 10
            raise

    node = Node(core)
    node.add_method("clean_up", clean_up, is_async=True)
    connection = node.connect()
    for first, second in [("cancel", "sweep"), ("sweep", "cancel")]:
        cancelled = 0
        id = 1 if first == "cancel" else 2
        read(connection, request(id, 1, message="clean_up", timeout=500))
        node.time += 1.0
        for step in (first, second):
            if step == "cancel":
                read(connection, cancel(id))
            else:
                node.dispatcher.sweep()
            await asyncio.sleep(0)
        await settle()
        assert cancelled == 11
        assert connection.transport.answers()[id] == "timeout"


async def test_a_cancel_for_what_is_no_call_changes_nothing(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1), cancel(1), cancel(99))
    assert connection.transport.answers() == {1: 1}
    assert (node.control, node.broken) == ([], [])


async def test_a_lost_connection_cancels_what_runs_and_starts_nothing_of_it(
    core: ModuleType,
) -> None:
    node = Node(core)
    lost, other = node.connect(), node.connect()
    read(lost, request(1, 1, message="wait"), request(2, 2))
    read(other, request(1, 3))
    node.disconnect(lost)
    await settle()
    assert node.numbers("a", "begin") == [1, 3]
    assert other.transport.answers() == {1: 3}


async def test_a_request_past_its_deadline_is_not_started(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, message="wait"), request(2, 2, timeout=500))
    node.time += 1.0
    node.open_gate(1)
    await settle()
    assert node.numbers("a", "begin") == [1]
    assert connection.transport.answers() == {1: 1, 2: "expired"}


async def test_a_sweep_answers_what_waits_too_long_and_cancels_what_runs_too_long(
    core: ModuleType,
) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, message="wait", timeout=2000), request(2, 2, timeout=500))
    node.time += 1.0
    node.dispatcher.sweep()
    await settle()
    assert connection.transport.answers() == {2: "expired"}
    node.time += 1.5
    node.dispatcher.sweep()
    await settle()
    assert connection.transport.answers() == {2: "expired", 1: "timeout"}
    assert node.numbers("a", "cancelled") == [1]


async def test_a_handlers_own_timeout_shortens_the_deadline(core: ModuleType) -> None:
    async def forever(thing: Any, message: Any) -> None:
        await asyncio.get_running_loop().create_future()

    node = Node(core)
    node.add_method("forever", forever, is_async=True, timeout=2.0)
    connection = node.connect()
    read(connection, request(1, 1, message="forever", timeout=60_000))
    node.time += 2.5
    node.dispatcher.sweep()
    await settle()
    assert connection.transport.answers() == {1: "timeout"}


async def test_no_timeout_means_thirty_seconds(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, message="wait"))
    for passed, answers in (29.0, {}), (2.0, {1: "timeout"}):
        node.time += passed
        node.dispatcher.sweep()
        await settle()
        assert connection.transport.answers() == answers


# --- the lease ------------------------------------------------------------------------------------


async def test_without_the_lease_nothing_starts_and_with_it_everything_goes_on_in_order(
    core: ModuleType,
) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1))
    node.time = 1000.0
    read(connection, request(2, 2), request(3, 3), request(4, 4, object="b"))
    await settle()
    assert (connection.transport.answers(), node.dispatcher.in_flight) == ({1: 1}, 3)
    node.dispatcher.set_lease(1100.0)
    await settle()
    assert node.numbers("a", "end") == [1, 2, 3]
    assert connection.transport.answers() == {1: 1, 2: 2, 3: 3, 4: 4}


async def test_a_reply_that_is_ready_after_the_lease_ended_is_withheld(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, message="wait"))
    node.time = 1000.0
    node.open_gate(1)
    await settle()
    assert connection.transport.answers() == {1: "outcome_unknown"}
    assert node.dispatcher.fenced == 1


async def test_handlers_that_are_cancelled_for_want_of_the_lease_leave_the_outcome_open(
    core: ModuleType,
) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, message="wait"), request(2, 2, message="wait", object="b"))
    node.time = 1000.0
    assert len(node.dispatcher.cancel_running()) == 2
    await settle()
    assert connection.transport.answers() == {1: "outcome_unknown", 2: "outcome_unknown"}


# --- callers that are no connection ---------------------------------------------------------------


class Listener(dispatch.TurnCaller):
    """A caller that keeps what it is answered."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def reply(self, turn: dispatch.Turn, payload: bytes) -> None:
        self.answers.append(msgpack.unpackb(payload))

    def fail(self, turn: dispatch.Turn, error: BaseException) -> None:
        self.answers.append(type(error))


def admit(node: Node, caller: dispatch.TurnCaller, n: int, do: str = "", **options: Any) -> Any:
    message = options.pop("message", "plain")
    payload = msgpack.packb({"n": n, "do": do})
    return node.dispatcher.admit(caller, "Thing", "a", message, payload, **options)


async def test_a_caller_that_is_no_connection_takes_turns_by_the_same_door() -> None:
    node, listener = Node(dispatch), Listener()
    connection = node.connect()
    admit(node, listener, 1)
    read(connection, request(1, 2, message="wait"))
    turn = admit(node, listener, 3, message="wait")
    read(connection, request(2, 4))
    assert (listener.answers, node.numbers("a", "begin")) == ([{"n": 1}], [1, 2])
    assert (node.dispatcher.in_flight, turn.running) == (3, False)
    node.open_gate(2)
    await settle()
    assert (turn.running, turn.caller) == (True, listener)
    node.open_gate(3)
    await settle()
    assert node.numbers("a", "end") == [1, 2, 3, 4]
    assert listener.answers == [{"n": 1}, {"n": 3}]
    assert connection.transport.answers() == {1: 2, 2: 4}
    assert (node.dispatcher.in_flight, node.dispatcher.calls) == (0, 4)


async def test_a_caller_that_is_no_connection_hears_how_its_turns_fail() -> None:
    node, listener = Node(dispatch, waiting_limit=2), Listener()
    admit(node, listener, 1, message="wait", timeout=10.0)
    admit(node, listener, 2, timeout=5.0)
    admit(node, listener, 3, "raise")
    admit(node, listener, 4)
    assert listener.answers == [Overloaded]
    node.time += 6.0
    node.dispatcher.sweep()
    assert listener.answers == [Overloaded, Expired]
    node.time += 6.0
    node.dispatcher.sweep()
    await settle()
    assert listener.answers == [Overloaded, Expired, CallTimeout, HandlerFailed]
    assert (node.dispatcher.in_flight, node.dispatcher.failures) == (0, 4)


async def test_a_turn_may_be_cancelled_that_nobody_waits_for() -> None:
    node, nobody = Node(dispatch), dispatch.TurnCaller()
    admit(node, nobody, 1, message="wait")
    waiting = admit(node, nobody, 2)
    waiting.cancel()
    node.open_gate(1)
    await settle()
    assert (node.numbers("a", "end"), node.dispatcher.in_flight) == ([1], 0)


async def test_a_turn_that_is_admitted_during_another_leaves_that_turn_the_running_one() -> None:
    seen: list[Any] = []
    node, nobody = Node(dispatch), dispatch.TurnCaller()

    async def outer(thing: Any, message: Any) -> None:
        turn = dispatch.current()
        payload = msgpack.packb({"n": 2, "do": ""})
        for name in ("plain", "quick"):
            node.dispatcher.admit(nobody, "Thing", "b", name, payload)
            seen.append(dispatch.current() is turn)

    node.add_method("outer", outer, is_async=True)
    admit(node, nobody, 1, message="outer")
    assert (seen, dispatch.current()) == ([True, True], None)
    await settle()


async def test_what_a_node_does_not_host_is_not_admitted() -> None:
    dispatcher, nobody = Node(dispatch).dispatcher, dispatch.TurnCaller()
    with pytest.raises(UnknownType, match="no type 'Other'"):
        dispatcher.admit(nobody, "Other", "a", "plain", b"")
    with pytest.raises(UnknownMessage, match="no message 'other'"):
        dispatcher.admit(nobody, "Thing", "a", "other", b"")


async def test_the_turn_of_a_lifecycle_hook_has_no_caller() -> None:
    node = Node(dispatch, slow=True)
    read(node.connect(), request(1, 1))
    [opening] = node.opening
    assert (opening.turn.caller, opening.turn.message_name) == (None, "(lifecycle)")
    node.activated()
    await settle()


# --- whose turn it is -----------------------------------------------------------------------------


async def test_a_handler_and_the_tasks_it_starts_know_their_turn() -> None:
    seen: list[Any] = []

    async def look(thing: Any, message: Any) -> None:
        turn = dispatch.current()
        await asyncio.sleep(0)
        task = asyncio.create_task(note(turn))
        await asyncio.sleep(0)
        seen.append(dispatch.current() is turn)
        thing.node.late = task
        await thing.node.gates.setdefault(message.n, asyncio.get_running_loop().create_future())

    async def note(turn: Any) -> None:
        current = dispatch.current()
        seen.append(current is not None and current is turn and current.running)
        await until_ended.wait()
        seen.append(dispatch.current())

    until_ended = asyncio.Event()
    node = Node(dispatch)
    node.add_method("look", look, is_async=True)
    connection = node.connect()
    read(connection, request(1, 1, message="look"), request(2, 2, object="b", message="wait"))
    assert dispatch.current() is None
    await settle()
    assert seen == [True, True]
    node.open_gate(1)
    node.open_gate(2)
    await settle()
    until_ended.set()
    await node.late  # type: ignore[attr-defined]
    assert seen == [True, True, None], "a turn that has ended is nobody's current turn"


async def test_two_handlers_that_run_at_once_each_know_their_own_turn() -> None:
    seen: dict[str, str] = {}

    async def look(thing: Any, message: Any) -> None:
        await asyncio.sleep(0)
        turn = dispatch.current()
        assert turn is not None
        seen[thing.mailbox.id] = turn.id

    node = Node(dispatch)
    node.add_method("look", look, is_async=True)
    connection = node.connect()
    read(connection, *(request(id, id, object=str(id), message="look") for id in range(5)))
    await settle()
    assert seen == {str(id): str(id) for id in range(5)}


@pytest.mark.parametrize("outer_is_async", [False, True])
async def test_a_handler_that_runs_inside_another_knows_its_own_turn_and_leaves_the_other_its_own(
    outer_is_async: bool,
) -> None:
    """So it is when an object calls its neighbour, which gets the request at once."""
    seen: list[str | None] = []
    node = Node(dispatch)
    neighbour = node.connect()

    def note() -> None:
        turn = dispatch.current()
        seen.append(None if turn is None else turn.id)

    def inner(thing: Any, message: Any) -> None:
        note()
        if message.n == 9:
            raise ValueError("on purpose")

    async def inner_async(thing: Any, message: Any) -> None:
        note()
        await asyncio.sleep(0)
        note()

    def outer(thing: Any, message: Any) -> None:
        note()
        for number, name in ((1, "inner"), (2, "inner_async"), (9, "inner"), (3, "unknown")):
            contextvars.copy_context().run(
                read, neighbour, request(number, number, object=f"{name} {number}", message=name)
            )
            note()

    async def outer_async(thing: Any, message: Any) -> None:
        outer(thing, message)

    node.add_method("inner", inner, is_async=False)
    node.add_method("inner_async", inner_async, is_async=True)
    node.add_method("outer", outer_async if outer_is_async else outer, is_async=outer_is_async)
    read(node.connect(), request(1, 1, object="outer", message="outer"))
    note()
    await settle()
    assert seen == [
        "outer",
        "inner 1",
        "outer",
        "inner_async 2",
        "outer",
        "inner 9",
        "outer",
        "outer",
        None,
        "inner_async 2",
    ]


async def test_a_task_that_a_def_handler_starts_and_other_threads_belong_to_no_turn() -> None:
    seen: list[Any] = []

    def look(thing: Any, message: Any) -> None:
        async def later() -> None:
            seen.append(dispatch.current())

        thing.node.late = asyncio.ensure_future(later())
        thread = threading.Thread(target=lambda: seen.append(dispatch.current()))
        thread.start()
        thread.join()

    node = Node(dispatch)
    node.add_method("look", look, is_async=False)
    read(node.connect(), request(1, 1, message="look"))
    await node.late  # type: ignore[attr-defined]
    assert seen == [None, None]


async def test_context_variables_of_one_turn_do_not_reach_the_next() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen: list[int] = []

    async def change(thing: Any, message: Any) -> None:
        seen.append(variable.get())
        variable.set(message.n)

    node = Node(dispatch)
    node.add_method("change", change, is_async=True)
    read(node.connect(), request(1, 1, message="change"), request(2, 2, message="change"))
    assert seen == [0, 0]


async def test_an_async_handler_runs_in_a_task_of_its_own_from_its_first_step() -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    async def look(thing: Any, message: Any) -> None:
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        tasks.append(asyncio.current_task())

    node = Node(dispatch)
    node.add_method("look", look, is_async=True)
    connection = node.connect()
    own = asyncio.current_task()
    read(connection, request(1, 1, message="look"), request(2, 2, object="b", message="look"))
    assert asyncio.current_task() is own
    await settle()
    first, second, *rest = tasks
    assert first is not None
    assert own not in tasks
    assert first is not second
    assert rest == [first, second]


async def test_turn_numbers_are_not_repeated() -> None:
    numbers: list[int] = []

    def look(thing: Any, message: Any) -> None:
        turn = dispatch.current()
        assert turn is not None
        numbers.append(turn.number)

    node = Node(dispatch)
    node.add_method("look", look, is_async=False)
    read(node.connect(), *(request(id, id, object=str(id), message="look") for id in range(50)))
    assert len(set(numbers)) == 50


# --- bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x91\x01",
        b"\x92\xff\x01",
        b"\x92\x01\xc0",
        b"\x92\x01\x05",
        request(1, 1).replace(b"\xa5Thing", b"\xc4\x05Thing"),
        request(1, 1).replace(b"\xa1a", b"\x01"),
        request(1, 1).replace(b"\xa1a", b"\xa1\xff"),
        request(1, 1, message="plain").replace(b"\xa5plain\x00", b"\xa5plain\xd0\xff"),
        request(1, 1, context=b"x").replace(b"\xc4\x01x", b"\xa1x"),
        request(1, 1)[:4],
        request(1, 1)[:9],
        b"\x97" + request(1, 1)[1:],
        b"\x99" + request(1, 1)[1:],
    ],
)
async def test_bytes_that_are_no_frame_of_ours_break_the_connection_and_nothing_else(
    core: ModuleType, body: bytes
) -> None:
    node = Node(core)
    connection, other = node.connect(), node.connect()
    read(connection, body)
    [error] = node.broken
    assert isinstance(error, ProtocolError)
    read(other, request(1, 1))
    assert other.transport.answers() == {1: 1}


async def test_an_id_that_is_in_use_breaks_the_connection(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    read(connection, request(1, 1, message="wait"))
    read(connection, request(1, 2, object="b"))
    [error] = node.broken
    assert isinstance(error, ProtocolError)
    assert node.dispatcher.in_flight == 1
    node.disconnect(connection)
    await settle()
    assert node.dispatcher.in_flight == 0 or core is dispatch


async def test_no_request_is_taken_before_the_handshake(core: ModuleType) -> None:
    node = Node(core)
    connection = node.connect()
    connection.accepted = False
    read(connection, request(5, 1))
    assert (node.control, node.log) == ([(1, 5)], [])


WIDE: list[Callable[[int], bytes]] = [
    lambda n: b"\xcc" + n.to_bytes(1, "big"),
    lambda n: b"\xcd" + n.to_bytes(2, "big"),
    lambda n: b"\xce" + n.to_bytes(4, "big"),
    lambda n: b"\xcf" + n.to_bytes(8, "big"),
    lambda n: b"\xd0" + n.to_bytes(1, "big"),
    lambda n: b"\xd1" + n.to_bytes(2, "big"),
    lambda n: b"\xd2" + n.to_bytes(4, "big"),
    lambda n: b"\xd3" + n.to_bytes(8, "big"),
]


@pytest.mark.parametrize("array", [b"\xdc\x00\x08", b"\xdd\x00\x00\x00\x08"])
@pytest.mark.parametrize("string", [b"\xd9", b"\xda\x00", b"\xdb\x00\x00\x00"])
@pytest.mark.parametrize("binary", [b"\xc4", b"\xc5\x00", b"\xc6\x00\x00\x00"])
async def test_messagepack_that_is_not_the_shortest_is_taken(
    array: bytes, string: bytes, binary: bytes
) -> None:
    node = Node(dispatch)
    connection = node.connect()
    names = b"".join(
        string + bytes([len(name)]) + name.encode() for name in ("Thing", "a", "plain")
    )
    for id, number in enumerate(WIDE):
        read(
            connection,
            array
            + number(1)
            + number(id)
            + names
            + number(100)
            + binary
            + b"\x02cx"
            + msgpack.packb({"n": id}),
        )
    assert connection.transport.frames == [[2, id, {"n": id}] for id in range(len(WIDE))]


@given(
    st.binary(max_size=200)
    | st.builds(lambda bodies: frames(*bodies), st.lists(st.binary(max_size=40), max_size=5))
)
@some_examples
async def test_garbage_breaks_the_connection_or_waits_for_more(data: bytes) -> None:
    results = []
    for core in dispatch, twin:
        node = Node(core)
        connection = node.connect()
        read_bytes(connection, data)
        assert all(isinstance(error, ProtocolError | FrameTooLarge) for error in node.broken)
        results.append(([type(error) for error in node.broken], node.control, node.log))
    assert results[0] == results[1]


@given(st.data())
@some_examples
async def test_a_request_with_bytes_changed_is_handled_as_the_twin_does(
    data: st.DataObject,
) -> None:
    body = bytearray(request(300, 1, context=b"xyz", timeout=70_000))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    results = []
    for core in dispatch, twin:
        node = Node(core)
        connection = node.connect()
        read(connection, bytes(body))
        await settle()
        results.append(
            (
                [type(error) for error in node.broken],
                node.control,
                node.log,
                connection.transport.frames,
            )
        )
    assert results[0] == results[1]


# --- anything at all, against the twin ------------------------------------------------------------

requests = st.tuples(
    st.sampled_from("ab"),
    st.sampled_from(["plain", "quick", "wait", "wait", "wait", "nothing"]),
    st.sampled_from(["", "", "", "raise", "odd", "close", "stay"]),
    st.sampled_from([0, 0, 400, 5_000]),
)
events = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 1), st.lists(requests, min_size=1, max_size=6)),
    st.tuples(st.just("gate"), st.integers(0, 20)),
    st.tuples(st.just("gate"), st.integers(0, 20)),
    st.tuples(st.just("cancel"), st.integers(0, 1), st.integers(0, 30)),
    st.tuples(st.just("activated"), st.booleans()),
    st.tuples(st.just("time"), st.sampled_from([0.3, 3.0])),
    st.tuples(st.just("lease"), st.sampled_from([0.0, 10.0, 1000.0])),
    st.tuples(st.just("lost"), st.integers(0, 1)),
)


class Play:
    """One node, and what can happen to it."""

    def __init__(self, core: ModuleType) -> None:
        self.node = Node(core, slow=True, waiting_limit=4, in_flight_limit=12)
        self.connections = [self.node.connect(), self.node.connect()]
        self.last = 0

    def read(self, connection: int, wanted: list[tuple[str, str, str, int]]) -> None:
        bodies = []
        for object, message, do, timeout in wanted:
            self.last += 1
            bodies.append(
                request(self.last, self.last, do, object=object, message=message, timeout=timeout)
            )
        read(self.connections[connection], *bodies)

    def gate(self, index: int) -> None:
        if self.node.gates:
            self.node.open_gate(sorted(self.node.gates)[index % len(self.node.gates)])

    def cancel(self, connection: int, id: int) -> None:
        read(self.connections[connection], cancel(id))

    def activated(self, fail: bool) -> None:
        if self.node.opening:
            self.node.activated(fail=fail)

    def time(self, passed: float) -> None:
        self.node.time += passed
        self.node.dispatcher.sweep()

    def lease(self, length: float) -> None:
        self.node.dispatcher.set_lease(self.node.time + length)

    def lost(self, connection: int) -> None:
        self.node.disconnect(self.connections[connection])
        self.connections[connection] = self.node.connect()

    def state(self) -> Any:
        node, dispatcher = self.node, self.node.dispatcher
        return {
            "log": {object: [entry for entry in node.log if entry[0] == object] for object in "ab"},
            "answers": [connection.transport.answers() for connection in self.connections],
            "counters": (
                dispatcher.calls,
                dispatcher.failures,
                dispatcher.fenced,
                dispatcher.live,
                dispatcher.in_flight,
            ),
            "waiting": {mailbox.id: mailbox.waiting for mailbox in dispatcher.mailboxes()},
            "broken": node.broken,
        }

    async def finish(self) -> None:
        for connection in self.connections:
            self.node.disconnect(connection)
        await settle()


@example(
    play=[
        ("read", 0, [("a", "wait", "raise", 0)]),
        ("activated", False),
        ("lease", 0.0),
        ("gate", 0),
    ]
)
@given(st.lists(events, max_size=25))
@settings(some_examples, max_examples=examples(200))
async def test_whatever_happens_the_compiled_dispatcher_does_what_the_twin_does(
    play: list[tuple[Any, ...]],
) -> None:
    compiled, plain = Play(dispatch), Play(twin)
    try:
        for name, *arguments in play:
            for node in compiled, plain:
                getattr(node, name)(*arguments)
                await settle()
            assert compiled.state() == plain.state()
    finally:
        await compiled.finish()
        await plain.finish()
