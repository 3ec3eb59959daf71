"""A state is saved if it will be loaded as it is; otherwise the field to blame is named."""

from __future__ import annotations

import dataclasses
import enum
import math
import uuid
from collections import Counter, OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

import msgspec
import pytest
from msgspec import Meta

from rio.errors import BadState, StateCorrupt, StateTooLarge
from rio.objects.state import State
from rio.objects.state_codec import NO_FIELDS, StateCodec

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 3, 29, 12, tzinfo=BERLIN)
NO_LIMIT = 1 << 30


class Colour(enum.Enum):
    RED = "red"


class Rank(enum.IntEnum):
    LOW = 1


class Point(msgspec.Struct):
    x: int = 0
    y: int = 0


class Point3(Point):
    z: int = 0


class Alias(Point):
    """A subclass without fields of its own."""


class Other(msgspec.Struct):
    """It has the fields of a Point."""

    x: int = 0
    y: int = 0


class Identity(msgspec.Struct, eq=False):
    x: int = 0


@dataclasses.dataclass
class Pair:
    x: int = 0


@dataclasses.dataclass
class Triple(Pair):
    y: int = 0


@dataclasses.dataclass(eq=False)
class Box:
    x: int = 0


class Row(NamedTuple):
    x: int = 0


class Keys(TypedDict, total=False):
    x: int


class Quarrelsome(msgspec.Struct, eq=False):
    x: int = 0

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


class Positive(msgspec.Struct):
    x: int = 1

    def __post_init__(self) -> None:
        if self.x < 1:
            raise RuntimeError("not positive")


class Wide(State):
    count: int = 0
    least: Annotated[int, Meta(ge=0)] = 0
    short: Annotated[str, Meta(max_length=3)] = ""
    ratio: float = 0.0
    flag: bool = False
    name: str = ""
    blob: bytes = b""
    maybe: int | None = None
    either: int | str = 0
    literal: Literal["a", "b"] = "a"
    numbers: list[int] = msgspec.field(default_factory=list)
    pair: tuple[int, str] = (0, "")
    many: tuple[int, ...] = ()
    tags: set[str] = msgspec.field(default_factory=set)
    frozen: frozenset[int] = frozenset()
    names: dict[int, str] = msgspec.field(default_factory=dict)
    texts: dict[str, int] = msgspec.field(default_factory=dict)
    point: Point = msgspec.field(default_factory=Point)
    points: list[Point] = msgspec.field(default_factory=list)
    by_name: dict[str, Point] = msgspec.field(default_factory=dict)
    identity: Identity = msgspec.field(default_factory=Identity)
    dataclass: Pair = msgspec.field(default_factory=Pair)
    box: Box = msgspec.field(default_factory=Box)
    row: Row = Row()
    keys: Keys = msgspec.field(default_factory=lambda: Keys())
    quarrelsome: Quarrelsome | None = None
    positive: Positive = msgspec.field(default_factory=Positive)
    colour: Colour = Colour.RED
    rank: Rank = Rank.LOW
    price: Decimal = Decimal(0)
    key: uuid.UUID = uuid.UUID(int=0)
    day: date = date.min
    moment: datetime | None = None
    clock: time = time.min
    span: timedelta = timedelta(0)
    anything: Any = None


class Loose(State):
    """It has no field for a time."""

    anything: Any = None
    other: object = None


class Twin(State):
    """It has no field of ``Wide``, so that it would load as one of defaults."""


class Narrow(Wide):
    pass


CODEC = StateCodec(Wide)
LOOSE = StateCodec(Loose)

WRONG: list[tuple[str, Any]] = [
    ("count", 5 / 2),
    ("count", 4 / 2),
    ("count", True),
    ("count", "5"),
    ("count", None),
    ("count", Decimal(5)),
    ("count", b"5"),
    ("count", 2**64),
    ("least", -1),
    ("short", "long"),
    ("ratio", "0.5"),
    ("ratio", True),
    ("ratio", 2**53 + 1),
    ("ratio", Decimal("0.5")),
    ("flag", 1),
    ("flag", "yes"),
    ("name", 5),
    ("name", b"ada"),
    ("name", uuid.UUID(int=7)),
    ("name", Decimal("1.5")),
    ("name", Colour.RED),
    ("name", date(2026, 1, 1)),
    ("name", datetime(2026, 1, 1)),
    ("name", "\ud800"),
    ("blob", "text"),
    ("maybe", "5"),
    ("either", 0.5),
    ("literal", "c"),
    ("numbers", (1, 2)),
    ("numbers", {1, 2}),
    ("numbers", ["1"]),
    ("numbers", [1, None]),
    ("numbers", 5),
    ("pair", [1, "a"]),
    ("pair", (1,)),
    ("many", [1]),
    ("tags", ["a"]),
    ("tags", {1}),
    ("tags", {uuid.UUID(int=7)}),
    ("frozen", (1,)),
    ("names", {"1": "a"}),
    ("names", {1: 2}),
    ("names", [(1, "a")]),
    ("texts", {1: 1}),
    ("texts", {"a": 1.5}),
    ("texts", {uuid.UUID(int=7): 1}),
    ("point", None),
    ("point", {"x": 1}),
    ("point", Point3(1, 2, 3)),
    ("point", Alias(1, 2)),
    ("point", Other(1, 2)),
    ("point", Point(x="1")),  # type: ignore[arg-type]
    ("points", [Point(), Point3()]),
    ("by_name", {"a": Point(), "b": Other()}),
    ("dataclass", Triple(1, 2)),
    ("dataclass", {"x": 1}),
    ("box", Box(1.5)),  # type: ignore[arg-type]
    ("identity", Identity("x")),  # type: ignore[arg-type]
    ("row", (1, 2)),
    ("keys", {"x": "1"}),
    ("colour", "red"),
    ("rank", 2),
    ("price", 1.5),
    ("price", 5),
    ("price", "5"),
    ("key", "00000000-0000-0000-0000-000000000007"),
    ("key", 7),
    ("day", datetime(2026, 1, 1)),
    ("day", "2026-01-01"),
    ("moment", date(2026, 1, 1)),
    ("moment", 1.5),
    ("moment", "2026-01-01T00:00:00"),
    ("moment", datetime(1890, 1, 1, tzinfo=BERLIN)),  # its offset has seconds
    ("clock", timedelta(1)),
    ("span", 5.0),
    ("anything", {1, 2}),
    ("anything", (1, 2)),
    ("anything", Decimal(5)),
    ("anything", Point()),
    ("anything", NOON),
    ("anything", [date(2026, 1, 1)]),
    ("anything", {"a": uuid.UUID(int=7)}),
    ("anything", object()),
    ("numbers", [object()]),
]

RIGHT: list[tuple[str, Any]] = [
    ("count", -(2**63)),
    ("count", 2**64 - 1),
    ("ratio", 0.1),
    ("ratio", math.inf),
    ("ratio", 5),
    ("name", "ä\0"),
    ("blob", b"\xff"),
    ("either", "5"),
    ("literal", "b"),
    ("numbers", list(range(1000))),
    ("pair", (1, "a")),
    ("many", (1, 2)),
    ("tags", {str(number) for number in range(1000)}),
    ("frozen", frozenset({2**40, 1})),
    ("names", {3: "c", 1: "a"}),
    ("texts", {"b": 1, "a": 2}),
    ("texts", Counter("abc")),
    ("texts", OrderedDict(b=1, a=2)),
    ("point", Point(1, 2)),
    ("by_name", {"a": Point()}),
    ("dataclass", Pair(3)),
    ("row", Row(3)),
    ("row", (3,)),
    ("keys", {"x": 1}),
    ("colour", Colour.RED),
    ("rank", Rank.LOW),
    ("rank", 1),
    ("price", Decimal("1.50")),
    ("key", uuid.uuid4()),
    ("day", date.max),
    ("moment", NOON),
    ("moment", datetime(2026, 3, 29, 12)),
    ("moment", datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN)),
    ("moment", datetime.max.replace(tzinfo=UTC)),
    ("moment", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))),
    ("clock", time(12, 30, 0, 1)),
    ("span", timedelta(microseconds=-1)),
    ("anything", {"a": [1, 0.5, None, True, b"x", {"b": "c"}]}),
    ("anything", {1: {2: "three"}}),
]


def ids_of(rows: list[Any]) -> list[str]:
    """Names that are the same in each process: values have addresses, and sets no order."""
    return [f"{number} {row[0]}" for number, row in enumerate(rows)]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=ids_of(WRONG))
def test_what_would_be_loaded_as_something_else_is_not_saved(field: str, value: Any) -> None:
    with pytest.raises(BadState, match=rf"^wide\.{field}\b.* was not saved: ") as refused:
        CODEC.encode(wide(field, value), NO_FIELDS, "wide", NO_LIMIT)
    assert refused.value.detail.startswith(f"wide.{field}")


@pytest.mark.parametrize(("field", "value"), RIGHT, ids=ids_of(RIGHT))
def test_what_is_saved_is_loaded_as_it_was(field: str, value: Any) -> None:
    loaded = getattr(saved_and_loaded(CODEC, wide(field, value)), field)
    if isinstance(value, datetime):  # one is unequal to itself in another zone
        assert loaded.isoformat() == value.isoformat()
    else:
        assert loaded == value
    if isinstance(value, dict):
        assert list(loaded) == list(value), "in the order in which the object has it"


@pytest.mark.parametrize("value", [None, {}, Point(), Twin(), Narrow(), Wide], ids=range(6))
def test_only_the_declared_class_itself_is_a_state(value: Any) -> None:
    with pytest.raises(BadState, match=r"^wide was not saved: it is a \w+, and declared as Wide"):
        CODEC.encode(value, NO_FIELDS, "wide", NO_LIMIT)


def test_what_is_not_equal_to_itself_is_saved_nevertheless() -> None:
    state = Wide(
        ratio=math.nan,
        price=Decimal("NaN"),
        box=Box(3),
        identity=Identity(3),
        quarrelsome=Quarrelsome(3),
        tags={"c", "a", "b"},
    )
    loaded = saved_and_loaded(CODEC, state)
    assert math.isnan(loaded.ratio)
    assert loaded.price.is_nan()
    assert loaded.quarrelsome is not None
    assert (loaded.box.x, loaded.identity.x, loaded.quarrelsome.x) == (3, 3, 3)


def test_the_path_leads_to_the_part_to_blame() -> None:
    for state, path in (
        (Wide(points=[Point(), Point(y=2.5)]), "wide.points[1].y"),  # type: ignore[arg-type]
        (Wide(by_name={"a": Other()}), "wide.by_name['a']"),  # type: ignore[dict-item]
        (Wide(anything=[0, {"a": (1,)}]), "wide.anything[1]['a']"),
        (Wide(anything=[0, {"a": {object()}}]), "wide.anything[1]['a']"),
    ):
        with pytest.raises(BadState) as refused:
            CODEC.encode(state, NO_FIELDS, "wide", NO_LIMIT)
        assert refused.value.detail == path


def test_a_state_that_contains_itself_is_not_saved() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(BadState, match="nested too deeply"):
        CODEC.encode(Wide(anything=circle), NO_FIELDS, "wide", NO_LIMIT)


def test_a_state_that_its_own_class_would_refuse_is_not_saved() -> None:
    state = Wide()
    state.positive.x = 0
    with pytest.raises(BadState, match="wide was not saved: RuntimeError: not positive"):
        CODEC.encode(state, NO_FIELDS, "wide", NO_LIMIT)


def test_two_keys_that_would_be_loaded_as_one_are_not_saved() -> None:
    keys = {uuid.UUID(int=7): 1, str(uuid.UUID(int=7)): 2}
    with pytest.raises(BadState, match=r"wide\.anything"):
        CODEC.encode(Wide(anything=keys), NO_FIELDS, "wide", NO_LIMIT)


def test_a_time_of_a_field_without_a_type_is_saved_if_it_would_be_loaded_as_it_is() -> None:
    assert saved_and_loaded(LOOSE, Loose(datetime(2026, 1, 1, tzinfo=UTC))).anything.year == 2026
    for time_with_zone in (NOON, datetime(2026, 1, 1)):
        with pytest.raises(BadState, match=r"loose\.other"):
            LOOSE.encode(Loose(other=time_with_zone), NO_FIELDS, "loose", NO_LIMIT)


def test_a_state_above_the_limit_is_not_saved() -> None:
    data = CODEC.encode(Wide(blob=bytes(1000)), NO_FIELDS, "wide", NO_LIMIT)
    assert CODEC.encode(Wide(blob=bytes(1000)), NO_FIELDS, "wide", len(data)) == data
    with pytest.raises(
        StateTooLarge, match=rf"wide was not saved: it takes {len(data)} bytes.*is {len(data) - 1}"
    ):
        CODEC.encode(Wide(blob=bytes(1000)), NO_FIELDS, "wide", len(data) - 1)


def test_bytes_that_do_not_fit_the_class_are_corrupt() -> None:
    with pytest.raises(StateCorrupt, match=r"\$\.count"):
        CODEC.decode(msgspec.msgpack.encode({"count": "5"}), 0)


def wide(field: str, value: Any) -> Wide:
    state = Wide()
    setattr(state, field, value)
    return state


def saved_and_loaded(codec: StateCodec, state: Any) -> Any:
    return codec.decode(codec.encode(state, NO_FIELDS, "state", NO_LIMIT), 0).value
