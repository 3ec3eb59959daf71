"""The registry: what it collects, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from rio.errors import BadRegistration
from rio.objects.app_data import AppData
from rio.objects.handler import handler
from rio.objects.managed_state import managed_state
from rio.objects.message import Message
from rio.objects.registry import RegisteredType, Registry
from rio.objects.service_object import ServiceObject
from rio.objects.state import State


class Ping(Message[str]):
    pass


class Pong(Message[int], type_name="x.Pong"):
    pass


class Ledger(State):
    balance: int = 0


class Room(ServiceObject, type_name="chat.Room"):
    ledger: Ledger = managed_state()

    @handler
    def ping(self, message: Ping) -> str:
        return self.id

    async def after_load(self, app: AppData) -> None: ...


class Table(ServiceObject):
    @handler
    async def ping(self, message: Ping) -> str:
        return ""

    @handler("legacy.Set")
    def legacy(self, value: Any) -> None: ...


def pong(self: Any, message: Pong) -> int:
    return 1


def ping_again(self: Any, message: Ping) -> str:
    return ""


def test_a_registry_holds_a_record_of_each_class() -> None:
    registry = Registry(Room, Table)
    record = registry["chat.Room"]
    assert (record.cls, record.type_name) == (Room, "chat.Room")
    assert dict(record.handlers) == {"Ping": Room.ping}
    assert [field.attribute for field in record.managed_states] == ["ledger"]
    assert record.hooks.after_load is not None
    assert record.hooks.after_load.takes_app_data
    assert set(registry["Table"].handlers) == {"Ping", "legacy.Set"}


def test_a_registry_is_a_collection() -> None:
    registry = Registry(Room)
    assert Room in registry
    assert "chat.Room" in registry
    assert Table not in registry
    assert "Room" not in registry
    assert [record.cls for record in registry] == [Room]
    assert len(registry) == 1
    assert registry.get("Room") is None
    assert isinstance(registry.get("chat.Room"), RegisteredType)
    assert repr(registry) == "Registry(Room)"


def test_a_record_never_changes() -> None:
    record = Registry(Room)["chat.Room"]
    with pytest.raises(AttributeError):
        record.type_name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        record.handlers["Ping"] = Room.ping  # type: ignore[index]


def test_adding_decorates_and_adding_again_changes_nothing() -> None:
    registry = Registry(Room)
    assert registry.add_type(Table) is Table
    record = registry["Table"]
    registry.add_type(Table)
    assert registry["Table"] is record


def test_two_classes_with_one_type_name_are_refused_by_both_names() -> None:
    class Imposter(ServiceObject, type_name="chat.Room"):
        pass

    with pytest.raises(
        BadRegistration,
        match=r"test_registry\.Room and .*Imposter have one type name, 'chat\.Room'.*type_name=",
    ):
        Registry(Room, Imposter)


def test_two_message_classes_with_one_type_name_are_refused_by_both_names() -> None:
    class OtherPing(Message[str], type_name="Ping"):
        pass

    class Other(ServiceObject):
        @handler
        def ping(self, message: OtherPing) -> str:
            return ""

    registry = Registry(Room)
    with pytest.raises(
        BadRegistration,
        match=r"message classes .*test_registry\.Ping and .*OtherPing \(of <handler Other\.ping",
    ):
        registry.add_type(Other)
    assert Other not in registry


def test_a_dynamic_handler_and_a_typed_one_cannot_share_a_message() -> None:
    with pytest.raises(BadRegistration, match="two handlers for message 'Ping'"):

        class Both(ServiceObject):
            @handler
            def one(self, message: Ping) -> str:
                return ""

            @handler("Ping")
            def two(self, value: Any) -> str:
                return ""


@pytest.mark.parametrize("thing", [ServiceObject, Ping, "Room", None])
def test_what_is_no_service_object_is_refused(thing: Any) -> None:
    with pytest.raises(BadRegistration, match=r"subclasses of rio.ServiceObject, got"):
        Registry(thing)


def test_a_class_that_cannot_be_made_without_arguments_is_refused() -> None:
    class Needy(ServiceObject):
        def __init__(self, size: int) -> None: ...

    with pytest.raises(BadRegistration, match="without arguments"):
        Registry(Needy)


def test_a_handler_may_be_defined_outside_the_class() -> None:
    registry = Registry(Room)
    before = registry["chat.Room"]
    added = registry.add_handler(Room, pong)
    assert registry["chat.Room"].handlers["x.Pong"] is added
    assert set(before.handlers) == {"Ping"}
    assert registry.add_handler(Room, added) is added


def test_a_handler_from_outside_brings_its_class_and_may_be_marked() -> None:
    registry = Registry()
    registry.add_handler(Table, handler(timeout=2)(pong))
    assert registry["Table"].handlers["x.Pong"].timeout == 2


def test_a_handler_from_outside_obeys_the_same_rules() -> None:
    def wrong(self: Any, message: Ping) -> int:
        return 1

    registry = Registry(Room)
    with pytest.raises(
        BadRegistration,
        match=r"handler wrong \(.*\): it returns int, but Ping declares the reply str",
    ):
        registry.add_handler(Room, wrong)
    with pytest.raises(
        BadRegistration,
        match=r"two handlers for message 'Ping', <handler Room.ping .* and <handler ping_again",
    ):
        registry.add_handler(Room, ping_again)
    with pytest.raises(
        BadRegistration, match=r"takes a function, and .*Ping is a class: .*add_type"
    ):
        registry.add_handler(Room, Ping)


def test_an_annotation_that_is_never_defined_is_refused() -> None:
    class Lost(ServiceObject):
        @handler
        def ping(self, message: Nowhere) -> str:  # type: ignore[name-defined]  # noqa: F821
            return ""

    with pytest.raises(
        BadRegistration,
        match=r"handler Lost\.ping \(.*\): an annotation cannot be read:"
        r" name 'Nowhere' is not defined",
    ):
        Registry(Lost)


def test_an_annotation_may_be_defined_after_the_class() -> None:
    assert set(Registry(Eager)["Eager"].handlers) == {"Later"}


class Eager(ServiceObject):
    @handler
    def later(self, message: Later) -> None: ...


class Later(Message[None]):
    pass


def test_a_frozen_registry_takes_nothing_new() -> None:
    registry = Registry(Room)
    registry.freeze()
    registry.add_type(Room)
    for add in (lambda: registry.add_type(Table), lambda: registry.add_handler(Room, pong)):
        with pytest.raises(BadRegistration, match="a server already uses this registry"):
            add()
