"""Servers and clients that prove themselves to each other."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

import rio
from rio._core.wire import Kind
from rio.errors import (
    ConfigurationError,
    ConnectionLost,
    Forbidden,
    HandlerFailed,
    NoServersAvailable,
    NotActivated,
    NotAuthenticated,
    ProtocolError,
    UnknownType,
)
from rio.security.credentials import write_key
from rio.security.proof import Proofs
from rio.security.tls import CAN_USE_KEYS
from rio.transport.call_context import Context, Link, read_context, sift_context
from rio.transport.protocol import VERSION, Hello, encode, write_hello, write_proof
from tests.security.test_security_file import write
from tests.server.harness import Cluster, Probe, until

NODE = rio.Key.generate("node", "node")
OPS = rio.Key.generate("ops", "admin")
WEB = rio.Key.generate("web", "call", ("Counter.*",))
NARROW = rio.Key.generate("narrow", "call", ("Counter.Add",))
WATCH = rio.Key.generate("watch", "observe")
ALL = (NODE, OPS, WEB, NARROW, WATCH)

ENCRYPTIONS = ["none", "certificates", *(["key"] if CAN_USE_KEYS else [])]

MakeSecurity = Callable[..., rio.Security]


class Add(rio.Message[int]):
    amount: int = 1


class Wait(rio.Message[None]):
    pass


class Forward(rio.Message[int]):
    pass


class Wide(rio.Message[int]):
    text: str


class Counter(rio.ServiceObject):
    value = 0

    async def after_load(self, app: rio.AppData) -> None:
        app.get(Probe).note(f"activated {self.id}")

    @rio.handler
    async def add(self, message: Add) -> int:
        self.value += message.amount
        self.publish(message)
        return self.value

    @rio.handler
    async def wait(self, message: Wait, app: rio.AppData) -> None:
        app.get(Probe).note("waits")
        await app.get(Probe).gate("go").wait()

    @rio.handler
    async def forward(self, message: Forward) -> int:
        return await self.send("Hidden", self.id, Add(5))

    @rio.handler
    def measure(self, message: Wide) -> int:
        return len(message.text)


class Hidden(rio.ServiceObject):
    @rio.handler
    def add(self, message: Add) -> int:
        return message.amount


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=ENCRYPTIONS)
def make(request: pytest.FixtureRequest, tmp_path: Path, authority: trustme.CA) -> MakeSecurity:
    """Makes a security of the given keys, in each way of encryption."""
    if request.param != "certificates":
        return lambda *keys, **more: rio.Security(keys, encryption=request.param, **more)
    files = certificate_files(authority, tmp_path)

    def make(*keys: rio.Key, **more: Any) -> rio.Security:
        has_own = keys[0].role == "node"
        return rio.Security(keys, **(files if has_own else {"ca": files["ca"]}), **more)

    return make


def certificate_files(authority: trustme.CA, folder: Path) -> dict[str, Any]:
    own = authority.issue_cert("node.example")
    ca, certificate, private_key = (folder / name for name in ("ca.pem", "node.pem", "node.key"))
    authority.cert_pem.write_to_path(ca)
    own.cert_chain_pems[0].write_to_path(certificate)
    own.private_key_pem.write_to_path(private_key)
    return {"certificate": certificate, "private_key": private_key, "ca": [ca]}


async def start(cluster: Cluster, security: rio.Security, count: int = 1) -> list[rio.Server]:
    return await cluster.nodes(count, Counter, Hidden, security=security)


async def test_who_holds_a_key_calls_objects_on_all_servers(
    cluster: Cluster, make: MakeSecurity
) -> None:
    servers = await start(cluster, make(*ALL), 2)
    client = await cluster.client(security=make(WEB))
    ids = [str(number) for number in range(20)]
    assert [await client.send(Counter, id, Add()) for id in ids] == [1] * 20
    assert [await client.send(Counter, id, Forward()) for id in ids] == [5] * 20
    assert await client.send(Counter, "big", Wide("x" * 1_000_000)) == 1_000_000
    assert all(server.statistics().calls for server in servers)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ((rio.Key.generate("web", "call"),), "another secret of key 'web'|our key"),
        ((rio.Key.generate("nobody", "call"),), "knows no key 'nobody'|our key"),
    ],
)
async def test_who_holds_another_key_is_told_so_and_calls_nothing(
    cluster: Cluster, probe: Probe, make: MakeSecurity, keys: tuple[rio.Key, ...], text: str
) -> None:
    await start(cluster, make(*ALL))
    client = await cluster.client(security=make(*keys), timeout=0.5)
    with pytest.raises((NotAuthenticated, NoServersAvailable), match=text):
        await client.send(Counter, "a", Add())
    assert probe.log == []


async def test_who_holds_no_key_is_told_so_at_once(cluster: Cluster) -> None:
    await start(cluster, rio.Security(ALL, encryption="none"))
    client = await cluster.client()
    with pytest.raises(NotAuthenticated, match=r"this server asks for a key: give .* RIO_SECURITY"):
        await client.send(Counter, "a", Add())


async def test_who_does_not_encrypt_learns_that_it_may_have_to(
    cluster: Cluster, make: MakeSecurity
) -> None:
    await start(cluster, make(*ALL))
    client = await cluster.client(timeout=0.5)
    with pytest.raises((NotAuthenticated, NoServersAvailable), match=r"give .*RIO_SECURITY"):
        await client.send(Counter, "a", Add())


async def test_a_server_that_proves_nothing_is_not_used(cluster: Cluster) -> None:
    await cluster.server(Counter)
    client = await cluster.client(security=rio.Security([WEB], encryption="none"))
    with pytest.raises(NotAuthenticated, match="the server does not prove itself"):
        await client.send(Counter, "a", Add())


async def test_a_call_key_is_no_key_for_a_server(cluster: Cluster) -> None:
    with pytest.raises(ConfigurationError, match="a server needs a key of role 'node'"):
        await start(cluster, rio.Security([WEB], encryption="none"))


async def test_a_certificate_of_another_authority_is_refused(
    cluster: Cluster, tmp_path: Path, authority: trustme.CA
) -> None:
    await start(cluster, rio.Security(ALL, **certificate_files(authority, tmp_path)))
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    client = await cluster.client(security=rio.Security([WEB], ca=[other]))
    with pytest.raises(NotAuthenticated, match="CERTIFICATE_VERIFY_FAILED"):
        await client.send(Counter, "a", Add())


async def test_a_node_without_a_certificate_is_refused(
    tmp_path: Path, authority: trustme.CA
) -> None:
    security = rio.Security(ALL, **certificate_files(authority, tmp_path))
    with pytest.raises(NotAuthenticated, match="a server has to show a certificate"):
        security._trust.key_of("node", "node", shows_certificate=False)


async def test_a_server_that_encrypts_by_certificates_needs_one(
    cluster: Cluster, tmp_path: Path, authority: trustme.CA
) -> None:
    ca = certificate_files(authority, tmp_path)["ca"]
    with pytest.raises(ConfigurationError, match="needs a certificate and a private_key"):
        await start(cluster, rio.Security(ALL, ca=ca))


# --- what a key allows ----------------------------------------------------------------------------


async def test_a_key_allows_what_its_patterns_say_and_nothing_else(
    cluster: Cluster, probe: Probe
) -> None:
    [server] = await start(cluster, rio.Security(ALL, encryption="none"))
    client = await cluster.client(security=rio.Security([NARROW], encryption="none"))
    for _ in range(2):
        assert await client.send(Counter, "a", Add()) >= 1
        with pytest.raises(Forbidden, match=r"key 'narrow' .* may not send Forward to Counter"):
            await client.send(Counter, "a", Forward())
        with pytest.raises(Forbidden):
            await client.send(Hidden, "b", Add())
        with pytest.raises(Forbidden):
            await client.send("Nowhere", "b", Add())
    with pytest.raises(Forbidden):
        async with client.subscribe(Counter, "a"):
            pass
    with pytest.raises(Forbidden, match=r"may not send rio\.shutdown to Counter"):
        await client.admin(rio.AdminCommand.shutdown(Counter, "a"))
    with pytest.raises(Forbidden, match="key 'narrow' may not stop a server"):
        await client.admin(rio.AdminCommand.server_exit(server.address))
    assert server.ready
    assert probe.log == ["activated a"]


async def test_an_observer_follows_and_does_not_call(cluster: Cluster) -> None:
    await start(cluster, rio.Security(ALL, encryption="none"))
    observer = await cluster.client(security=rio.Security([WATCH], encryption="none"))
    caller = await cluster.client(security=rio.Security([WEB], encryption="none"))
    async with observer.subscribe(Counter, "a", Add) as events:
        await caller.send(Counter, "a", Add(7))
        assert (await anext(events)).amount == 7
    with pytest.raises(Forbidden):
        await observer.send(Counter, "a", Add())


async def test_an_admin_stops_objects_and_servers(cluster: Cluster, probe: Probe) -> None:
    [server] = await start(cluster, rio.Security(ALL, encryption="none"))
    admin = await cluster.client(security=rio.Security([OPS], encryption="none"))
    await admin.send(Counter, "a", Add())
    await admin.admin(rio.AdminCommand.shutdown(Counter, "a"))
    await admin.send(Counter, "a", Add())
    assert probe.log == ["activated a", "activated a"]
    stopping = asyncio.create_task(server.run(handle_signals=False))
    await admin.admin(rio.AdminCommand.server_exit(server.address))
    await stopping


async def test_authorize_decides_on_each_call_before_anything_is_activated(
    cluster: Cluster, probe: Probe
) -> None:
    asked: list[tuple[Any, ...]] = []

    def authorize(caller: rio.Identity, object_id: rio.ObjectId, message: str) -> bool:
        asked.append((caller.id, caller.role, str(object_id), message))
        if object_id.id == "broken":
            raise RuntimeError("the policy is broken")
        return object_id.id == "mine"

    await start(cluster, rio.Security(ALL, encryption="none", authorize=authorize))
    client = await cluster.client(security=rio.Security([WEB], encryption="none"))
    assert await client.send(Counter, "mine", Add()) == 1
    assert await client.send(Counter, "mine", Forward()) == 5
    for id in ("theirs", "broken"):
        with pytest.raises(Forbidden, match=f"Counter/{id} is not for you"):
            await client.send(Counter, id, Add())
    assert probe.log == ["activated mine"]
    assert asked == [
        ("web", "call", f"Counter/{id}", message)
        for id, message in (
            ("mine", "Add"),
            ("mine", "Forward"),
            ("theirs", "Add"),
            ("broken", "Add"),
        )
    ]


# --- strangers ------------------------------------------------------------------------------------

FRAMES_OF_STRANGERS = [
    write_proof(b"x" * 32),
    encode((Kind.GOAWAY, 1)),
    encode((Kind.GOSSIP, 0, {})),
    encode((Kind.PING, 1)),
    encode((Kind.REQUEST, 1, "Counter", "a", "Add", 0, None, {})),
    encode((Kind.END, 1)),
    b"\xc1",
]


@pytest.mark.parametrize("frame", FRAMES_OF_STRANGERS)
@pytest.mark.parametrize("after_hello", [False, True])
async def test_a_stranger_is_heard_no_further_than_its_hello(
    cluster: Cluster, probe: Probe, frame: bytes, after_hello: bool
) -> None:
    [server] = await start(cluster, rio.Security(ALL, encryption="none"))
    hello = write_hello(Hello(VERSION, "node", 1, key="node", nonce=b"n" * 32))
    answers = await converse(server.address, [hello, frame] if after_hello else [frame])
    kinds = [answer[0] for answer in answers]
    assert kinds == [*([Kind.HELLO, Kind.PROOF] if after_hello else []), Kind.ERROR]
    assert server.ready
    assert probe.log == []


async def test_before_its_hello_a_stranger_may_not_announce_much(cluster: Cluster) -> None:
    [server] = await start(cluster, rio.Security(ALL, encryption="none"))
    answers = await converse(server.address, [b"x" * 70_000])
    assert [answer[:3] for answer in answers] == [[Kind.ERROR, 0, "frame_too_large"]]


async def test_strangers_do_not_fill_the_log(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    [server] = await start(cluster, rio.Security(ALL, encryption="none"))
    for _ in range(50):
        await converse(server.address, [write_hello(Hello(VERSION, "client"))])
    lines = [record for record in caplog.records if "is refused" in record.getMessage()]
    assert 1 <= len(lines) < 50
    assert "NotAuthenticated: this server asks for a key" in lines[0].getMessage()


async def converse(address: str, frames: list[bytes], count: int | None = None) -> list[Any]:
    """Send these frames, and return what the server answers until it closes the connection, or
    until it has answered so often.
    """
    host, port = rio.Address.parse(address)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for frame in frames:
            writer.write(len(frame).to_bytes(4, "big") + frame)
        answers = []
        while len(answers) != count and (head := await reader.read(4)):
            body = await reader.readexactly(int.from_bytes(head, "big"))
            answers.append(msgspec.msgpack.decode(body))
        return answers
    finally:
        writer.close()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "10.0.0.7:0", "db.example:0"])
def test_a_server_without_security_listens_to_this_machine_only(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"can be reached by others, .*`rio keygen`"):
        rio.Server(rio.Registry(Counter), storage="memory://", address=address)
    rio.Server(rio.Registry(Counter), storage="memory://", address=address, insecure=True)
    security = rio.Security([NODE], encryption="none")
    rio.Server(rio.Registry(Counter), storage="memory://", address=address, security=security)


@pytest.mark.parametrize(
    ("http", "options", "status"),
    [
        ("127.0.0.1:0", {}, b"200"),
        ("0.0.0.0:0", {}, b"403"),
        ("0.0.0.0:0", {"insecure": True}, b"200"),
    ],
)
async def test_the_members_are_shown_to_this_machine_only(
    cluster: Cluster, http: str, options: dict[str, Any], status: bytes
) -> None:
    server = await cluster.server(Counter, http=http, **options)
    port = rio.Address.parse(server.http_address).port
    answers = {}
    for page in ("/members", "/members/127.0.0.1/1", "/livez", "/readyz"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {page} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answers[page] = (await reader.read()).split()[1]
        writer.close()
    assert answers.pop("/members/127.0.0.1/1") == (b"404" if status == b"200" else b"403")
    assert answers == {"/members": status, "/livez": b"200", "/readyz": b"200"}


# --- what a client is told ------------------------------------------------------------------------


class Fail(rio.Message[None]):
    how: str


class Failing(rio.ServiceObject):
    async def load(self) -> None:
        if self.id == "broken":
            raise RuntimeError("the password is secret")

    @rio.handler
    def fail(self, message: Fail) -> None:
        if message.how == "declared":
            raise Declared(5)
        raise ValueError("the password is secret")


class Declared(rio.ApplicationError):
    amount: int


@pytest.mark.parametrize(("key", "is_told"), [(WEB, False), (OPS, True)])
async def test_a_client_with_limited_rights_does_not_learn_the_inside_of_a_server(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, key: rio.Key, is_told: bool
) -> None:
    limited = rio.Key("web", "call", WEB.secret)
    security = rio.Security([NODE, OPS, limited], encryption="none")
    await cluster.server(Failing, security=security)
    client = await cluster.client(security=rio.Security([key], encryption="none"))
    caplog.set_level("INFO", "rio.security")
    for id, error in (("a", HandlerFailed), ("broken", NotActivated)):
        with pytest.raises(error) as caught:
            await client.send(Failing, id, Fail("undeclared"))
        said = f"{caught.value} {caught.value.detail}"
        assert ("secret" in said) == ("test_security.py" in said) == is_told
        if not is_told:
            assert ("ValueError" in said) == (id == "a")
            [number] = re.findall(r"as error (\w+)", said)
            assert f"error {number} of key 'web': " in caplog.text
    with pytest.raises(UnknownType) as unknown:
        await client.send("Nowhere", "a", Fail(""))
    assert ("Failing" in str(unknown.value)) == is_told
    with pytest.raises(Declared):
        await client.send(Failing, "a", Fail("declared"))
    assert "the password is secret" in caplog.text


async def test_a_client_whose_calls_fail_does_not_fill_the_log(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """One line a second tells of its errors of one class, and their number."""
    keys = [rio.Key.generate(name, "call") for name in ("web", "app")]
    await cluster.server(Failing, security=rio.Security([NODE, *keys], encryption="none"))
    web, app = [
        await cluster.client(security=rio.Security([key], encryption="none")) for key in keys
    ]
    caplog.set_level("INFO", "rio.security")
    said = []
    for client, count in (web, 100), (app, 1):
        for _ in range(count):
            with pytest.raises(HandlerFailed) as caught:
                await client.send(Failing, "a", Fail("undeclared"))
            said.append(str(caught.value))
    lines = [each.getMessage() for each in caplog.records if each.name == "rio.security"]
    numbers = [number for text in said for number in re.findall(r"as error (\w+)", text)]
    assert 2 <= len(numbers) == len(lines) < 10
    assert all(f"error {n} " in line for n, line in zip(numbers, lines, strict=True))
    assert [line.endswith("(1 times in all)") for line in (lines[0], lines[-1])] == [True, True]
    assert "of key 'app'" in lines[-1]
    assert (
        said[1] == "it failed with ValueError: the log of the server says more of an error like it"
    )


# --- one client against the others ----------------------------------------------------------------


def wait_request(number: int, id: str) -> bytes:
    return encode([Kind.REQUEST, number, "Counter", id, "Wait", 2**63, None, {}])


async def test_one_client_cannot_have_all_the_calls_of_a_node(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Counter, config=rio.ServerConfig(in_flight_limit=64))
    host, port = rio.Address.parse(server.address)
    _, writer = await asyncio.open_connection(host, port)
    for frame in [write_hello(Hello(VERSION, "client"))] + [
        wait_request(number, str(number)) for number in range(1, 101)
    ]:
        writer.write(len(frame).to_bytes(4, "big") + frame)
    await until(lambda: server.statistics().calls == 100)
    await until(lambda: server.statistics().in_flight == 54)
    client = await cluster.client()
    assert await client.send(Counter, "other", Add()) == 1
    writer.close()
    await until(lambda: server.statistics().in_flight == 0)


async def test_a_call_from_outside_takes_no_longer_than_the_server_allows(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Counter, config=rio.ServerConfig(max_timeout=0.2))
    hello = write_hello(Hello(VERSION, "client"))
    answers = await converse(server.address, [hello, wait_request(1, "a")], count=2)
    assert answers[1][:3] == [Kind.ERROR, 1, "timeout"]


# --- other keys while it runs ---------------------------------------------------------------------


def write_keys(path: Path, *keys: rio.Key, encryption: str = "none") -> Path:
    return write(path, f'encryption = "{encryption}"\n' + "".join(map(write_key, keys)))


@pytest.mark.parametrize(
    "later",
    [
        (),
        (rio.Key("web", "call", WEB.secret, ("Counter.Add",)),),
        (rio.Key.generate("web", "call"),),
    ],
)
async def test_a_key_that_is_removed_or_allows_less_cuts_its_connections_at_once(
    cluster: Cluster, probe: Probe, tmp_path: Path, later: tuple[rio.Key, ...]
) -> None:
    path = write_keys(tmp_path / "rio.toml", NODE, WEB, OPS)
    await start(cluster, rio.Security.from_file(path))
    client = await cluster.client(security=rio.Security([WEB], encryption="none"))
    other = await cluster.client(security=rio.Security([OPS], encryption="none"))
    waiting = [
        asyncio.ensure_future(each.send(Counter, str(n), Wait()))
        for n, each in enumerate((client, other))
    ]
    await probe.noted("waits", 2)
    write_keys(path, NODE, OPS, *later)
    with pytest.raises(ConnectionLost):
        await waiting[0]
    probe.gate("go").set()
    await waiting[1]


async def test_a_key_that_allows_more_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    path = write_keys(tmp_path / "rio.toml", NODE, NARROW)
    await start(cluster, rio.Security.from_file(path))
    client = await cluster.client(security=rio.Security([NARROW], encryption="none"))
    with pytest.raises(Forbidden):
        await client.send(Counter, "a", Forward())
    write_keys(path, NODE, rio.Key("narrow", "call", NARROW.secret, ("Counter.*",)))

    [server] = cluster.servers
    await until(lambda: server._credentials.keys["narrow"].allow == ("Counter.*",))
    assert await client.send(Counter, "a", Forward()) == 5


@pytest.mark.parametrize("encryption", ["none", *(["key"] if CAN_USE_KEYS else [])])
async def test_keys_are_replaced_while_calls_go_on_and_none_fails(
    cluster: Cluster, tmp_path: Path, encryption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rio.server.server.SECURITY_LOOK_INTERVAL", 0.1)
    monkeypatch.setattr("rio.server.acceptor.LOOK_INTERVAL", 0.1)
    monkeypatch.setattr("rio.client.pool.LOOK_INTERVAL", 0.1)
    put = functools.partial(write_keys, encryption=encryption)
    new_node, new_web = rio.Key.generate("node-2", "node"), rio.Key.generate("web-2", "call")
    of_servers = put(tmp_path / "servers.toml", NODE, WEB)
    of_client = put(tmp_path / "client.toml", WEB)
    servers = [
        await cluster.server(Counter, Hidden, security=rio.Security.from_file(of_servers))
        for _ in range(2)
    ]
    client = await cluster.client(security=rio.Security.from_file(of_client))
    calls = 0

    async def call(number: int) -> None:
        nonlocal calls
        while not done.is_set():
            assert await client.send(Counter, f"{number}-{calls % 7}", Forward()) == 5
            calls += 1

    def used_keys() -> set[str]:
        return {
            connection.key.id
            for server in servers
            for connection in server._catalog.dispatcher.connections
            if connection.is_remote and connection.key is not None
        }

    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(call(number))
        await until(lambda: {"web", "node"} <= used_keys())
        put(of_servers, NODE, WEB, new_node, new_web)
        await until(lambda: all(len(server._credentials.keys) == 4 for server in servers))
        put(of_servers, new_node, new_web, NODE, WEB)
        put(of_client, new_web)
        await until(lambda: used_keys() == {"web-2", "node-2"})
        put(of_servers, new_node, new_web)
        await until(lambda: all(len(server._credentials.keys) == 2 for server in servers))
        before = calls
        await until(lambda: calls > before + 100)
        done.set()


# --- who has called -------------------------------------------------------------------------------


class WhoAmI(rio.Message[list[Any]]):
    forwards: int = 0


class Clerk(rio.ServiceObject):
    @rio.handler
    async def who(self, message: WhoAmI) -> list[Any]:
        if message.forwards:
            return await self.send(
                Clerk, f"{self.id}{message.forwards}", WhoAmI(message.forwards - 1)
            )
        caller = rio.caller()
        return [] if caller is None else [caller.id, caller.role]


async def test_a_handler_knows_who_has_called_also_behind_other_objects(cluster: Cluster) -> None:
    security = rio.Security([NODE, rio.Key("web", "call", WEB.secret)], encryption="none")
    servers = await cluster.nodes(2, Clerk, security=security)
    client = await cluster.client(security=rio.Security([WEB], encryption="none"))
    for forwards in range(4):
        for id in "abcd":
            assert await client.send(Clerk, id, WhoAmI(forwards)) == ["web", "call"]
    assert await servers[0].client.send(Clerk, "a", WhoAmI(2)) == []


async def test_without_security_nobody_is_known_to_have_called(cluster: Cluster) -> None:
    await cluster.nodes(2, Clerk)
    client = await cluster.client()
    assert await client.send(Clerk, "a", WhoAmI(3)) == []


def test_outside_of_a_handler_nobody_has_called() -> None:
    with pytest.raises(RuntimeError, match="no handler runs here"):
        rio.caller()


class Ask(rio.Message[list[Any]]):
    pass


class Asker(rio.ServiceObject):
    @rio.handler
    async def ask(self, message: Ask, app: rio.AppData) -> list[Any]:
        return await app.get(Other).client.send(Clerk, "a", WhoAmI())


class Other:
    """Holds a client that is not the server's own."""

    client: rio.Client


@pytest.mark.parametrize("key", [None, WEB])
async def test_the_chain_of_a_client_is_believed_only_where_nobody_has_a_key(
    cluster: Cluster, key: rio.Key | None
) -> None:
    callers: list[Any] = []

    async def look(call: rio.Call, proceed: rio.Proceed) -> Any:
        callers.append(call.caller)
        return await proceed()

    app, other = rio.AppData(), Other()
    app.set(other)
    keys = [NODE, rio.Key("web", "call", WEB.secret)]
    security = None if key is None else rio.Security(keys, encryption="none")
    await cluster.server(Asker, Clerk, app_data=app, filters=[look], security=security)
    other.client = await cluster.client(security=key and rio.Security([key], encryption="none"))
    assert await other.client.send(Asker, "x", Ask()) == ([] if key is None else ["web", "call"])
    assert callers == [None, rio.ObjectId("Asker", "x") if key is None else None]


def test_of_what_a_client_sends_along_only_values_and_the_trace_are_kept() -> None:
    chain = (Link("Clerk", "a", "WhoAmI", 1),)
    forged = Context(chain=chain, caller=rio.Identity("root", "admin"))
    assert sift_context(encode(forged)) is None
    kept = sift_context(encode(Context(chain=chain, values={"tenant": msgspec.Raw(b"\xa1x")})))
    assert read_context(kept) == Context(values={"tenant": msgspec.Raw(b"\xa1x")})
    with pytest.raises(ProtocolError):
        sift_context(b"\xc1")


async def test_a_key_that_is_removed_while_its_holder_proves_it_is_not_let_in(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = write_keys(tmp_path / "rio.toml", NODE, WEB)
    server = await cluster.server(Counter, security=rio.Security.from_file(path))
    host, port = rio.Address.parse(server.address)
    reader, writer = await asyncio.open_connection(host, port)
    own_hello = write_hello(Hello(VERSION, "client", key="web", nonce=b"n" * 32))
    writer.write(len(own_hello).to_bytes(4, "big") + own_hello)
    hello, _ = [
        await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
        for _ in range(2)
    ]
    write_keys(path, NODE)
    await until(lambda: "web" not in server._credentials.keys)
    proof = write_proof(Proofs(own_hello, hello, b"", WEB.secret).of("client"))
    writer.write(len(proof).to_bytes(4, "big") + proof)
    assert msgspec.msgpack.decode((await reader.read())[4:])[:3] == [
        Kind.ERROR,
        0,
        "not_authenticated",
    ]
    writer.close()


async def test_connections_stay_where_only_the_keys_of_others_change(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = write_keys(tmp_path / "rio.toml", NODE, WEB)
    security = rio.Security.from_file(path)
    server = await cluster.server(Counter, security=security)
    client = await cluster.client(security=rio.Security([WEB], encryption="none"))
    await client.send(Counter, "a", Add())
    before = set(server._catalog.dispatcher.connections)
    write_keys(path, NODE, WEB, OPS)
    await until(lambda: "ops" in server._credentials.keys)
    client._router.pool.use_credentials()
    await client.send(Counter, "a", Add())
    assert set(server._catalog.dispatcher.connections) == before


async def test_a_server_proves_itself_by_the_certificate_that_it_has_shown(
    cluster: Cluster, tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = certificate_files(authority, tmp_path)
    text = 'certificate = "node.pem"\nprivate_key = "node.key"\nca = ["ca.pem"]\n'
    path = write(tmp_path / "rio.toml", text + write_key(NODE) + write_key(WEB))
    security = rio.Security.from_file(path)
    server = await cluster.server(Counter, security=security)
    monkeypatch.setattr(server._acceptor, "look", lambda: None)  # it shows the old one for a while
    certificate_files(authority, tmp_path)
    write(path, text + write_key(NODE) + write_key(WEB) + write_key(OPS))
    await until(lambda: "ops" in server._credentials.keys)
    client = await cluster.client(security=rio.Security([WEB], ca=files["ca"]))
    assert await client.send(Counter, "a", Add()) == 1


async def test_a_certificate_is_replaced_while_the_server_runs(
    cluster: Cluster, tmp_path: Path, authority: trustme.CA
) -> None:
    files = certificate_files(authority, tmp_path)
    text = 'certificate = "node.pem"\nprivate_key = "node.key"\nca = ["ca.pem"]\n'
    path = write(tmp_path / "rio.toml", text + write_key(NODE) + write_key(WEB))
    server = await cluster.server(Counter, security=rio.Security.from_file(path))
    client_security = rio.Security([WEB], ca=files["ca"])

    async def shown() -> bytes:
        tls = client_security._trust.client_tls("client")
        host, port = rio.Address.parse(server.address)
        _, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname="")
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        assert isinstance(certificate, bytes)
        return certificate

    before = await shown()
    write(path, 'ca = ["ca.pem"]\n' + write_key(NODE) + write_key(WEB))  # a server needs its own
    server._security_look_at = 0.0
    server._look_at_security()
    assert await shown() == before
    certificate_files(authority, tmp_path)
    write(path, text + write_key(NODE) + write_key(WEB))
    while await shown() == before:  # noqa: ASYNC110  # nobody is told
        await asyncio.sleep(0.02)
    client = await cluster.client(security=client_security)
    assert await client.send(Counter, "a", Add()) == 1
