"""Messages: their fields, their type names, and the reply that they declare."""

from __future__ import annotations

import copy
import pickle
from typing import Any, Generic, TypeVar

import msgpack
import pytest

from rio.errors import (
    BadIdentity,
    BadMessage,
    BadRegistration,
)
from rio.identity import type_name_of
from rio.objects.application_error import ApplicationError
from rio.objects.message import (
    NO_REPLY_DECLARED,
    DynamicMessage,
    Message,
    check,
    encode_event,
    reply_type_of,
)
from rio.transport.codec import (
    decode,
    encode,
)

R = TypeVar("R")
Q = TypeVar("Q")


class Balance(Message):
    amount: int


class Deposit(Message[Balance], type_name="bank.Deposit", idempotent=True):
    amount: int
    note: str = ""


class Early(Message["Late"]):
    pass


class EarlyList(Message[list["Late"]]):
    pass


class Late(Message):
    pass


class Lost(Message["Nowhere"]):  # type: ignore[name-defined]
    pass


class Query(Message[R], Generic[R]):
    text: str = ""


class Page(Query[list[R]], Generic[R, Q]):
    pass


class Names(Page[str, int]):
    pass


class RawQuery(Query):
    pass


def test_a_message_is_made_by_position_and_by_keyword_and_compares_by_its_fields() -> None:
    assert Deposit(1) == Deposit(amount=1, note="") != Deposit(2)
    assert repr(Deposit(1, "x")) == "Deposit(amount=1, note='x')"


def test_a_message_is_a_map_on_the_wire() -> None:
    assert msgpack.unpackb(encode(Deposit(1, "x"))) == {"amount": 1, "note": "x"}
    with pytest.raises(BadRegistration, match=r"Listed.*array_like"):
        type(Message)("Listed", (Message,), {}, array_like=True)


def test_a_message_may_gain_a_field_with_a_default_and_lose_one() -> None:
    assert decode(encode({"amount": 1}), Deposit) == Deposit(1)
    assert decode(encode({"amount": 1, "gone": True}), Deposit) == Deposit(1)


def test_a_type_name_is_the_class_name_unless_the_class_says_otherwise_and_is_not_inherited() -> (
    None
):
    class Child(Deposit):
        pass

    assert [type_name_of(cls) for cls in (Balance, Deposit, Child)] == [
        "Balance",
        "bank.Deposit",
        "Child",
    ]


@pytest.mark.parametrize("name", ["", "x" * 129, 7])
def test_a_type_name_that_does_not_fit_the_wire_is_refused(name: Any) -> None:
    with pytest.raises(BadRegistration, match="type name of message Bad"):
        type(Message)("Bad", (Message,), {}, type_name=name)
    with pytest.raises(BadRegistration, match="type name of error Bad"):
        type("Bad", (ApplicationError,), {}, type_name=name)
    with pytest.raises(BadIdentity):
        DynamicMessage(name, 1)


def test_idempotent_and_readonly_are_inherited_and_can_be_taken_back() -> None:
    class Child(Deposit):
        pass

    class Careful(Deposit, idempotent=False, readonly=True):
        pass

    flags = [
        (cls.__rio_idempotent__, cls.__rio_readonly__) for cls in (Balance, Deposit, Child, Careful)
    ]
    assert flags == [(False, False), (True, False), (True, False), (False, True)]


def test_the_keywords_of_a_class_never_meet_its_fields() -> None:
    class Clash(Message, type_name="x.Clash", idempotent=True):
        type_name: str
        idempotent: bool
        readonly: bool

    assert decode(encode(Clash("a", False, True)), Clash) == Clash("a", False, True)


def test_the_keywords_of_msgspec_work() -> None:
    class Options(Message[None], frozen=True, kw_only=True, rename="camel", type_name="x.Options"):
        max_size: int = 3

    assert hash(Options(max_size=3)) == hash(Options())
    assert msgpack.unpackb(encode(Options())) == {"maxSize": 3}
    with pytest.raises(TypeError):
        Options(3)  # type: ignore[misc]


def test_a_message_can_be_copied_and_pickled() -> None:
    assert copy.deepcopy(Deposit(1)) == pickle.loads(pickle.dumps(Deposit(1))) == Deposit(1)  # noqa: S301


@pytest.mark.parametrize(
    ("message_type", "reply_type"),
    [
        (Message, NO_REPLY_DECLARED),
        (Balance, NO_REPLY_DECLARED),
        (Deposit, Balance),
        (Early, Late),
        (EarlyList, list[Late]),
        (Query, NO_REPLY_DECLARED),
        (RawQuery, NO_REPLY_DECLARED),
        (Page, NO_REPLY_DECLARED),
        (Names, list[str]),
    ],
)
def test_the_reply_is_what_the_message_declares(
    message_type: type[Message[Any]], reply_type: Any
) -> None:
    assert reply_type_of(message_type) == reply_type


def test_the_reply_is_inherited_and_can_be_none() -> None:
    class Done(Message[None]):
        pass

    class Child(Deposit):
        pass

    assert reply_type_of(Done) is type(None)
    assert reply_type_of(Child) is Balance


def test_a_reply_that_is_local_to_a_function_is_found() -> None:
    class Answer(Message):
        pass

    class Question(Message["Answer"]):
        pass

    assert reply_type_of(Question) is Answer


def test_a_reply_that_does_not_exist_is_a_name_error_when_it_is_asked_for() -> None:
    with pytest.raises(NameError, match="Nowhere"):
        reply_type_of(Lost)


def test_a_dynamic_message_compares_by_its_name_and_value() -> None:
    assert DynamicMessage("a.B", [1]) == DynamicMessage("a.B", [1]) != DynamicMessage("a.B")


@pytest.mark.parametrize("event", [{"a": 1}, DynamicMessage("a.B"), Balance])
def test_what_is_no_message_is_no_event(event: Any) -> None:
    with pytest.raises(TypeError, match=r"an event is a rio\.Message"):
        encode_event(event)


class Line(Message):
    amounts: list[int]


class Order(Message[None], type_name="shop.Order"):
    lines: list[Line]
    note: Any = None


@pytest.mark.parametrize("message", [Deposit(1), Names("ada"), Order([Line([1])], {"a": [1]})])
def test_a_message_that_arrives_as_it_is_passes_the_check(message: Any) -> None:
    assert check(message) is message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            Deposit("much"),
            r"the message .*test_message\.Deposit\.amount: Expected `int`, got `str`",
        ),
        (Order([Line([1]), Line([2, "3"])]), r"Order\.lines\[1\]\.amounts\[1\]: Expected `int`"),
        (Order([{"amounts": [1]}]), r"Order\.lines\[0\]: a dict would be read as a Line"),
        (Order([], note={1}), r"Order\.note: a set would be read as a list"),
        (Order([], note=object()), r"Order\.note: .*object"),
        (DynamicMessage("shop.Order", {"note": object()}), r"object"),
    ],
)
def test_a_check_names_the_field_that_the_server_would_refuse(message: Any, text: str) -> None:
    with pytest.raises(BadMessage, match=text):
        check(message)


def test_only_messages_can_be_checked() -> None:
    value: Any = {"amount": 1}
    with pytest.raises(TypeError, match=r"check\(\) takes a rio\.Message or .*got \{'amount': 1\}"):
        check(value)
