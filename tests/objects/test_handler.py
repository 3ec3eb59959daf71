"""``@rio.handler``: what its signature may say, and why a signature is refused."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Dict, Generic, List, TypeVar  # noqa: UP035

import pytest

from rio.errors import BadRegistration
from rio.objects.app_data import AppData
from rio.objects.handler import Handler, handler, index_by_message_name
from rio.objects.message import Message
from rio.objects.service_object import ServiceObject

if TYPE_CHECKING:
    from decimal import Decimal

T = TypeVar("T")
LINE = r"\(.*test_handler\.py:\d+\)"


class Balance(Message):
    amount: int


class Deposit(Message[Balance], type_name="bank.Deposit"):
    amount: int


class Forget(Message[None]):
    pass


class Undeclared(Message):
    pass


class Wrap(Message[T], Generic[T]):
    pass


class Opaque:
    pass


class Early(Message["Late"]):
    pass


class Account(ServiceObject):
    forgotten = 0

    @handler
    async def deposit(self, message: Deposit) -> Balance:
        """Put money in."""
        return Balance(message.amount)

    @handler(timeout=2.5)
    def forget(self, message: Forget, app: AppData) -> None:
        self.forgotten += app.get(int)

    @handler("legacy.Set")
    async def legacy_set(self, value: Any) -> int:
        return len(value)

    @handler("legacy.Get", timeout=1)
    def legacy_get(self, value):  # type: ignore[no-untyped-def]
        return value

    @handler()
    async def undeclared(self, message: Undeclared) -> list[str]:
        await asyncio.sleep(0)
        return ["a"]

    @handler
    def early(self, message: Early) -> Late:
        return Late()


class Late(Message):
    pass


# --- what a handler knows -------------------------------------------------------------------------


def test_a_handler_knows_what_its_signature_says() -> None:
    found = Account.deposit
    assert isinstance(found, Handler)
    assert (found.name, found.message_name, found.message_type, found.reply_type) == (
        "deposit",
        "bank.Deposit",
        Deposit,
        Balance,
    )
    assert (found.is_async, found.takes_app_data, found.timeout) == (True, False, None)
    assert found.function.__name__ == "deposit"
    assert found.__doc__ == "Put money in."


def test_a_plain_handler_may_have_a_timeout_and_take_the_application_data() -> None:
    found = Account.forget
    assert (found.message_type, found.reply_type) == (Forget, type(None))
    assert (found.is_async, found.takes_app_data, found.timeout) == (False, True, 2.5)


def test_a_dynamic_handler_has_a_name_and_no_message_type() -> None:
    assert (
        Account.legacy_set.message_name,
        Account.legacy_set.message_type,
        Account.legacy_set.reply_type,
    ) == ("legacy.Set", None, int)
    assert (Account.legacy_get.reply_type, Account.legacy_get.timeout) == (Any, 1)


def test_a_message_without_a_reply_may_be_answered_with_anything() -> None:
    assert Account.undeclared.reply_type == list[str]


def test_one_type_may_be_written_in_two_ways() -> None:
    class Look(Message[dict[str, list[int]]]):
        pass

    def look(self: Any, message: Look) -> Dict[str, List[int]]: ...  # type: ignore[empty-body]  # noqa: UP006

    assert Handler(look).try_resolve(({"Look": Look},)).message_type is Look


def test_a_reply_may_be_defined_after_the_class() -> None:
    assert Account.early.reply_type is Late


def test_names_may_be_local_to_a_function_or_to_the_class() -> None:
    class Ping(Message[None]):
        pass

    class Room(ServiceObject):
        class Join(Message["Joined"]):
            pass

        class Joined(Message):
            pass

        @handler
        def ping(self, message: Ping) -> None: ...

        @handler
        def join(self, message: Join) -> Joined:
            return self.Joined()

    assert (Room.ping.message_type, Room.join.message_type, Room.join.reply_type) == (
        Ping,
        Room.Join,
        Room.Joined,
    )


def test_a_class_inside_a_class_inside_a_function_finds_all_its_names() -> None:
    class Ping(Message[None]):
        pass

    class Outer:
        class Room(ServiceObject):
            @handler
            def ping(self, message: Ping) -> None: ...

    assert Outer.Room.ping.message_type is Ping


def test_a_method_with_the_name_of_a_type_does_not_hide_the_type() -> None:
    class Directory(ServiceObject):
        @handler
        def list(self, message: Undeclared) -> list[str]:  # type: ignore[valid-type]
            return []

    assert Directory.list.reply_type == list[str]


def test_a_decorated_coroutine_function_is_async() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    class Room(ServiceObject):
        @handler
        @logged
        async def deposit(self, message: Deposit) -> Balance:
            return Balance(1)

    assert (Room.deposit.is_async, Room.deposit.message_type) == (True, Deposit)


# --- called on an instance ------------------------------------------------------------------------


async def test_called_on_an_instance_async_and_plain_handlers_are_both_awaitable() -> None:
    account = Account()
    assert await account.deposit(Deposit(3)) == Balance(3)
    reply = account.early(Early())
    assert inspect.isawaitable(reply)
    assert isinstance(await reply, Late)
    assert await account.legacy_set([1, 2]) == 2
    assert await asyncio.gather(account.early(Early()), account.undeclared(Undeclared())) == [
        Late(),
        ["a"],
    ]


async def test_a_plain_handler_has_run_when_the_call_returns() -> None:
    class Room(ServiceObject):
        seen = False

        @handler
        def forget(self, message: Forget) -> None:
            self.seen = True

        @handler
        def deposit(self, message: Deposit) -> Balance:
            raise ValueError("at once")

    room = Room()
    room.forget(Forget())
    assert room.seen
    with pytest.raises(ValueError, match="at once"):
        room.deposit(Deposit(1))


async def test_called_on_an_instance_a_handler_gets_the_application_data_of_the_instance() -> None:
    class Attached(Account):
        app_data = AppData()  # type: ignore[assignment]  # instead of the runtime's

    Attached.app_data.set(5)
    account = Attached()
    await account.forget(Forget())
    assert account.forgotten == 5


async def test_a_timeout_holds_for_a_direct_call_too() -> None:
    class Slow(ServiceObject):
        @handler
        async def wait(self, message: Forget) -> None:
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await Slow().wait(Forget(), timeout=0.001)


async def test_super_reaches_the_handler_of_the_base_class() -> None:
    class Savings(Account):
        @handler
        async def deposit(self, message: Deposit) -> Balance:
            base = await super().deposit(message)
            return Balance(base.amount * 2)

    assert await Savings().deposit(Deposit(2)) == Balance(4)


# --- handlers of a class --------------------------------------------------------------------------


def test_a_subclass_inherits_overrides_and_takes_away_handlers() -> None:
    class Savings(Account):
        @handler
        def deposit(self, message: Deposit) -> Balance:
            return Balance(0)

        legacy_get = None  # type: ignore[assignment]

    assert set(Savings.__rio_handlers__) == {
        "deposit",
        "forget",
        "legacy_set",
        "undeclared",
        "early",
    }
    assert Savings.__rio_handlers__["deposit"] is not Account.deposit
    assert set(Account.__rio_handlers__) == {
        "deposit",
        "forget",
        "legacy_set",
        "legacy_get",
        "undeclared",
        "early",
    }


def test_a_mixin_may_bring_handlers() -> None:
    class Forgetting:
        @handler
        def forget(self, message: Forget) -> None: ...

    class Room(Forgetting, ServiceObject):
        pass

    assert list(Room.__rio_handlers__) == ["forget"]


def test_hiding_a_handler_by_a_plain_method_is_refused() -> None:
    with pytest.raises(
        BadRegistration,
        match=r"Savings\.deposit hides <handler Account\.deposit .*put @rio\.handler on it",
    ):

        class Savings(Account):
            async def deposit(self, message: Deposit) -> Balance:  # type: ignore[override]
                return Balance(1)


def test_two_handlers_for_one_message_are_refused_with_their_class_by_names_and_lines() -> None:
    with pytest.raises(BadRegistration) as caught:

        class Room(ServiceObject):
            @handler
            def one(self, message: Forget) -> None: ...

            @handler
            def two(self, message: Forget) -> None: ...

    first, second = re.findall(r"<handler Room\.(\w+ \(.+?):(\d+)\)>", str(caught.value))
    assert (first[0], second[0]) == (f"one ({__file__}", f"two ({__file__}")
    assert int(second[1]) == int(first[1]) + 3


def test_a_second_handler_in_a_subclass_is_refused_unless_it_replaces_the_first() -> None:
    with pytest.raises(BadRegistration, match=r"<handler Account\.deposit .*Savings\.put .*= None"):

        class Savings(Account):
            @handler
            async def put(self, message: Deposit) -> Balance:
                return Balance(1)

    class Checking(Account):
        @handler
        async def deposit(self, message: Deposit) -> Balance:
            return Balance(1)

    class Renamed(Account):
        deposit = None

        @handler
        async def put(self, message: Deposit) -> Balance:
            return Balance(1)

    found = index_by_message_name(Renamed, Renamed.__rio_handlers__.values())
    assert found["bank.Deposit"] is Renamed.put


def test_two_handlers_whose_message_is_defined_later_are_refused_at_registration() -> None:
    class Room(ServiceObject):
        @handler
        def one(self, message: Later) -> None: ...  # noqa: F821

        @handler
        def two(self, message: Later) -> None: ...  # noqa: F821

    globals()["Later"] = Forget
    try:
        with pytest.raises(BadRegistration, match="two handlers for message 'Forget'"):
            index_by_message_name(Room, Room.__rio_handlers__.values())
    finally:
        del globals()["Later"]


def test_a_handler_cannot_have_the_name_of_a_method_that_the_object_needs() -> None:
    for name in ("send", "shutdown", "load", "id", "publish"):
        with pytest.raises(BadRegistration, match=rf"Room\.{name}: '{name}' is taken"):
            type(
                "Room",
                (ServiceObject,),
                {name: Handler(lambda self, message: None), "__module__": __name__},
            )


# --- what is refused ------------------------------------------------------------------------------


def no_annotation(self, message) -> None: ...  # type: ignore[no-untyped-def]
def no_message(self: Any, message: str) -> None: ...
def any_message(self: Any, message: Message) -> None: ...
def a_union(self: Any, message: Deposit | Forget) -> None: ...
def parametrised(self: Any, message: Wrap[int]) -> int: ...  # type: ignore[empty-body]
def no_return(self: Any, message: Deposit): ...  # type: ignore[no-untyped-def]
def no_return_for_none(self: Any, message: Forget): ...  # type: ignore[no-untyped-def]
def no_return_undeclared(self: Any, message: Undeclared): ...  # type: ignore[no-untyped-def]
def wrong_return(self: Any, message: Deposit) -> int: ...  # type: ignore[empty-body]
def wrong_return_none(self: Any, message: Deposit) -> None: ...
def promised(self: Any, message: Deposit) -> Awaitable[Balance]: ...  # type: ignore[empty-body]
def opaque_reply(self: Any, message: Undeclared) -> Opaque: ...  # type: ignore[empty-body]
def not_data(self: Any, message: Forget, app: int) -> None: ...
def untyped_data(self: Any, message: Forget, app) -> None: ...  # type: ignore[no-untyped-def]
def only_for_checkers(self: Any, message: Undeclared) -> Decimal: ...  # type: ignore[empty-body]
def no_type(self: Any, message: Deposit) -> "1 +": ...  # type: ignore[valid-type, empty-body]  # noqa: F722


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (no_annotation, "parameter 'message' has no annotation: write message: YourMessage"),
        (
            no_message,
            "parameter 'message' is annotated str: annotate it with a subclass of rio.Message",
        ),
        (any_message, "annotated Message: annotate it with a subclass"),
        (a_union, "annotate it with a subclass of rio.Message"),
        (parametrised, "annotate it with a subclass, class YourMessage"),
        (no_return, "no return annotation: write -> Balance"),
        (no_return_for_none, "no return annotation: write -> None"),
        (no_return_undeclared, "no return annotation"),
        (
            wrong_return,
            r"returns int, but Deposit declares the reply Balance: write -> Balance,"
            r" or class Deposit\(rio.Message\[int\]\)",
        ),
        (wrong_return_none, "returns None, but Deposit declares the reply Balance"),
        (promised, "but Deposit declares the reply Balance"),
        (opaque_reply, "its reply Opaque cannot travel"),
        (not_data, "third parameter is the application's data: write app: rio.AppData"),
        (untyped_data, "third parameter is the application's data"),
        (only_for_checkers, "'Decimal' is not defined.*not only under TYPE_CHECKING"),
        (no_type, "an annotation is not a type"),
    ],
)
def test_annotations_that_break_a_rule_are_refused_with_the_change_to_make(
    function: Any, text: str
) -> None:
    with pytest.raises(BadRegistration, match=rf"handler {function.__name__} {LINE}: .*{text}"):
        handler(function).resolve()


def test_a_broken_rule_is_refused_when_the_class_is_made_and_names_it() -> None:
    with pytest.raises(BadRegistration, match=rf"handler Room\.deposit {LINE}: it returns int"):

        class Room(ServiceObject):
            @handler
            async def deposit(self, message: Deposit) -> int:
                return 1


def no_parameters() -> None: ...
def only_self(self: Any) -> None: ...
def four(self: Any, message: Forget, app: AppData, more: int) -> None: ...
def variadic(self: Any, *message: Forget) -> None: ...
def keyword(self: Any, *, message: Forget) -> None: ...


@pytest.mark.parametrize("function", [no_parameters, only_self, four, variadic, keyword])
def test_other_parameters_are_refused(function: Any) -> None:
    with pytest.raises(
        BadRegistration, match=rf"{LINE}: it takes \(.*a handler takes \(self, message\) or"
    ):
        handler(function)


def generator(self: Any, message: Undeclared) -> Iterator[int]:
    yield 1


async def async_generator(self: Any, message: Undeclared) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [generator, async_generator])
def test_a_generator_is_refused(function: Any) -> None:
    with pytest.raises(
        BadRegistration,
        match=rf"{function.__name__} {LINE}: it is a generator, and a message has one reply",
    ):
        handler(function)


@pytest.mark.parametrize("thing", [3, Opaque, staticmethod(no_message), classmethod(no_message)])
def test_what_is_no_method_is_refused(thing: Any) -> None:
    with pytest.raises(BadRegistration, match="belongs on a method"):
        handler(thing)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_is_a_positive_number(timeout: float) -> None:
    with pytest.raises(BadRegistration, match="a positive number of seconds"):
        handler(timeout=timeout)(no_message)  # type: ignore[type-var]


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_a_dynamic_name_must_fit_the_wire(name: str) -> None:
    with pytest.raises(BadRegistration, match="the message's name"):
        handler(name)(no_message)


def test_a_dynamic_handler_takes_a_value_of_no_type() -> None:
    def typed(self: Any, value: Deposit) -> None: ...

    with pytest.raises(
        BadRegistration,
        match=r"'legacy\.Set'.*gets plain values, but 'value' is annotated Deposit:"
        r" annotate it Any",
    ):
        handler("legacy.Set")(typed).resolve()
