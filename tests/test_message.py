"""Messages, application errors and the codec."""

from __future__ import annotations

import copy
import decimal
import gc
import pickle
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, TypeVar

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rio.errors import (
    BadIdentity,
    BadMessage,
    BadReply,
    CallFailed,
    RegistrationError,
    StateCorrupt,
    UnknownError,
)
from rio.identity import type_name_of
from rio.objects.application_error import ApplicationError, UnknownApplicationError
from rio.objects.managed_state import State
from rio.objects.message import (
    NO_REPLY_DECLARED,
    DynamicMessage,
    Message,
    encode_message,
    reply_type_of,
)
from rio.transport.codec import (
    check_serialisable,
    decode,
    decode_dynamic,
    decode_error,
    decoder_of,
    encode,
    encode_dynamic,
    encode_error,
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


# --- messages -------------------------------------------------------------------------------------


def test_a_message_is_made_by_position_and_by_keyword_and_compares_by_its_fields() -> None:
    assert Deposit(1) == Deposit(amount=1, note="") != Deposit(2)
    assert repr(Deposit(1, "x")) == "Deposit(amount=1, note='x')"


def test_a_message_is_a_map_on_the_wire() -> None:
    assert msgpack.unpackb(encode(Deposit(1, "x"))) == {"amount": 1, "note": "x"}
    with pytest.raises(RegistrationError, match=r"Listed.*array_like"):
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
    with pytest.raises(BadIdentity, match="type name of message Bad"):
        type(Message)("Bad", (Message,), {}, type_name=name)
    with pytest.raises(BadIdentity, match="type name of error Bad"):
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


# --- application errors ---------------------------------------------------------------------------


class InsufficientFunds(ApplicationError, type_name="test_message.InsufficientFunds"):
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
    return ApplicationError.from_wire(decode_dynamic(encode(error.detail)))


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
    error = ApplicationError.from_wire(["elsewhere.Odd", {"x": 1}])
    assert isinstance(error, UnknownApplicationError)
    assert (error.type_name, error.fields) == ("elsewhere.Odd", {"x": 1})
    assert "elsewhere.Odd" in str(error)


def test_an_error_of_unknown_class_travels_on_as_what_it_was() -> None:
    wire = InsufficientFunds(3).detail
    relayed = UnknownApplicationError(*wire)
    assert over_the_wire(relayed) == InsufficientFunds(3)


def test_fields_that_do_not_fit_are_kept_with_the_reason() -> None:
    error = ApplicationError.from_wire(["test_message.InsufficientFunds", {"missing": "much"}])
    assert isinstance(error, UnknownApplicationError)
    assert error.fields == {"missing": "much"}
    assert "Expected `int`, got `str` - at `$.missing`" in str(error)


def test_an_error_may_gain_a_field_with_a_default_and_lose_one() -> None:
    assert ApplicationError.from_wire(
        ["test_message.InsufficientFunds", {"missing": 1, "gone": 2}]
    ) == InsufficientFunds(1)


@pytest.mark.parametrize("detail", [None, [], ["x"], [1, {}], "text", {"a": 1}])
def test_a_detail_of_another_form_is_an_unknown_error(detail: Any) -> None:
    error = ApplicationError.from_wire(detail)
    assert isinstance(error, UnknownError)
    assert error.detail == ["application_error", detail]


def test_two_error_classes_with_one_name_are_refused_by_both_names() -> None:
    with pytest.raises(
        RegistrationError,
        match=r"test_message\.Plain and .*test_message\..*Other would both .*type_name=",
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
    assert type(ApplicationError.from_wire(["Again", {}])) is second


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
    assert type(ApplicationError.from_wire(["Mortal", {}])) is Mortal


@pytest.mark.parametrize("name", ["code", "detail", "args", "add_note", "from_wire", "__secret__"])
def test_a_field_with_a_name_that_exceptions_need_is_refused(name: str) -> None:
    with pytest.raises(RegistrationError, match=f"field cannot be called '{name}'"):
        type(
            "Clashing",
            (ApplicationError,),
            {"__annotations__": {name: str}, "__module__": __name__},
        )


def test_an_error_field_that_cannot_travel_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(
        RegistrationError,
        match=r"Heavy cannot travel.*object is not a type|Heavy cannot travel: .*Opaque",
    ):

        class Heavy(ApplicationError):
            value: Opaque


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


# --- the codec ------------------------------------------------------------------------------------


class Opaque:
    pass


class Settings(State):
    size: int = 0


def test_state_travels_as_a_map() -> None:
    assert msgpack.unpackb(encode(Settings(3))) == {"size": 3}
    assert decode(encode({}), Settings) == Settings()


@pytest.mark.parametrize("value", [Opaque(), [Opaque()], 2**70, "\ud800"])
def test_a_reply_that_cannot_be_encoded_is_a_bad_reply_that_names_its_type(value: Any) -> None:
    with pytest.raises(BadReply, match=type(value).__name__):
        encode(value)


@pytest.mark.parametrize(
    "message", [DynamicMessage("a", Opaque()), DynamicMessage("a", 2**70), Balance(2**70)]
)
def test_a_message_that_cannot_be_encoded_is_a_bad_message(message: Any) -> None:
    with pytest.raises(BadMessage):
        encode_message(message)


def test_the_text_of_an_encode_error_does_without_the_value() -> None:
    assert (
        str(encode_error(TypeError("odd"), failure=BadMessage))
        == "a value cannot be encoded as MessagePack: TypeError: odd"
    )


def test_a_value_that_contains_itself_is_an_error() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for encoder in (encode, encode_dynamic):
        with pytest.raises((BadReply, BadMessage), match=r"nested too deeply|recursion"):
            encoder(endless)


def test_a_field_that_does_not_fit_is_named_with_its_path() -> None:
    with pytest.raises(
        BadMessage, match=r"test_message\.Deposit: Expected `int`, got `str` - at `\$\.amount`"
    ):
        decode(encode({"amount": "one"}), Deposit)
    with pytest.raises(StateCorrupt, match="missing required field `amount`"):
        decode(encode({}), Deposit, failure=StateCorrupt)


DEEP = b"\x91" * 100_000 + b"\xc0"


@pytest.mark.parametrize("wanted", [Any, Deposit, list[Any], object])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x81",
        DEEP,
        encode(1) + b"\x00",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xa1\xff",
        b"\x81\x90\x01",
    ],
)
def test_bytes_that_do_not_decode_are_a_bad_message(data: bytes, wanted: Any) -> None:
    with pytest.raises(BadMessage, match="does not decode into"):
        decode(data, wanted)


@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_but_a_bad_message(data: bytes) -> None:
    for wanted in (Any, Deposit, dict[str, int]):
        try:
            decode(data, wanted)
        except BadMessage:
            continue


def test_a_failure_of_any_kind_gets_a_text() -> None:
    assert (
        str(decode_error(MemoryError(), int)) == "the payload does not decode into int: MemoryError"
    )
    assert isinstance(decode_error(ValueError("x"), Any, BadReply), BadReply)


def test_a_decoder_is_made_once() -> None:
    assert decoder_of(list[int]) is decoder_of(list[int])
    assert decoder_of(Any) is decoder_of(object)


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(UTC), min_value=datetime(1971, 1, 1)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
    max_leaves=10,
)


@given(plain_values)
def test_a_plain_value_survives_both_codecs(value: Any) -> None:
    assert decode_dynamic(encode_dynamic(value)) == value
    assert decode_dynamic(encode(value)) == value


def test_a_dynamic_value_may_hold_what_msgspec_knows() -> None:
    value = {
        "deposit": Deposit(1),
        "part": Part(2),
        "key": uuid.UUID(int=1),
        "kinds": {"a"},
        "nested": [Balance(3)],
    }
    assert decode_dynamic(encode_dynamic(value)) == {
        "deposit": {"amount": 1, "note": ""},
        "part": {"number": 2},
        "key": str(uuid.UUID(int=1)),
        "kinds": ["a"],
        "nested": [{"amount": 3}],
    }


def test_a_dynamic_message_decodes_into_the_class_of_its_name() -> None:
    assert decode(
        encode_message(DynamicMessage("bank.Deposit", {"amount": 1})), Deposit
    ) == Deposit(1)


class Node(msgspec.Struct):
    value: int
    children: list[Node] = []


class Carrier(msgspec.Struct):
    inner: dict[str, Opaque]


@pytest.mark.parametrize(
    "wanted",
    [
        Any,
        object,
        None,
        int,
        Deposit,
        Node,
        list[Part],
        dict[int, Settings],
        int | None,
        set[str],
        datetime,
    ],
)
def test_types_that_can_travel_are_accepted(wanted: Any) -> None:
    check_serialisable(wanted)


@pytest.mark.parametrize(
    "wanted",
    [Opaque, list[Opaque], Carrier, InsufficientFunds, Opaque | None, Deposit | Balance, complex],
)
def test_types_that_cannot_travel_are_refused(wanted: Any) -> None:
    with pytest.raises(TypeError):
        check_serialisable(wanted)
