"""``rio.managed_state``: the fields of an object that are state."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rio.contracts.state import StateStorage
from rio.errors import BadRegistration
from rio.objects.managed_state import (
    ManagedState,
    ManagedStateField,
    managed_state,
    managed_states_of,
)
from rio.objects.service_object import ServiceObject
from rio.objects.state import State


class Ledger(State):
    balance: int = 0


class Profile(State, kw_only=True):
    name: str = ""
    tags: list[str] = msgspec.field(default_factory=list)


class Needy(State):
    first: int
    second: str
    third: int = 0


class NeedyKeywords(State, kw_only=True):
    first: int = 0
    second: str


class NotState(msgspec.Struct):
    value: int = 0


class Opaque:
    pass


class Heavy(State):
    value: Opaque | None = None


class NoStorage(StateStorage):
    """A user's back end, of which only the identity counts here."""

    async def prepare(self) -> None: ...
    async def close(self) -> None: ...
    async def load_object(self, *_: Any) -> Any: ...
    async def commit(self, *_: Any) -> Any: ...
    async def list_objects(self, *_: Any, **__: Any) -> Any: ...


STORAGE = NoStorage()


class Account(ServiceObject):
    ledger: Ledger = managed_state()
    profile: Profile = managed_state(name="who", storage=STORAGE)
    other: int = 3


def test_the_managed_states_of_a_class_are_found_in_order() -> None:
    assert managed_states_of(Account) == (
        ManagedStateField("ledger", "ledger", Ledger, None),
        ManagedStateField("profile", "who", Profile, STORAGE),
    )


def test_a_class_without_managed_state_has_none() -> None:
    class Room(ServiceObject):
        pass

    assert managed_states_of(Room) == ()


def test_a_subclass_inherits_adds_and_overrides_states() -> None:
    class Savings(Account):
        profile: Ledger = managed_state(name="second")  # type: ignore[assignment]
        interest: Ledger = managed_state()

    assert [(field.attribute, field.state_type) for field in managed_states_of(Savings)] == [
        ("ledger", Ledger),
        ("profile", Ledger),
        ("interest", Ledger),
    ]
    assert len(managed_states_of(Account)) == 2


def test_a_state_that_is_not_loaded_says_so_and_a_loaded_one_lies_on_the_instance() -> None:
    account = Account()
    with pytest.raises(AttributeError, match=r"Account\.ledger is not loaded yet"):
        _ = account.ledger
    account.ledger = Ledger(3)
    assert account.ledger.balance == 3
    assert isinstance(Account.ledger, ManagedState)


def test_the_class_of_a_state_may_be_local_or_defined_later() -> None:
    class Local(State):
        x: int = 0

    class Room(ServiceObject):
        local: Local = managed_state()
        later: Afterwards = managed_state()

    assert [field.state_type for field in managed_states_of(Room)] == [Local, Afterwards]


class Afterwards(State):
    x: int = 0


def made(annotation: Any, **keywords: Any) -> type[ServiceObject]:
    annotations = {} if annotation is None else {"field": annotation}
    namespace = {
        "field": managed_state(**keywords),
        "__annotations__": annotations,
        "__module__": __name__,
    }
    return type("Room", (ServiceObject,), namespace)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (None, r"it has no annotation: write field: YourState = rio\.managed_state\(\)"),
        (NotState, r"annotated NotState: annotate it with a subclass of rio\.State"),
        (State, "annotate it with a subclass"),
        (dict[str, int], "annotate it with a subclass"),
        (Ledger | None, "annotate it with a subclass"),
        ("int", "annotated int"),
        (Needy, "Needy cannot start empty: give a default to first, second"),
        (NeedyKeywords, "give a default to second"),
        ("1 +", "its annotation is not a type"),
    ],
)
def test_a_field_that_cannot_be_state_is_refused_when_the_class_is_made(
    annotation: Any, text: str
) -> None:
    with pytest.raises(
        BadRegistration, match=rf"managed state .*test_managed_state\.Room\.field: .*{text}"
    ):
        made(annotation)


def test_a_state_without_its_parentheses_is_refused() -> None:
    with pytest.raises(BadRegistration, match=r"Room\.ledger: write .*, with the parentheses"):

        class Room(ServiceObject):
            ledger: Ledger = managed_state  # type: ignore[assignment]


@pytest.mark.parametrize("name", ["", "x" * 129, 3])
def test_a_state_name_must_fit_every_storage(name: Any) -> None:
    with pytest.raises(BadRegistration, match="the state's name"):
        made(Ledger, name=name)


def test_a_state_that_cannot_travel_is_refused() -> None:
    with pytest.raises(
        BadRegistration, match=r"Room.*Opaque is not a type that MessagePack can carry"
    ):
        managed_states_of(made(Heavy))


def test_an_annotation_that_is_never_defined_is_refused_at_registration() -> None:
    cls = made("Nowhere")
    with pytest.raises(BadRegistration, match=r"managed state of .*Room.*'Nowhere' is not defined"):
        managed_states_of(cls)


def test_two_states_with_one_name_are_refused_by_both_names() -> None:
    class Room(ServiceObject):
        first: Ledger = managed_state()
        second: Ledger = managed_state(name="first")

    with pytest.raises(
        BadRegistration,
        match=r"Room: managed states 'first' and 'second' would both be stored as 'first'",
    ):
        managed_states_of(Room)


def test_a_state_cannot_have_a_name_that_the_object_needs() -> None:
    with pytest.raises(BadRegistration, match=r"Room\.token: 'token' is taken"):

        class Room(ServiceObject):
            token: Ledger = managed_state()  # type: ignore[assignment]
