"""The class that users subclass: its names, its hooks, and what it asks of the runtime."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from rio.errors import BadRegistration, NotAttached, RioError
from rio.identity import Address, ObjectId, type_name_of
from rio.objects.app_data import AppData
from rio.objects.lifecycle import HOOK_NAMES, LifecycleHooks, hooks_of
from rio.objects.managed_state import managed_state
from rio.objects.message import DynamicMessage, Message
from rio.objects.registry import Registry
from rio.objects.service_object import (
    ActivationContext,
    ServiceObject,
)
from rio.objects.state import State


class Ping(Message[str]):
    pass


class Ledger(State):
    balance: int = 0


class Recorder:
    """A runtime that notes its requests."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.app_data = AppData()
        self.token = 7
        self.address = Address("host", 1)
        self.shutting_down = False

    def send(self, *arguments: Any, **keywords: Any) -> Awaitable[Any]:
        self.calls.append(("send", arguments, keywords))
        return done("reply")

    def ref(self, object_type: Any, id: str, /) -> Any:
        self.calls.append(("ref", object_type, id))
        return "reference"

    def publish(self, event: Message[Any], /) -> None:
        self.calls.append(("publish", event))

    async def save_state(self, *attributes: str) -> None:
        self.calls.append(("save", *attributes))

    async def load_state(self, *attributes: str) -> None:
        self.calls.append(("load", *attributes))

    async def shutdown(self) -> None:
        self.calls.append(("shutdown",))


async def done(value: Any) -> Any:
    return value


def attached(cls: type[ServiceObject], id: str = "ada") -> tuple[Any, Recorder]:
    runtime = Recorder()
    context: ActivationContext = runtime
    instance = cls()
    instance.id, instance.object_id, instance._activation = (
        id,
        ObjectId(type_name_of(cls), id),
        context,
    )
    return instance, runtime


class Room(ServiceObject, type_name="chat.Room"):
    pass


# --- names ----------------------------------------------------------------------------------------


def test_a_type_name_is_the_class_name_unless_the_class_says_otherwise_and_is_not_inherited() -> (
    None
):
    class Lounge(Room):
        pass

    assert [type_name_of(Room), type_name_of(Lounge)] == ["chat.Room", "Lounge"]


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_a_type_name_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(BadRegistration, match="type name of Bad"):
        type("Bad", (ServiceObject,), {}, type_name=name)


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="typename"):
        type("Bad", (ServiceObject,), {}, typename="x")


def test_an_object_shows_its_type_and_id() -> None:
    assert repr(attached(Room, "tea")[0]) == "<Room 'tea'>"
    assert repr(Room()) == "<Room '(no id)'>"


# --- what it asks of the runtime ------------------------------------------------------------------


async def test_an_object_hands_its_requests_to_the_runtime() -> None:
    room, runtime = attached(Room)
    assert await room.send("Other", "bob", Ping(), timeout=2.0) == "reply"
    assert await room.send(Room, "bob", DynamicMessage("x"), returns=int) == "reply"
    assert room.ref(Room, "bob") == "reference"
    room.publish(Ping())
    await room.save_state("a", "b")
    await room.load_state()
    await room.shutdown()
    assert runtime.calls == [
        ("send", ("Other", "bob", Ping()), {"returns": None, "timeout": 2.0}),
        ("send", (Room, "bob", DynamicMessage("x")), {"returns": int, "timeout": None}),
        ("ref", Room, "bob"),
        ("publish", Ping()),
        ("save", "a", "b"),
        ("load",),
        ("shutdown",),
    ]
    assert (room.app_data, room.token, room.address) == (runtime.app_data, 7, Address("host", 1))


async def test_without_a_runtime_each_request_is_a_clear_error() -> None:
    room = Room()
    requests = [
        lambda: room.send("Other", "bob", Ping()),
        lambda: room.ref(Room, "bob"),
        lambda: room.publish(Ping()),
        lambda: room.app_data,
        lambda: room.token,
        lambda: room.address,
    ]
    for request in requests:
        with pytest.raises(NotAttached, match=r"<Room '\(no id\)'> is not active"):
            request()
    for waiting in (room.save_state(), room.load_state(), room.shutdown()):
        with pytest.raises(NotAttached):
            await waiting
    assert issubclass(NotAttached, RioError)


# --- the lifecycle --------------------------------------------------------------------------------


class Busy(ServiceObject):
    ledger: Ledger = managed_state()

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def before_load(self) -> None:
        self.seen.append("before_load")

    async def load(self, app: AppData) -> None:
        await super().load()
        self.seen.append(("load", app))

    async def before_shutdown(self) -> None:
        self.seen.append("before_shutdown")

    async def shutdown(self, app: AppData) -> None:
        await super().shutdown()
        self.seen.append(("shutdown", app))


async def run_hooks(instance: Any, runtime: Recorder) -> None:
    """Attach an object as the runtime does it."""
    hooks = Registry(type(instance))[type_name_of(type(instance))].hooks
    for name in HOOK_NAMES:
        runtime.shutting_down = name == "shutdown"
        hook = getattr(hooks, name)
        if hook is not None:
            await hook.run(instance, runtime.app_data)


async def test_hooks_run_with_the_application_data_if_they_take_it() -> None:
    busy, runtime = attached(Busy)
    await run_hooks(busy, runtime)
    assert busy.seen == [
        "before_load",
        ("load", runtime.app_data),
        "before_shutdown",
        ("shutdown", runtime.app_data),
    ]
    assert runtime.calls == [("load",)]


def test_a_class_that_overrides_no_hook_has_none_to_run() -> None:
    assert hooks_of(Room) == LifecycleHooks(*(None for _ in HOOK_NAMES))
    assert LifecycleHooks.__struct_fields__ == HOOK_NAMES


async def test_a_class_with_managed_state_loads_it_by_default() -> None:
    class Simple(ServiceObject):
        ledger: Ledger = managed_state()

    assert hooks_of(Simple).load is None, "the runtime loads the state"
    simple, runtime = attached(Simple)
    await simple.load()
    assert runtime.calls == [("load",)]


def test_hooks_are_inherited() -> None:
    class Busier(Busy):
        async def after_load(self) -> None: ...

    hooks = hooks_of(Busier)
    assert all(getattr(hooks, name) is not None for name in HOOK_NAMES)
    assert hooks.load is not None
    assert hooks.load.function is Busy.load


async def test_calling_an_overridden_shutdown_asks_for_it_and_does_not_run_it() -> None:
    busy, runtime = attached(Busy)
    await busy.shutdown()
    assert busy.seen == []
    assert runtime.calls == [("shutdown",)]


async def test_shutdown_hooks_of_base_classes_run_through_super_and_ask_for_nothing() -> None:
    class Busier(Busy):
        async def shutdown(self, app: AppData) -> None:
            await super().shutdown(app)
            self.seen.append("the last")

    busier, runtime = attached(Busier)
    await run_hooks(busier, runtime)
    assert busier.seen[-2:] == [("shutdown", runtime.app_data), "the last"]
    assert ("shutdown",) not in runtime.calls


@pytest.mark.parametrize("name", HOOK_NAMES)
def test_a_hook_that_is_not_async_is_refused(name: str) -> None:
    with pytest.raises(
        BadRegistration,
        match=rf"hook .*Bad\.{name} \(.*test_service_object\.py:\d+\):"
        rf" write async def {name}\(self\)",
    ):
        type("Bad", (ServiceObject,), {name: lambda self: None, "__module__": __name__})


async def too_many(self: Any, app: AppData, more: int) -> None: ...
async def keyword_only(self: Any, *, app: AppData) -> None: ...


@pytest.mark.parametrize("function", [too_many, keyword_only])
def test_a_hook_with_other_parameters_is_refused(function: Any) -> None:
    with pytest.raises(
        BadRegistration, match=r"a hook takes \(self\) or \(self, app: rio\.AppData\)"
    ):
        type("Bad", (ServiceObject,), {"load": function})


async def not_data(self: Any, app: int) -> None: ...
async def untyped(self: Any, app) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize("function", [not_data, untyped])
def test_a_hook_whose_parameter_is_something_else_is_refused(function: Any) -> None:
    bad = type("Bad", (ServiceObject,), {"after_load": function})
    with pytest.raises(
        BadRegistration, match=r"its parameter is the application's data: write app: rio\.AppData"
    ):
        hooks_of(bad)


# --- construction ---------------------------------------------------------------------------------


def test_a_class_is_made_without_arguments() -> None:
    class Defaults(ServiceObject):
        def __init__(self, size: int = 3, *more: int, **options: int) -> None:
            self.size = size

    class Needy(ServiceObject):
        def __init__(self, size: int) -> None:
            self.size = size

    Registry(Room, Busy, Defaults)
    with pytest.raises(
        BadRegistration,
        match=r"Needy\.__init__ \(.*:\d+\): missing a required argument: 'size'.*without arguments",
    ):
        Registry(Needy)


def test_an_abstract_class_is_refused() -> None:
    from abc import ABC, abstractmethod

    class Abstract(ServiceObject, ABC):
        @abstractmethod
        def must(self) -> None: ...

    with pytest.raises(BadRegistration, match="Abstract is abstract"):
        Registry(Abstract)
