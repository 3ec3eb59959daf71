"""A collector of metrics reads what a server says of itself."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import rio
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus
from rio.errors import HandlerFailed
from rio.server.metrics import NodeMetrics
from rio.server.statistics import ServerStatistics
from rio.testing.faults import StorageFaults
from rio.web.exposition import Metric, Sample, write_metrics
from tests.server.harness import until

TOKEN = "a-token-of-some-length"
ODD = 'say "hi"\\\n# TYPE rio_calls_total gauge\r\u2028{}=,é'

LINE = re.compile(
    r"# HELP [a-z_]+ (?:[^\\\n]|\\\\|\\n)+"
    r"|# TYPE [a-z_]+ (?:counter|gauge)"
    r'|[a-z_]+(?:\{[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\"n])*")*\})?'
    r" (?:-?\d+(?:\.\d+)?(?:e[-+]\d+)?|[+-]Inf|NaN)"
)
"""A line of the format, as its specification has it."""

Labels = frozenset[tuple[str, str]]
Values = dict[tuple[str, Labels], float]


def read(page: bytes) -> Values:
    """The samples of a page, each of which has a name of its own and comes after its head."""
    text = page.decode()
    assert text.endswith("\n")
    assert [line for line in text[:-1].split("\n") if not LINE.fullmatch(line)] == []
    values: Values = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("counter", "gauge")
        for sample in family.samples:
            assert sample.name == family.name + "_total" * (family.type == "counter")
            key = sample.name, frozenset(sample.labels.items())
            assert key not in values
            values[key] = sample.value
    return values


def named(values: Values, name: str, **labels: str) -> float:
    return values[name, frozenset(labels.items())]


async def get(server: rio.Server, token: str = "") -> tuple[int, str, bytes]:
    """The status, the head and the body of the page."""
    reader, writer = await asyncio.open_connection(*rio.Address.parse(server.http_address))
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    writer.write(f"GET /metrics HTTP/1.0\r\n{authorization}\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split(b" ")[1]), head.decode(), body


async def scrape(server: rio.Server) -> Values:
    status, head, body = await get(server)
    assert status == 200
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in head
    return read(body)


class Add(rio.Message[None]):
    pass


class Fail(rio.Message[None]):
    pass


class Counter(rio.ServiceObject):
    @rio.handler
    def add(self, _: Add) -> None:
        pass

    @rio.handler
    def fail(self, _: Fail) -> None:
        raise ValueError


class Odd(rio.ServiceObject, type_name=ODD):
    @rio.handler
    def add(self, _: Add) -> None:
        pass


@pytest.fixture
async def faults() -> StorageFaults:
    return StorageFaults()


@pytest.fixture
async def server(faults: StorageFaults) -> AsyncIterator[rio.Server]:
    async with (
        rio.open_storage("memory://") as storage,
        rio.Server(
            rio.Registry(Counter, Odd),
            storage=faults.wrap(storage),
            cluster="fast",
            http="127.0.0.1:0",
        ) as server,
    ):
        yield server


@pytest.mark.both_loops
async def test_the_counters_grow_with_the_calls(server: rio.Server) -> None:
    before = await scrape(server)
    for id in "abc":
        await server.client.send(Counter, id, Add())
    with pytest.raises(HandlerFailed):
        await server.client.send(Counter, "d", Fail())
    after = await scrape(server)
    grown = {
        name: after[name, labels] - before[name, labels]
        for name, labels in after
        if name.endswith("_total")
    }
    assert grown == {
        "rio_calls_total": 4,
        "rio_failures_total": 1,
        "rio_fenced_total": 0,
        "rio_events_delivered_total": 0,
        "rio_events_dropped_total": 0,
    }


async def test_objects_are_counted_by_type_whatever_it_is_called(server: rio.Server) -> None:
    for id in "abc":
        await server.client.send(Odd, id, Add())
    values = await scrape(server)
    assert named(values, "rio_objects", type=ODD) == 3
    assert named(values, "rio_objects", type="Counter") == 0


async def test_a_server_says_who_it_is_and_how_it_is(
    server: rio.Server, faults: StorageFaults
) -> None:
    values = await scrape(server)
    assert named(values, "rio_ready") == 1
    assert 0 < named(values, "rio_lease_seconds") <= server._cluster.config.lease_local
    assert 0 <= time.time() - named(values, "rio_start_time_seconds") < 60
    assert named(values, "rio_members", status="active") == 1
    assert named(values, "rio_members", status="dead") == 0
    [labels] = [dict(labels) for name, labels in values if name == "rio_build_info"]
    assert labels["version"] == rio.__version__
    faults.unavailable = True
    await until(lambda: not server.ready)
    values = await scrape(server)
    assert (named(values, "rio_ready"), named(values, "rio_lease_seconds")) == (0, 0)


@pytest.mark.both_loops
async def test_the_metrics_need_the_token() -> None:
    key = rio.Key.generate("node", "node")
    security = rio.Security([key], encryption="none", http_tokens={"collector": TOKEN})
    async with rio.Server(
        rio.Registry(), storage="memory://", cluster="local", http="127.0.0.1:0", security=security
    ) as server:
        assert (await get(server))[0] == 401
        assert (await get(server, TOKEN[:-1]))[0] == 401
        status, _, body = await get(server, TOKEN)
        assert (status, named(read(body), "rio_ready")) == (200, 1)


def metrics_of(counted: ServerStatistics, members: MembershipSnapshot) -> Values:
    dispatcher = rio.Server(rio.Registry(), storage="memory://")._catalog.dispatcher
    metrics = NodeMetrics(dispatcher, lambda: counted, lambda: members, lambda: False)
    return read(write_metrics(metrics.read()))


def test_each_field_of_the_statistics_is_a_metric() -> None:
    names = [field.name for field in msgspec.structs.fields(ServerStatistics)]
    counted = ServerStatistics(**{name: 1000 + number for number, name in enumerate(names)})
    values = metrics_of(counted, MembershipSnapshot(0, 0))
    shown = {value for value in values.values() if value >= 1000}
    missing = {name for name in names if getattr(counted, name) not in shown}
    assert missing == {"live_objects"}, "which is the sum of rio_objects"


def test_a_certificate_that_is_not_there_does_not_expire() -> None:
    numbers = {field.name: 0 for field in msgspec.structs.fields(ServerStatistics)}
    counted = ServerStatistics(**{**numbers, "certificates_expire_in": None})
    names = {name for name, _ in metrics_of(counted, MembershipSnapshot(0, 0))}
    assert "rio_certificates_expire_seconds" not in names
    counted = msgspec.structs.replace(counted, certificates_expire_in=-1.5)
    values = metrics_of(counted, MembershipSnapshot(0, 0))
    assert named(values, "rio_certificates_expire_seconds") == -1.5


def test_members_of_a_newer_version_are_counted_too() -> None:
    statuses = [MemberStatus.ACTIVE] * 2 + [MemberStatus.DEAD, MemberStatus(3), MemberStatus(77)]
    members = tuple(
        Member(number, f"10.0.0.1:{number}", status) for number, status in enumerate(statuses)
    )
    counted = ServerStatistics(
        **{field.name: 0 for field in msgspec.structs.fields(ServerStatistics)}
    )
    values = metrics_of(counted, MembershipSnapshot(1, 9, members))
    assert {
        dict(labels)["status"]: value
        for (name, labels), value in values.items()
        if name == "rio_members"
    } == {
        "joining": 0,
        "active": 2,
        "draining": 0,
        "condemned": 1,
        "left": 0,
        "dead": 1,
        "status_77": 1,
    }


TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\\n{}=, #'))


@given(texts=st.lists(TEXTS, unique=True), value=st.floats(allow_nan=False) | st.integers())
def test_any_label_and_any_number_is_read_back(texts: list[str], value: float) -> None:
    samples = [Sample(value, {"type": text, "more": text[::-1]}) for text in texts]
    values = read(write_metrics([Metric("rio_x", "gauge", 'a \\ of "b"\nand c', samples)]))
    assert values == {("rio_x", frozenset(sample.labels.items())): value for sample in samples}
