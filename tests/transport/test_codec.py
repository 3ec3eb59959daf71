"""The codec: values to bytes and back, and what is refused on the way."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rio.errors import (
    BadMessage,
    BadReply,
    StateCorrupt,
)
from rio.objects.application_error import ApplicationError
from rio.objects.message import (
    DynamicMessage,
    Message,
    encode_message,
)
from rio.objects.state import State
from rio.transport.codec import (
    check_serialisable,
    decode,
    decode_dynamic,
    decoder_of,
    decoding_error,
    encode,
    encode_dynamic,
    encoding_error,
)


class Balance(Message):
    amount: int


class Deposit(Message[Balance], type_name="bank.Deposit"):
    amount: int
    note: str = ""


@dataclass
class Part:
    number: int


class Overdrawn(ApplicationError, type_name="test_codec.Overdrawn"):
    missing: int


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
        str(encoding_error(TypeError("odd"), failure=BadMessage))
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
        BadMessage, match=r"test_codec\.Deposit: Expected `int`, got `str` - at `\$\.amount`"
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
        str(decoding_error(MemoryError(), int))
        == "the payload does not decode into int: MemoryError"
    )
    assert isinstance(decoding_error(ValueError("x"), Any, BadReply), BadReply)


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
    [Opaque, list[Opaque], Carrier, Overdrawn, Opaque | None, Deposit | Balance, complex],
)
def test_types_that_cannot_travel_are_refused(wanted: Any) -> None:
    with pytest.raises(TypeError):
        check_serialisable(wanted)
