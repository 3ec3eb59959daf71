"""The command ``rio``, run as processes: what it prints, where, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

import rio as package
from rio.cli import main
from rio.cli.program import parse
from rio.cli.registry import load_registry
from rio.cli.supervisor import command_lines, environment_of_children
from rio.contracts.membership import MemberStatus
from rio.storage import Keyring, open_storage
from tests.cli.processes import ROOT, Running, environment, rio, until

COUNTERS = """
import os
import rio

class Value(rio.Message):
    saved: int
    in_memory: int
    pid: int

class Add(rio.Message[Value]):
    amount: int = 1

class Crash(rio.Message[None]):
    pass

class TooMuch(rio.ApplicationError):
    limit: int

class Total(rio.State):
    value: int = 0

class Counter(rio.ServiceObject):
    total: Total = rio.managed_state()
    in_memory = 0

    @rio.handler
    async def add(self, message: Add) -> Value:
        if message.amount > 100:
            raise TooMuch(limit=100)
        self.in_memory += message.amount
        self.total.value += message.amount
        await self.save_state()
        return Value(self.total.value, self.in_memory, os.getpid())

    @rio.handler
    async def crash(self, message: Crash) -> None:
        raise ValueError("on purpose")

class Names(rio.Message[dict[int, bytes]]):
    names: dict[int, bytes]

class Parrot(rio.ServiceObject):
    @rio.handler
    def names(self, message: Names) -> dict[int, bytes]:
        return message.names

    @rio.handler("Say")
    def say(self, value):
        return value

    @rio.handler("SayBytes")
    def say_bytes(self, value):
        return b"bytes"

registry = rio.Registry(Counter, Parrot)
not_a_registry = 7
"""
BROKEN = "import a_module_that_is_not_installed"
WRONG = "import rio\nregistry = rio.Registry(int)"
FAST = ("--cluster", "local", "--log-level", "warning")


def fill(directory: Path) -> Path:
    """The files of a user's directory."""
    (directory / "counters.py").write_text(COUNTERS)
    (directory / "broken.py").write_text(BROKEN)
    (directory / "wrong.py").write_text(WRONG)
    return directory


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory with programs in it, and no server."""
    return fill(tmp_path)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in which a server runs on ``shared.db``."""
    directory = fill(tmp_path_factory.mktemp("cluster"))
    with Running(
        "run", "counters:registry", "--storage", "sqlite:///shared.db", *FAST, cwd=directory
    ) as server:
        server.address()
        yield directory


# --- run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_says_where_it_listens_and_ends_with_0_when_a_signal_asks_for_it(
    shop: Path, number: signal.Signals
) -> None:
    with Running(
        "run", "counters:registry", "--storage", "sqlite:///c.db", *FAST, cwd=shop
    ) as server:
        assert re.fullmatch(r"listening on 127\.0\.0\.1:\d+ \(member \d+\)", server.line())
        server.signal(number)
        assert server.ended() == 0
        assert server.errors() == ""


def test_a_stopped_server_has_left_the_cluster(shop: Path) -> None:
    with Running("run", "counters", "--storage", "sqlite:///c.db", *FAST, cwd=shop) as server:
        server.line()
        server.signal(signal.SIGTERM)
        server.ended()
    assert "left" in rio("members", "--storage", "sqlite:///c.db", cwd=shop).stdout


def test_every_option_of_run_can_come_from_the_environment(shop: Path) -> None:
    environ = {
        "RIO_STORAGE": "sqlite:///c.db",
        "RIO_ADDRESS": "localhost:0",
        "RIO_ADVERTISE": "127.0.0.1:0",
        "RIO_CLUSTER": "local",
        "RIO_WORKERS": "2",
        "RIO_LOG_LEVEL": "debug",
    }
    with Running("run", "counters:registry", cwd=shop, environ=environ) as server:
        addresses = {server.address(), server.address()}
        assert {address.partition(":")[0] for address in addresses} == {"127.0.0.1"}
        assert len(addresses) == 2
        assert "DEBUG" in server.errors()


def test_a_server_that_the_cluster_declares_dead_ends_with_70(shop: Path) -> None:
    with Running(
        "run", "counters:registry", "--storage", "sqlite:///c.db", *FAST, cwd=shop
    ) as server:
        server.line()
        declare_dead(shop / "c.db", 1)
        assert server.ended() == 70
        assert "rio: NodeEvicted: " in server.errors()


def test_an_address_in_use_is_one_clear_line(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        ended = rio(
            "run",
            "counters:registry",
            "--storage",
            "memory://",
            "--address",
            taken,
            "--log-level",
            "error",
            cwd=shop,
        )
    assert_one_line(ended.stderr, f"rio: BindFailed: cannot listen on {taken}: ", "in use")
    assert ended.returncode == 1


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nowhere:registry", "there is no module 'nowhere'"),
        ("counters.nowhere:registry", "there is no module 'counters.nowhere'"),
        ("counters:registy", "module 'counters' has no 'registy'; did you mean counters:registry?"),
        (
            "counters:not_a_registry",
            "counters:not_a_registry is no rio.Registry but of type int; did you mean"
            " counters:registry?",
        ),
        ("counters.py", "'counters.py' is a file: write its module, counters"),
        ("counters-registry", "write MODULE:REGISTRY"),
        (
            "broken:registry",
            "module 'broken' cannot be imported: No module named 'a_module_that_is_not_installed'",
        ),
        ("wrong:registry", "int"),
    ],
)
def test_a_registry_that_cannot_be_had_is_one_clear_line(
    shop: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    target: str,
    text: str,
) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.setattr(sys, "path", [str(shop), *sys.path])
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    assert main(["run", target, "--storage", "memory://"]) == 1
    assert_one_line(capsys.readouterr().err, text)


def test_what_the_module_itself_raises_is_shown_as_it_is(shop: Path) -> None:
    (shop / "divided.py").write_text("1 / 0")
    ended = rio("run", "divided:registry", "--storage", "memory://", cwd=shop)
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
    assert "divided.py" in ended.stderr


# --- run --workers --------------------------------------------------------------------------------


def test_all_workers_drain_when_the_parent_gets_sigterm(shop: Path) -> None:
    with Running(
        "run", "counters:registry", "--workers", "2", "--storage", "sqlite:///c.db", *FAST, cwd=shop
    ) as servers:
        assert servers.address() != servers.address()
        servers.signal(signal.SIGTERM)
        assert servers.ended() == 0
    assert statuses(shop / "c.db") == ["LEFT", "LEFT"]


def test_a_worker_that_is_killed_is_started_again(shop: Path) -> None:
    with Running(
        "run", "counters:registry", "--workers", "2", "--storage", "sqlite:///c.db", *FAST, cwd=shop
    ) as servers:
        addresses = {servers.address(), servers.address()}
        os.kill(pid_of_a_worker(shop), signal.SIGKILL)
        assert servers.address() not in addresses
        assert "was ended by SIGKILL; it starts again" in servers.errors()


def test_a_worker_that_the_cluster_declares_dead_is_started_again(shop: Path) -> None:
    with Running(
        "run", "counters:registry", "--workers", "2", "--storage", "sqlite:///c.db", *FAST, cwd=shop
    ) as servers:
        before = {servers.line(), servers.line()}
        declare_dead(shop / "c.db", 2)
        assert re.fullmatch(r"listening on .* \(member \d+\)", after := servers.line())
        assert after not in before


def listen_before_a_free_port() -> socket.socket:
    while True:
        listening = socket.create_server(("127.0.0.1", 0))
        with suppress(OSError, OverflowError):
            socket.create_server(("127.0.0.1", listening.getsockname()[1] + 1)).close()
            return listening
        listening.close()


def test_a_worker_that_cannot_start_is_not_tried_again(shop: Path) -> None:
    with listen_before_a_free_port() as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        arguments = (
            "run",
            "counters:registry",
            "--workers",
            "2",
            "--storage",
            "sqlite:///c.db",
            "--address",
            taken,
            *FAST,
        )
        with Running(*arguments, cwd=shop) as servers:
            servers.line()  # the server on the next port
            until(lambda: "server 1 ended with exit code 1" in servers.errors())
            servers.signal(signal.SIGTERM)
            assert servers.ended() == 1


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process that its parent has ended"
)
def test_workers_drain_when_the_parent_is_killed(shop: Path) -> None:
    with Running(
        "run", "counters:registry", "--workers", "2", "--storage", "sqlite:///c.db", *FAST, cwd=shop
    ) as servers:
        servers.line(), servers.line()
        servers.signal(signal.SIGKILL)
        until(lambda: statuses(shop / "c.db") == ["LEFT", "LEFT"])


PARENT_OF_MANY_THREADS = """
import sys, threading, time
for _ in range(20):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
from rio.cli.program import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process that its parent has ended"
)
def test_workers_drain_once_when_a_parent_of_many_threads_is_killed(shop: Path) -> None:
    """Each thread that ends hands them to the next one, and the system asks them to end each time.
    Libraries start such threads, and the kernel does (``io_uring``).
    """
    (shop / "threads.py").write_text(PARENT_OF_MANY_THREADS)
    command = ("run", "counters:registry", "--workers", "2", "--storage", "sqlite:///c.db", *FAST)
    with Running(*command, cwd=shop, module="threads") as servers:
        servers.line(), servers.line()
        servers.signal(signal.SIGKILL)
        until(lambda: statuses(shop / "c.db") == ["LEFT", "LEFT"])


def test_workers_take_the_ports_after_the_given_one() -> None:
    given = parse(
        [
            "run",
            "m:r",
            "--storage",
            "s",
            "--workers",
            "3",
            "--address",
            "[::1]:7000",
            "--advertise",
            "a.example:80",
        ],
        {},
    )
    lines = [" ".join(command) for command in command_lines(given)]
    assert [re.findall(r"--ad\w+ (\S+)", line) for line in lines] == [
        [f"[::1]:{7000 + n}", f"a.example:{80 + n}"] for n in range(3)
    ]


def test_workers_have_the_limits_that_are_given() -> None:
    given = ["--idle-after", "never", "--max-objects", "50", "--max-memory", "80%"]
    given += ["--latency", "low"]
    limits = {"idle_after": None, "max_objects": 50, "max_memory": "80%", "latency": "low"}
    parsed = parse(["run", "m:r", "--storage", "s", *given], {})
    (command,) = command_lines(parsed)
    again = parse(["run", *command[command.index("run") + 1 :]], environment_of_children(parsed))
    for name, value in limits.items():
        assert getattr(parsed, name) == getattr(again, name) == value
    usual = parse(["run", "m:r", "--storage", "s"], {"RIO_MAX_MEMORY": "1000000"})
    assert (usual.idle_after, usual.max_objects, usual.max_memory) == (900.0, None, 1_000_000)
    assert usual.latency == "normal"


def test_workers_have_the_keys_that_are_given() -> None:
    given = {"RIO_KEYRING": "/etc/keys", "RIO_PLAIN_STATES": "accept"}
    parsed = parse(["run", "m:r", "--storage", "s"], given)
    (command,) = command_lines(parsed)
    again = parse(["run", *command[command.index("run") + 1 :]], environment_of_children(parsed))
    assert (again.keyring, again.plain_states) == ("/etc/keys", True)
    assert parse(["run", "m:r", "--storage", "s"], {}).plain_states is False


def test_a_server_with_a_keyring_encrypts_what_it_saves(shop: Path) -> None:
    (shop / "keys").write_text(Keyring.generate("a"))
    (shop / "keys").chmod(0o600)
    storage = ("--storage", "sqlite:///c.db")
    for saved in (1, 2):
        with Running(
            "run", "counters:registry", *storage, "--keyring", "keys", *FAST, cwd=shop
        ) as server:
            server.address()
            sent = rio("send", "Counter", "x", "Add", *storage, cwd=shop)
            assert json.loads(sent.stdout)["saved"] == saved
            server.signal(signal.SIGTERM)
            assert server.ended() == 0
            assert server.errors() == ""
    with closing(sqlite3.connect(shop / "c.db")) as database:
        [(data,)] = database.execute("SELECT data FROM rio_object")
    assert data.startswith(b"\xc1\x01\x01a")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--plain-states", "maybe"),
        ("--idle-after", "0"),
        ("--max-objects", "0"),
        ("--max-memory", "80 MB"),
        ("--max-memory", "0%"),
        ("--latency", "lowest"),
    ],
)
def test_a_limit_that_cannot_be_is_wrong_usage(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["run", "m:r", "--storage", "s", option, value], {})
    assert option in capsys.readouterr().err


def test_the_urls_of_storages_are_in_no_command_line_of_a_worker() -> None:
    urls = ["--storage", "redis://u:secret@a", "--state", "postgres://u:secret@b/c"]
    parsed = parse(["run", "m:r", *urls, "--workers", "2"], {})
    assert not any("secret" in word for command in command_lines(parsed) for word in command)
    assert environment_of_children(parsed) == {"RIO_STORAGE": urls[1], "RIO_STATE": urls[3]}


def test_workers_with_port_0_each_take_a_free_one() -> None:
    given = parse(["run", "m:r", "--storage", "s", "--workers", "2"], {})
    assert all("--address 127.0.0.1:0 " in " ".join(command) for command in command_lines(given))


def test_memory_is_refused_for_workers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    for url in ("memory://", "MEMORY://"):
        assert main(["run", "counters:registry", "--storage", url, "--workers", "2"]) == 1
        assert_one_line(capsys.readouterr().err, "memory:// cannot be shared")


# --- members, send, shutdown, stop ----------------------------------------------------------------


def test_members_are_listed_with_their_address_and_status(cluster: Path) -> None:
    listed = rio("members", "--storage", "sqlite:///shared.db", cwd=cluster)
    assert re.fullmatch(
        r"MEMBER +ADDRESS +STATUS\n *\d+  127\.0\.0\.1:\d+  active\n", listed.stdout
    )
    assert listed.returncode == 0


async def make_tables(url: str) -> None:
    async with open_storage(url):
        pass


def test_an_empty_cluster_says_so(shop: Path) -> None:
    asyncio.run(make_tables(f"sqlite:///{shop}/new.db"))
    listed = rio("members", "--storage", "sqlite:///new.db", cwd=shop)
    assert listed.stdout == ""
    assert "no members" in listed.stderr
    assert listed.returncode == 0


def test_the_reply_to_a_message_is_printed_as_json(cluster: Path) -> None:
    sent = rio(
        "send",
        "Counter",
        "json",
        "Add",
        '{"amount": 5}',
        "--storage",
        "sqlite:///shared.db",
        cwd=cluster,
    )
    reply = json.loads(sent.stdout)
    assert (reply["saved"], reply["in_memory"]) == (5, 5)
    assert sent.returncode == 0


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
STORAGE = ("--storage", "sqlite:///shared.db")


def test_a_reply_that_the_terminal_cannot_show_is_escaped(cluster: Path) -> None:
    shown = rio("send", "Parrot", "p", "Say", r'"\ud83d\ude00"', *STORAGE, cwd=cluster)
    assert (shown.stdout, shown.returncode) == ('"\N{GRINNING FACE}"\n', 0)
    escaped = rio(
        "send", "Parrot", "p", "Say", r'"\ud83d\ude00"', *STORAGE, cwd=cluster, environ=ASCII
    )
    assert (escaped.stdout, escaped.returncode) == (r'"\ud83d\ude00"' + "\n", 0)


def test_a_call_whose_reply_cannot_be_printed_has_an_exit_code_of_its_own(cluster: Path) -> None:
    with open("/dev/full", "w") as full:
        sent = subprocess.run(
            [sys.executable, "-m", "rio", "send", "Parrot", "p", "Say", "1", *STORAGE],
            cwd=cluster,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert sent.returncode == 3
    assert_one_line(sent.stderr, "rio: the call succeeded, but its reply cannot be printed: ")


def test_bytes_in_a_reply_are_printed_as_base64(cluster: Path) -> None:
    shown = rio("send", "Parrot", "p", "SayBytes", *STORAGE, cwd=cluster)
    assert (json.loads(shown.stdout), shown.returncode) == ("Ynl0ZXM=", 0)


REGISTRY = ("--registry", "counters:registry")


def test_what_is_printed_is_taken_as_a_message_of_its_class(cluster: Path) -> None:
    names = '{"7":"Ynl0ZXM="}'
    sent = rio(
        *("send", "Parrot", "p", "Names", f'{{"names": {names}}}', *STORAGE, *REGISTRY), cwd=cluster
    )
    assert (sent.stdout, sent.returncode) == (names + "\n", 0)


@pytest.mark.parametrize(
    ("message", "payload", "text"),
    [
        ("Names", '{"names": {"x": ""}}', "the JSON does not fit Names: Expected `int`"),
        ("Nmes", "{}", "counters:registry has no handler of Parrot for Nmes"),
    ],
)
def test_a_message_that_its_class_does_not_take_is_not_sent(
    cluster: Path, message: str, payload: str, text: str
) -> None:
    sent = rio("send", "Parrot", "p", message, payload, *STORAGE, *REGISTRY, cwd=cluster)
    assert_one_line(sent.stderr, text)
    assert sent.returncode == 1


def test_a_message_without_fields_needs_no_payload(cluster: Path) -> None:
    sent = rio(
        "send",
        "Counter",
        "bare",
        "Add",
        cwd=cluster,
        environ={"RIO_STORAGE": "sqlite:///shared.db", "RIO_TIMEOUT": "9"},
    )
    assert json.loads(sent.stdout)["saved"] == 1


def test_shutdown_has_an_object_leave_memory_but_not_the_disk(cluster: Path) -> None:
    storage = ("--storage", "sqlite:///shared.db")
    rio("send", "Counter", "sleepy", "Add", '{"amount": 5}', *storage, cwd=cluster)
    for options in ((), ("--force",)):  # the second one finds it gone, which is no error
        assert rio("shutdown", "Counter", "sleepy", *options, *storage, cwd=cluster).returncode == 0
    reply = json.loads(
        rio("send", "Counter", "sleepy", "Add", '{"amount": 2}', *storage, cwd=cluster).stdout
    )
    assert (reply["saved"], reply["in_memory"]) == (7, 2)


def test_a_server_that_a_client_has_stopped_ends_with_75(shop: Path) -> None:
    with Running(
        "run", "counters:registry", "--storage", "sqlite:///c.db", *FAST, cwd=shop
    ) as server:
        assert (
            rio("stop", server.address(), "--storage", "sqlite:///c.db", cwd=shop).returncode == 0
        )
        assert server.ended() == 75


def test_an_application_error_is_shown_with_its_fields(cluster: Path) -> None:
    sent = rio(
        "send",
        "Counter",
        "x",
        "Add",
        '{"amount": 101}',
        "--storage",
        "sqlite:///shared.db",
        cwd=cluster,
    )
    assert (sent.returncode, sent.stdout, sent.stderr) == (1, "", 'rio: TooMuch: {"limit":100}\n')


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("Counter", "x", "Add", '{"amount": "many"}'), "rio: BadMessage: "),
        (
            ("Counter", "x", "Crash"),
            "rio: HandlerFailed: Counter/x failed in Crash: ValueError: on purpose",
        ),
        (
            ("Counter", "x", "Subtract"),
            "rio: UnknownMessage: 'Counter' has no handler for message 'Subtract'; it handles:"
            " Add, Crash",
        ),
        (("Abacus", "x", "Add"), "rio: UnknownType: "),
        (("Counter", "", "Add"), "rio: BadIdentity: "),
    ],
)
def test_a_failed_call_is_one_clear_line(
    cluster: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str
) -> None:
    assert main(["send", *arguments, "--storage", f"sqlite:///{cluster}/shared.db"]) == 1
    assert_one_line(capsys.readouterr().err, text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("members", "--storage", "nosuch://host"), "'nosuch://host' is no storage URL"),
        (
            ("run", "counters:registry", "--storage", "nosuch://host"),
            "'nosuch://host' is no storage URL",
        ),
        (("members", "--storage", "memory://"), "memory:// belongs to one process"),
        (
            ("send", "Counter", "x", "Add", "--storage", "sqlite:///new.db"),
            "new.db: there is no such file",
        ),
        (("stop", "127.0.0.1:1", "--storage", "sqlite:///new.db"), "new.db: there is no such file"),
        (("members", "--storage", "sqlite:///new.db"), "new.db: there is no such file"),
        (("settings", "--storage", "sqlite:///new.db"), "new.db: there is no such file"),
        (
            ("state", "check", "counters:registry", "--storage", "sqlite:///new.db"),
            "new.db: there is no such file",
        ),
        (("members", "--storage", "sqlite:////no/such/directory/x.db"), "rio: Storage"),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_one_clear_line(
    shop: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    text: str,
) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    assert main(arguments) == 1
    assert_one_line(capsys.readouterr().err, text)


# --- usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environ", "text"),
    [
        ((), {}, "COMMAND"),
        (("members",), {}, "--storage"),
        (("run", "--storage", "memory://"), {}, "MODULE:REGISTRY"),
        (
            ("run", "m:r", "--storage", "s", "--workers", "0"),
            {},
            "'0' is not a number of at least 1",
        ),
        (
            ("run", "m:r", "--storage", "s"),
            {"RIO_WORKERS": "many"},
            "'many' is not a number of at least 1",
        ),
        (("run", "m:r", "--storage", "s", "--address", "here"), {}, "write HOST:PORT"),
        (
            ("run", "m:r", "--storage", "s"),
            {"RIO_CLUSTER": "slow"},
            "there is no preset 'slow': choose one of strict, fast, local",
        ),
        (
            ("run", "m:r", "--storage", "s", "--log-level", "loud"),
            {},
            "'loud' is not one of debug, info, warning, error",
        ),
        (("send", "T", "i", "M", "{", "--storage", "s"), {}, "'{' is not JSON"),
        (
            ("send", "T", "i", "M", "--storage", "s", "--timeout", "-1"),
            {},
            "'-1' is not a number of seconds above 0",
        ),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    environ: dict[str, str],
    text: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(list(arguments), environ)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "members", "send", "shutdown", "stop"])
def test_the_help_of_each_command_has_an_example_and_names_the_environment(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([command, "--help"], {})
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"\n  rio {command} " in shown
    assert "RIO_STORAGE" in shown
    with_values = re.findall(r"\n  --[a-z-]+ [A-Z].*?(?=\n  --|\n\n)", shown, re.DOTALL)
    assert with_values
    assert all("RIO_" in option for option in with_values)


def test_the_overview_has_an_example_of_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    shown = capsys.readouterr().out
    assert all(
        f"\n  rio {command} " in shown for command in ["run", "members", "send", "shutdown", "stop"]
    )


def test_the_line_wins_over_the_environment() -> None:
    assert parse(["members", "--storage", "a"], {"RIO_STORAGE": "b"}).storage == "a"


def test_an_empty_variable_counts_as_none() -> None:
    assert parse(["run", "m:r"], {"RIO_STORAGE": "b", "RIO_WORKERS": ""}).workers == 1


def test_the_installed_command_is_this_one() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"rio": "rio.cli:main"}


def test_rio_alone_shows_the_help_and_rio_version_the_version(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, text in ([], "rio run bank:registry"), (["--version"], package.__version__):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reference", "right"),
    [("bank.py", "bank"), ("bank.py:objects", "bank:objects"), ("./shop/bank.py", "shop.bank")],
)
def test_a_file_in_place_of_a_module_is_told_what_to_write(reference: str, right: str) -> None:
    with pytest.raises(package.errors.ConfigurationError, match=f"write its module, {right}$"):
        load_registry(reference)


# --- helpers --------------------------------------------------------------------------------------


def assert_one_line(errors: str, *texts: str) -> None:
    assert errors.startswith("rio: ")
    assert errors.count("\n") == 1, errors
    for text in texts:
        assert text in errors


def declare_dead(database: Path, number: int) -> None:
    """Declare the member dead that joined as the given one, from 1."""

    async def declare() -> None:
        async with package.open_storage(f"sqlite:///{database}") as storage:
            generation = (await storage.membership.snapshot()).members[number - 1].generation
            change = await storage.membership.set_status(
                generation, MemberStatus.ACTIVE, MemberStatus.DEAD
            )
            assert change.applied

    asyncio.run(declare())


def statuses(database: Path) -> list[str]:
    async def read() -> list[str]:
        async with package.open_storage(f"sqlite:///{database}") as storage:
            return [member.status.name for member in (await storage.membership.snapshot()).members]

    return asyncio.run(read())


def pid_of_a_worker(directory: Path) -> int:
    """The process in which some object lives."""
    pid: int = json.loads(
        rio("send", "Counter", "x", "Add", "--storage", "sqlite:///c.db", cwd=directory).stdout
    )["pid"]
    return pid


# --- rio settings ---------------------------------------------------------------------------------


def test_settings_are_shown_changed_and_refuse_who_differs(shop: Path) -> None:
    storage = ("--storage", "sqlite:///c.db")
    with Running("run", "counters:registry", *storage, *FAST, cwd=shop) as server:
        server.line()
        shown = rio("settings", *storage, cwd=shop).stdout
        pattern = r"cluster [0-9a-f]{32}\nsettings 1: lease_local 1.5, lease_evict 1.95"
        assert re.match(pattern, shown)
        refused = rio("run", "counters:registry", *storage, "--cluster", "strict", cwd=shop)
        assert refused.returncode == 1
        assert "give all the same --cluster" in refused.stderr
        changed = rio("settings", "set", "fast", *storage, cwd=shop)
        assert "settings 3: lease_local 2.5, lease_evict 3.25, poll_interval 0.5" in changed.stdout
        copied = rio("settings", "new-id", *storage, cwd=shop)
        assert_one_line(copied.stderr, "lives in this storage, so it is no copy")


def test_a_copied_database_gets_another_id_in_all_its_roles(shop: Path) -> None:
    storage = ("--storage", "sqlite:///c.db")
    with Running("run", "counters:registry", *storage, *FAST, cwd=shop) as server:
        server.line()
        with closing(sqlite3.connect(shop / "c.db")) as original:
            original.execute("VACUUM INTO ?", (str(shop / "copy.sqlite"),))
        copy = ("--storage", "sqlite:///copy.sqlite")
        before = rio("settings", *storage, cwd=shop).stdout.splitlines()[0]
        after = rio("settings", "new-id", *copy, cwd=shop)
        assert after.returncode == 0, after.stderr
        assert after.stdout.splitlines()[0] != before
        assert re.search("dead", rio("members", *copy, cwd=shop).stdout)
        with Running("run", "counters:registry", *copy, *FAST, cwd=shop) as other:
            assert other.line().startswith("listening on")
        assert rio("settings", *storage, cwd=shop).stdout.splitlines()[0] == before
