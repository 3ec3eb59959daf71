"""``rio.upcast``: states of an older schema become those of the class, step by step."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rio.errors import BadRegistration, StateCorrupt, StateTooNew
from rio.objects.managed_state import managed_state
from rio.objects.registry import Registry
from rio.objects.service_object import ServiceObject
from rio.objects.state import State
from rio.objects.state_codec import StateCodec
from rio.objects.upcasters import upcast


class Ledger(State, schema=3):
    cents: int = 0
    owner: str = ""


@upcast(Ledger, 1)
def in_cents(old: dict[str, Any]) -> dict[str, Any]:
    old["cents"] = old.pop("euros") * 100
    return old


@upcast(Ledger, 2)
def with_owner(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "owner": f"owner of {old['cents']}"}


class First(State):
    x: int = 0


class Gap(State, schema=3):
    x: int = 0


@upcast(Gap, 2)
def from_2(old: dict[str, Any]) -> dict[str, Any]:
    return old


class Failing(State, schema=2):
    x: int = 0


@upcast(Failing, 1)
def fails(old: dict[str, Any]) -> Any:
    return old["result"] if old else 1 / 0


def stored(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    ("schema", "fields", "cents"),
    [
        (0, {"euros": 2}, 200),
        (1, {"euros": 2}, 200),
        (2, {"cents": 7}, 7),
        (3, {"cents": 7, "owner": "owner of 7"}, 7),
    ],
)
def test_a_state_of_each_older_schema_is_loaded(
    schema: int, fields: dict[str, Any], cents: int
) -> None:
    loaded = StateCodec(Ledger).decode(stored(**fields), schema)
    assert loaded.value == Ledger(cents, f"owner of {cents}")
    assert not loaded.kept


def test_a_field_that_an_upcaster_leaves_and_the_class_does_not_know_is_kept() -> None:
    loaded = StateCodec(Ledger).decode(stored(euros=2, limit=5), 1)
    assert {name: bytes(raw) for name, raw in loaded.kept.items()} == {"limit": b"\x05"}


@pytest.mark.parametrize(
    ("state_type", "schema", "known"), [(Ledger, 4, 3), (First, 2, 1), (First, 99, 1)]
)
def test_a_state_of_a_newer_schema_is_not_loaded(
    state_type: type[State], schema: int, known: int
) -> None:
    with pytest.raises(
        StateTooNew, match=rf"saved under schema {schema}, this node knows {known}$"
    ) as refused:
        StateCodec(state_type).decode(stored(x=1), schema)
    assert refused.value.detail == [schema, known]


def test_a_class_without_a_schema_counts_as_the_first() -> None:
    assert StateCodec(First).decode(stored(x=1), 1).value == First(1)


def test_a_gap_in_the_chain_is_refused_at_registration() -> None:
    class Keeper(ServiceObject):
        gap: Gap = managed_state()

    with pytest.raises(BadRegistration, match=r"Gap has schema 3 and no upcaster from 1: write"):
        Registry(Keeper)


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ({}, r"upcaster of .*Failing from schema 1 failed: ZeroDivisionError"),
        ({"result": [1]}, r"upcaster of .*Failing from schema 1 returned a list: return a dict"),
        ({"result": {"x": "y"}}, r"\$\.x"),
    ],
)
def test_a_state_that_an_upcaster_cannot_bring_to_the_class_is_corrupt(
    result: dict[str, Any], problem: str
) -> None:
    with pytest.raises(StateCorrupt, match=problem):
        StateCodec(Failing).decode(stored(**result), 1)


@pytest.mark.parametrize("schema", [0, 3, 4, -1, True, "1", None])
def test_an_upcaster_is_for_a_lower_schema_of_the_class(schema: Any) -> None:
    with pytest.raises(BadRegistration, match="has schema 3, and an upcaster is for a lower one"):
        upcast(Ledger, schema)


@pytest.mark.parametrize("state_type", [int, State(), msgspec.Struct, None])
def test_an_upcaster_is_for_a_state(state_type: Any) -> None:
    with pytest.raises(BadRegistration, match="takes a subclass of"):
        upcast(state_type, 1)


def test_a_schema_has_one_upcaster_that_is_an_ordinary_function() -> None:
    upcast(Ledger, 1)(in_cents)  # once more the same, as when a module is imported twice
    with pytest.raises(BadRegistration, match="two upcasters from schema 1"):
        upcast(Ledger, 1)(lambda old: old)

    async def slowly(old: dict[str, Any]) -> dict[str, Any]:
        return old

    with pytest.raises(BadRegistration, match="ordinary def"):
        upcast(Ledger, 2)(slowly)  # type: ignore[type-var]


@pytest.mark.parametrize("schema", [0, -1, 1.5, "2", True, 2**31])
def test_a_schema_is_a_number_from_1(schema: Any) -> None:
    with pytest.raises(BadRegistration, match="a schema is an int from 1, got"):

        class Bad(State, schema=schema):
            pass


def test_a_subclass_inherits_no_schema_and_no_upcasters() -> None:
    class Sub(Ledger):
        pass

    assert (Sub.__rio_schema__, Sub.__rio_upcasters__) == (0, {})


@pytest.mark.parametrize("keyword", ["array_like", "forbid_unknown_fields"])
def test_a_class_that_could_not_keep_the_fields_of_newer_code_is_refused(keyword: str) -> None:
    with pytest.raises(BadRegistration, match=f"leave out {keyword}=True"):
        type(State)("Bad", (State,), {}, **{keyword: True})
    base = type(msgspec.Struct)("Base", (msgspec.Struct,), {}, **{keyword: True})
    with pytest.raises(BadRegistration, match=f"leave out {keyword}=True"):
        type(State)("Bad", (State, base), {})
