"""No default that can change is shared: of states, messages, errors, and inside of them."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from rio.errors import BadRegistration
from rio.objects.application_error import ApplicationError
from rio.objects.handler import handler
from rio.objects.managed_state import managed_state, managed_states_of
from rio.objects.message import Message
from rio.objects.registry import Registry
from rio.objects.service_object import ServiceObject
from rio.objects.state import State


@dataclasses.dataclass
class Limits:
    most: int = 3


@dataclasses.dataclass(unsafe_hash=True)
class HashableLimits:
    most: int = 3


@dataclasses.dataclass(frozen=True)
class FrozenLimits:
    most: int = 3
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class HalfFrozen:
    names: list[str] = dataclasses.field(default_factory=list)


class FrozenStruct(msgspec.Struct, frozen=True):
    names: list[str] = []


class Colour(enum.Enum):
    RED = "red"


SHARED = [
    Limits(),
    HashableLimits(),
    HalfFrozen(),
    ([1],),
    (1, ({},)),
    (Limits(),),
    frozenset({HashableLimits()}),
    FrozenStruct(),
    FrozenStruct(["a"]),
]
UNSHARED = [
    *(None, 1, "a", b"a", (), (1, ("a",)), frozenset({1}), [], {}, set()),
    *(Colour.RED, Decimal(1), datetime(2026, 1, 1, tzinfo=UTC), FrozenLimits(), msgspec.UNSET),
    msgspec.field(default_factory=Limits),
]


def state(default: Any) -> type:
    class Ledger(State):
        limits: Any = default

    return Ledger


def message(default: Any) -> type:
    class Limit(Message[None]):
        limits: Any = default

    return Limit


def error(default: Any) -> type:
    class Exceeded(ApplicationError, type_name="test_defaults.Exceeded"):
        limits: Any = default

    return Exceeded


KINDS = pytest.mark.parametrize("make", [state, message, error], ids=lambda make: make.__name__)


@KINDS
@pytest.mark.parametrize("default", SHARED, ids=repr)
def test_a_default_that_all_would_share_and_that_can_change_is_refused(
    make: Any, default: Any
) -> None:
    with pytest.raises(
        BadRegistration,
        match=r"\.limits has a default that all objects would share, and its \w+ can change",
    ):
        make(default)


@KINDS
@pytest.mark.parametrize("default", UNSHARED, ids=lambda value: f"{value!r:.30}")
def test_a_default_that_cannot_change_or_is_made_anew_is_taken(make: Any, default: Any) -> None:
    first, second = make(default)(), make(default)()
    if isinstance(first.limits, (list, Limits)):
        assert first.limits is not second.limits


class Inner(msgspec.Struct):
    limits: Limits = Limits()


class Outer(State):
    inner: list[Inner] = msgspec.field(default_factory=list)


class Send(Message[None]):
    inner: Inner | None = None


class Ask(Message[Inner]):
    pass


def test_a_shared_default_inside_a_state_is_refused_when_its_object_is_registered() -> None:
    class Keeper(ServiceObject):
        outer: Outer = managed_state()

    with pytest.raises(BadRegistration, match=r"Keeper.*Inner\.limits has a default"):
        managed_states_of(Keeper)


@pytest.mark.parametrize("received", [Send, Ask])
def test_a_shared_default_inside_a_message_or_a_reply_is_refused(received: Any) -> None:
    async def take(self: Any, message: Any) -> Any: ...

    take.__annotations__ = {"message": received, "return": None if received is Send else Inner}
    with pytest.raises(BadRegistration, match=r"Inner\.limits has a default"):
        Registry(type("Keeper", (ServiceObject,), {"take": handler(take)}))


def test_a_shared_default_inside_an_application_error_is_refused() -> None:
    with pytest.raises(BadRegistration, match=r"Inner\.limits has a default"):

        class Failed(ApplicationError, type_name="test_defaults.Failed"):
            inner: Inner
