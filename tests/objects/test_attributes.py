"""Attributes of a class that would hide a handler, or be shared by all objects, are refused."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from rio.errors import BadRegistration
from rio.objects.handler import handler
from rio.objects.managed_state import managed_state
from rio.objects.message import Message
from rio.objects.service_object import ServiceObject
from rio.objects.state import State


class Ask(Message[int]):
    pass


class Ledger(State):
    balance: int = 0


class FrozenLedger(State, frozen=True):
    balance: int = 0


@dataclasses.dataclass
class Limits:
    most: int = 3


@dataclasses.dataclass(frozen=True)
class FrozenLimits:
    most: int = 3


# --- decorators above @rio.handler ----------------------------------------------------------------


def wraps_it(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(self: Any, message: Any) -> Any:
        return await function.__get__(self)(message)

    return wrapper


def hides_it(function: Any) -> Any:
    async def wrapper(self: Any, message: Any) -> Any:
        return await function.__get__(self)(message)

    return wrapper


class KeepsIt:
    def __init__(self, function: Any) -> None:
        self.wrapped = function


COVERS: list[Callable[[Any], Any]] = [
    wraps_it,
    hides_it,
    KeepsIt,
    property,
    staticmethod,
    classmethod,
    functools.cached_property,
    functools.partialmethod,
    contextlib.contextmanager,
    lambda function: wraps_it(wraps_it(function)),
    lambda function: property(hides_it(function)),
]


@pytest.mark.parametrize("decorate", COVERS)
def test_a_decorator_above_a_handler_is_refused(decorate: Callable[[Any], Any]) -> None:
    with pytest.raises(BadRegistration, match=r"Account\.ask: .* covers .*@rio.handler above all"):

        class Account(ServiceObject):
            @decorate
            @handler
            def ask(self, message: Ask) -> int:
                return 1


def test_a_decorator_below_a_handler_keeps_it() -> None:
    class Account(ServiceObject):
        @handler
        @wraps_it
        async def ask(self, message: Ask) -> int:
            return 1

        other = functools.partialmethod(wraps_it)

    assert list(Account.__rio_handlers__) == ["ask"]


def test_an_attribute_may_mention_a_handler_that_the_class_has() -> None:
    class Account(ServiceObject):
        @handler
        def ask(self, message: Ask) -> int:
            return 1

        tried = KeepsIt(ask)
        again = ask

    assert list(Account.__rio_handlers__) == ["ask", "again"]


# --- data that all objects would share ------------------------------------------------------------

SHARED: list[Any] = [
    [],
    {},
    set(),
    bytearray(),
    collections.deque(),
    collections.defaultdict(list),
    ([],),
    Limits(),
    (Limits(),),
]


@pytest.mark.parametrize("value", SHARED)
def test_an_attribute_that_all_objects_would_share_and_that_can_change_is_refused(
    value: Any,
) -> None:
    with pytest.raises(BadRegistration, match=r"Account\.items would be shared .* __init__"):
        type("Account", (ServiceObject,), {"items": value})


@pytest.mark.parametrize("value", [Ledger(), FrozenLedger()])
def test_a_state_as_a_plain_attribute_is_refused_with_what_to_write(value: State) -> None:
    kind = type(value).__name__
    with pytest.raises(BadRegistration, match=rf"ledger: {kind} = rio\.managed_state\(\)"):
        type("Account", (ServiceObject,), {"ledger": value})


def test_attributes_that_are_meant_to_be_shared_or_cannot_change_are_taken() -> None:
    class Account(ServiceObject):
        __slots__ = ()
        prices: ClassVar[dict[str, int]] = {}
        names = ("a", "b")
        limits = FrozenLimits()
        log = logging.getLogger("account")
        ledger: Ledger = managed_state()
        unset: list[int]

    assert Account.prices == {}


def test_a_mixin_that_would_share_is_refused_too() -> None:
    class Basket:
        items: list[int] = []  # noqa: RUF012

    with pytest.raises(BadRegistration, match=r"Basket\.items would be shared"):

        class Account(Basket, ServiceObject):
            pass


def test_a_class_may_say_that_it_means_to_share_what_a_mixin_brings() -> None:
    class Basket:
        items: list[int] = []  # noqa: RUF012

    class Account(Basket, ServiceObject):
        items: ClassVar[list[int]] = []

    assert Account.items == []
