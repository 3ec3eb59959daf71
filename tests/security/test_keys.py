"""Keys, what their holders may do, and the proofs that they are held."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rio
from rio.errors import ConfigurationError
from rio.security.keys import Rights
from rio.security.proof import Proofs


def make_key(**fields: Any) -> rio.Key:
    return rio.Key(**{"id": "web", "role": "call", "secret": b"x" * 32, **fields})


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"id": ""}, "the id of a key is a text of 1 to 128 printable characters"),
        ({"id": "a\nb"}, "printable"),
        ({"id": 5}, "the id of a key is a text"),
        ({"role": "root"}, "a role is one of node, admin, call, observe"),
        ({"secret": b"short"}, "fewer than 16"),
        ({"secret": "x" * 32}, "is not bytes"),
        ({"allow": "Account.*"}, "allow of key 'web' is a list of patterns"),
        ({"allow": (5,)}, "allow of key 'web' is a list of patterns"),
    ],
)
def test_a_key_that_cannot_be_used_says_why(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make_key(**fields)


def test_a_key_never_shows_its_secret() -> None:
    key = make_key(secret=b"the secret itself")
    for shown in (
        repr(key),
        str(key),
        str(key.__rich_repr__()),
        repr(rio.Security([key], encryption="none")),
    ):
        assert "secret" not in shown


@pytest.mark.parametrize(
    ("role", "allow", "allowed", "refused"),
    [
        ("call", ("*",), ["A.Ping", "A.rio.subscribe"], ["A.rio.shutdown", "A.rio.publish"]),
        ("call", ("A.*", "B.Ping"), ["A.Ping", "B.Ping"], ["B.Pong", "AB.Ping", "B.Pingu"]),
        ("call", ("A.B*",), ["A.B", "A.Big"], ["A.b", "A.AB"]),
        ("call", ("A.[x]",), ["A.[x]"], ["A.x"]),
        ("call", (), [], ["A.Ping"]),
        ("observe", ("*",), ["A.rio.subscribe"], ["A.Ping", "A.rio.shutdown"]),
        ("observe", ("A.*",), ["A.rio.subscribe"], ["B.rio.subscribe"]),
    ],
)
def test_patterns_say_what_a_key_may_send(
    role: Any, allow: tuple[str, ...], allowed: list[str], refused: list[str]
) -> None:
    rights = Rights(make_key(role=role, allow=allow))
    for name in [*allowed, *refused]:
        assert rights.allows(*name.split(".", 1)) == (name in allowed), name


@pytest.mark.parametrize(
    ("fields", "is_narrower"),
    [
        ({}, False),
        ({"allow": ("A.*", "B.*")}, False),
        ({"allow": ("*",)}, False),
        ({"allow": ("A.B",)}, True),
        ({"allow": ("B.*",)}, True),
        ({"role": "observe", "allow": ("A.*",)}, True),
        ({"secret": b"y" * 32, "allow": ("A.*",)}, True),
    ],
)
def test_a_key_is_narrower_if_its_holder_must_not_do_all_that_it_did(
    fields: dict[str, Any], is_narrower: bool
) -> None:
    before = make_key(allow=("A.*",))
    assert make_key(**{"allow": ("A.*",), **fields}).is_narrower_than(before) == is_narrower


parts = st.tuples(st.binary(max_size=8), st.binary(max_size=8), st.binary(max_size=4))


@given(parts, parts)
def test_a_proof_belongs_to_one_conversation_and_one_side(
    said: tuple[bytes, bytes, bytes], other: tuple[bytes, bytes, bytes]
) -> None:
    proofs, others = Proofs(*said, b"x" * 32), Proofs(*other, b"x" * 32)
    assert proofs.is_of("client", proofs.of("client"))
    assert not proofs.is_of("server", proofs.of("client"))
    assert not proofs.is_of("client", Proofs(*said, b"y" * 32).of("client"))
    assert proofs.is_of("client", others.of("client")) == (said == other)
