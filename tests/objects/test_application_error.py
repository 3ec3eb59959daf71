"""Application errors: they arrive as the class and with the fields that were raised."""

from __future__ import annotations

import asyncio
import copy
import decimal
import gc
import pickle
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import pytest

from rio.errors import (
    BadRegistration,
    CallFailed,
    UnknownCode,
)
from rio.identity import type_name_of
from rio.objects.application_error import (
    ApplicationError,
    UnknownApplicationError,
    decode_application_error,
)
from rio.transport.codec import (
    decode_dynamic,
    encode,
)


class Opaque:
    pass


class InsufficientFunds(ApplicationError, type_name="test_application_error.InsufficientFunds"):
    missing: int
    currency: str = "EUR"


class Refused(ApplicationError):
    message: str
    codes: list[int] = msgspec.field(default_factory=list)
    limit: ClassVar[int] = 3


class RefusedForEver(Refused):
    since: datetime = datetime(2026, 1, 1, tzinfo=UTC)


class Plain(ApplicationError):
    pass


@dataclass
class Part:
    number: int


class Rich(ApplicationError):
    part: Part
    key: uuid.UUID
    data: bytes
    price: decimal.Decimal
    by_number: dict[int, str]
    kinds: set[str]
    later: Afterwards | None = None


class Afterwards(msgspec.Struct):
    x: int


RICH = Rich(
    Part(1),
    uuid.UUID(int=7),
    b"\x00\xff",
    decimal.Decimal("1.50"),
    {1: "one"},
    {"a"},
    Afterwards(3),
)


def over_the_wire(error: ApplicationError) -> Any:
    return decode_application_error(decode_dynamic(encode(error.detail)))


def test_an_application_error_has_its_fields_as_attributes() -> None:
    error = InsufficientFunds(3)
    assert (error.missing, error.currency) == (3, "EUR")
    assert error == InsufficientFunds(missing=3, currency="EUR") != InsufficientFunds(4)
    assert repr(error) == "InsufficientFunds(missing=3, currency='EUR')"
    assert str(error) == "missing=3, currency='EUR'"
    assert isinstance(error, CallFailed)


def test_an_error_without_fields_is_named_in_its_message() -> None:
    assert (repr(Plain()), str(Plain()), Plain().message) == ("Plain()", "", "Plain")


def test_a_field_called_message_is_the_text_of_the_error() -> None:
    error = Refused("not today", codes=[1])
    assert (error.message, str(error), str(Refused("no"))) == (
        "not today",
        "not today (codes=[1])",
        "no (codes=[])",
    )


def test_a_default_that_is_made_anew_is_not_shared() -> None:
    Refused("a").codes.append(1)
    assert Refused("b").codes == []


def test_a_subclass_has_the_fields_of_its_base_first() -> None:
    error = RefusedForEver("no", [1], since=datetime(2020, 1, 1, tzinfo=UTC))
    assert over_the_wire(error) == error
    assert isinstance(error, Refused)


@pytest.mark.parametrize("arguments", [{}, {"missing": 1, "other": 2}])
def test_wrong_arguments_are_a_type_error(arguments: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        InsufficientFunds(**arguments)


def test_the_base_class_itself_cannot_be_raised() -> None:
    with pytest.raises(TypeError, match="subclass"):
        ApplicationError("text")  # type: ignore[call-arg]


@pytest.mark.parametrize("error", [InsufficientFunds(3), Refused("no"), Plain(), RICH])
def test_an_application_error_arrives_as_the_same_class_with_its_fields(
    error: ApplicationError,
) -> None:
    arrived = over_the_wire(error)
    assert type(arrived) is type(error)
    assert arrived == error
    assert error.detail[0] == type_name_of(type(error))


def test_what_is_sent_are_the_fields_as_they_are_then() -> None:
    error = InsufficientFunds(3)
    error.missing = 4
    assert over_the_wire(error).missing == 4


@pytest.mark.parametrize(
    "error", [InsufficientFunds(3), Refused("no"), RICH, UnknownApplicationError("a.B", {"x": 1})]
)
def test_an_application_error_can_be_pickled_and_copied(error: ApplicationError) -> None:
    error.add_note("seen")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert type(twin) is type(error)
        assert twin == error
        assert twin.__notes__ == ["seen"]


def test_equal_errors_have_equal_hashes() -> None:
    assert hash(InsufficientFunds(3)) == hash(InsufficientFunds(3))


def test_an_error_of_unknown_class_keeps_its_name_and_fields() -> None:
    error = decode_application_error(["elsewhere.Odd", {"x": 1}])
    assert isinstance(error, UnknownApplicationError)
    assert (error.type_name, error.fields) == ("elsewhere.Odd", {"x": 1})
    assert "elsewhere.Odd" in str(error)


def test_an_error_of_unknown_class_travels_on_as_what_it_was() -> None:
    wire = InsufficientFunds(3).detail
    relayed = UnknownApplicationError(*wire)
    assert over_the_wire(relayed) == InsufficientFunds(3)


def test_fields_that_do_not_fit_are_kept_with_the_reason() -> None:
    error = decode_application_error(
        ["test_application_error.InsufficientFunds", {"missing": "much"}]
    )
    assert isinstance(error, UnknownApplicationError)
    assert error.fields == {"missing": "much"}
    assert "Expected `int`, got `str` - at `$.missing`" in str(error)


def test_an_error_may_gain_a_field_with_a_default_and_lose_one() -> None:
    assert decode_application_error(
        ["test_application_error.InsufficientFunds", {"missing": 1, "gone": 2}]
    ) == InsufficientFunds(1)


@pytest.mark.parametrize("detail", [None, [], ["x"], [1, {}], "text", {"a": 1}])
def test_a_detail_of_another_form_is_an_unknown_error(detail: Any) -> None:
    error = decode_application_error(detail)
    assert isinstance(error, UnknownCode)
    assert error.detail == ["application_error", detail]


def test_two_error_classes_with_one_name_are_refused_by_both_names() -> None:
    with pytest.raises(
        BadRegistration,
        match=r"test_application_error\.Plain and .*test_application_error\..*Other"
        r" have one type name, .*type_name=",
    ):

        class Other(ApplicationError, type_name="Plain"):
            pass


def test_an_error_class_that_is_made_again_replaces_itself() -> None:
    def made(default: int) -> type[ApplicationError]:
        class Again(ApplicationError):
            value: int = default

        return Again

    first = made(1)
    second = made(2)
    assert first is not second
    assert type(decode_application_error(["Again", {}])) is second


def test_the_name_of_a_dead_error_class_is_free() -> None:
    def make() -> None:
        class Mortal(ApplicationError):
            pass

    make()
    gc.disable()
    try:

        class Mortal(ApplicationError):
            pass

    finally:
        gc.enable()
    assert type(decode_application_error(["Mortal", {}])) is Mortal


@pytest.mark.parametrize("name", ["code", "detail", "args", "add_note", "__secret__"])
def test_a_field_with_a_name_that_exceptions_need_is_refused(name: str) -> None:
    with pytest.raises(BadRegistration, match=f"field cannot be called '{name}'"):
        type(
            "Clashing",
            (ApplicationError,),
            {"__annotations__": {name: str}, "__module__": __name__},
        )


def test_an_error_field_that_cannot_travel_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(
        BadRegistration,
        match=r"Heavy cannot travel.*object is not a type|Heavy cannot travel: .*Opaque",
    ):

        class Heavy(ApplicationError):
            value: Opaque


@pytest.mark.parametrize("missing", ["3", 2.5, True, None], ids=repr)
def test_fields_that_the_caller_would_read_as_something_else_cannot_travel(missing: Any) -> None:
    with pytest.raises(
        TypeError, match=r"InsufficientFunds cannot travel: \.missing: Expected `int`, got"
    ):
        _ = InsufficientFunds(missing).detail


def test_a_value_that_cannot_travel_is_an_error_that_names_the_class() -> None:
    class Loose(ApplicationError):
        value: Any

    with pytest.raises(TypeError, match=r"Loose cannot travel: .*Opaque"):
        _ = Loose(Opaque()).detail


def test_an_error_may_be_an_exception_of_another_kind_too() -> None:
    class Missing(ApplicationError, KeyError):
        key: str

    assert isinstance(over_the_wire(Missing("k")), KeyError)
    assert str(Missing("k")) == "key='k'"


class Unreadable(msgspec.Struct):
    n: int
    raised: ClassVar[type[BaseException]] = KeyError

    def __post_init__(self) -> None:
        raise self.raised("no")


class Spoilt(ApplicationError, type_name="test_application_error.Spoilt"):
    part: Unreadable


@pytest.mark.parametrize("error", [KeyError, asyncio.CancelledError, SystemExit])
def test_an_error_whose_field_raises_anything_while_it_is_read_is_an_unknown_one(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unreadable, "raised", error)
    arrived = decode_application_error(["test_application_error.Spoilt", {"part": {"n": 1}}])
    assert isinstance(arrived, UnknownApplicationError)
    assert error.__name__ in arrived.reason
