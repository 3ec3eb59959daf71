"""The log ``rio.audit``: what operators did, to what, and who they are."""

from __future__ import annotations

import asyncio
import re

import pytest

import rio
from rio.errors import Forbidden, UnknownMessage
from rio.objects.system_messages import Publish
from tests.server.harness import Cluster, Probe

pytestmark = pytest.mark.virtual_time

NODE = rio.Key.generate("node", "node")
OPS = rio.Key.generate("ops", "admin")
WEB = rio.Key.generate("web", "call")


class Add(rio.Message[int]):
    pass


class Hang(rio.Message[None]):
    pass


class Dismiss(rio.Message[None]):
    id: str


class Counter(rio.ServiceObject):
    @rio.handler
    def add(self, message: Add) -> int:
        return 1

    @rio.handler
    async def hang(self, message: Hang, app: rio.AppData) -> None:
        app.get(Probe).note("hangs")
        await app.get(Probe).gate("never").wait()

    @rio.handler
    async def dismiss(self, message: Dismiss, app: rio.AppData) -> None:
        await app.get(rio.Client).admin(rio.AdminCommand.shutdown(Counter, message.id))


def security_of(*keys: rio.Key, **options: object) -> rio.Security:
    return rio.Security(keys, encryption="none", **options)  # type: ignore[arg-type]


@pytest.fixture
async def server(cluster: Cluster) -> rio.Server:
    return await cluster.server(Counter, security=security_of(NODE, OPS, WEB))


@pytest.fixture
async def ops(cluster: Cluster, server: rio.Server) -> rio.Client:
    return await cluster.client(security=security_of(OPS))


def acts(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [
        f"{record.levelname} {record.getMessage()}"
        for record in caplog.records
        if record.name == "rio.audit"
    ]
    return [re.sub(r" peer=\([^)]+\)", "", line) for line in lines]


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rio.audit")


async def test_what_an_operator_did_is_logged_with_its_key_and_the_object(
    cluster: Cluster,
    server: rio.Server,
    ops: rio.Client,
    probe: Probe,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await ops.send(Counter, "a", Add())
    await ops.admin(rio.AdminCommand.shutdown(Counter, "a"))
    await ops.admin(rio.AdminCommand.shutdown(Counter, "not in memory"))
    hanging = asyncio.ensure_future(ops.send(Counter, "b", Hang()))
    await probe.noted("hangs")
    await ops.admin(rio.AdminCommand.shutdown(Counter, "b", force=True))
    await asyncio.wait((hanging,))
    await ops.admin(rio.AdminCommand.server_exit(server.address))
    assert acts(caplog) == [
        f"INFO act={act} on='{on}' key='ops' role=admin outcome=done"
        for act, on in (
            ("shutdown", "Counter/a"),
            ("shutdown", "Counter/not in memory"),
            ("forced-shutdown", "Counter/b"),
            ("stop", server.address),
        )
    ]
    hanging.exception()


async def test_an_act_on_an_object_of_another_server_is_logged_there_once(
    cluster: Cluster, server: rio.Server, ops: rio.Client, caplog: pytest.LogCaptureFixture
) -> None:
    other = await cluster.server(Counter, security=security_of(NODE, OPS, WEB))
    for each in server, other:
        id = await cluster.activated_on(each, Counter, Add())
        await (await cluster.client(security=security_of(OPS))).admin(
            rio.AdminCommand.shutdown(Counter, id)
        )
    assert len(acts(caplog)) == 2


async def test_what_an_operator_must_not_do_is_logged_with_the_reason(
    cluster: Cluster, server: rio.Server, ops: rio.Client, caplog: pytest.LogCaptureFixture
) -> None:
    web = await cluster.client(security=security_of(WEB))
    for _ in range(3):
        with pytest.raises(Forbidden):
            await web.admin(rio.AdminCommand.shutdown(Counter, "a"))
    with pytest.raises(Forbidden):
        await web.admin(rio.AdminCommand.server_exit(server.address))
    with pytest.raises(UnknownMessage):
        await ops._router.caller.send("Counter", "a", Publish("Add", b"\x80"))
    assert acts(caplog) == [
        "WARNING act=shutdown on='Counter' key='web' role=call peer=? outcome=refused"
        " why='the role of the key does not allow it'",
        f"WARNING act=stop on='{server.address}' key='web' role=call outcome=refused"
        " why=\"key 'web' may not stop a server\"",
        "WARNING act=publish on='Counter/a' key='ops' role=admin outcome=refused"
        " why='only the members of a cluster publish for its objects'",
    ]


async def test_what_authorize_does_not_allow_an_operator_is_logged(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    security = security_of(NODE, OPS, authorize=lambda *_: False)
    await cluster.server(Counter, security=security)
    ops = await cluster.client(security=security_of(OPS))
    with pytest.raises(Forbidden):
        await ops.admin(rio.AdminCommand.shutdown(Counter, "a"))
    with pytest.raises(Forbidden):
        await ops.send(Counter, "a", Add())
    assert acts(caplog) == [
        "WARNING act=shutdown on='Counter/a' key='ops' role=admin outcome=refused"
        " why='authorize does not allow it'"
    ]


async def test_an_id_cannot_forge_a_line_of_the_log(
    ops: rio.Client, caplog: pytest.LogCaptureFixture
) -> None:
    await ops.admin(rio.AdminCommand.shutdown(Counter, "a\nINFO act=stop\x1b[2J\u202e"))
    [line] = acts(caplog)
    assert r"on='Counter/a\nINFO act=stop\x1b[2J\u202e'" in line
    assert line.isprintable()


async def test_what_objects_do_to_each_other_is_no_act_of_an_operator(
    ops: rio.Client, caplog: pytest.LogCaptureFixture
) -> None:
    await ops.send(Counter, "a", Dismiss("b"))
    assert acts(caplog) == []


async def test_without_security_the_address_alone_says_who_it_was(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    server = await cluster.server(Counter)
    client = await cluster.client()
    await client.admin(rio.AdminCommand.shutdown(Counter, "a"))
    await client.admin(rio.AdminCommand.server_exit(server.address))
    assert acts(caplog) == [
        "INFO act=shutdown on='Counter/a' key=None role=None outcome=done",
        f"INFO act=stop on='{server.address}' key=None role=None outcome=done",
    ]
