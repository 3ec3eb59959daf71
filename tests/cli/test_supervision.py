"""Server processes end when they should, and come back when they should."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rio.cli.options import Arguments
from rio.cli.program import parse
from rio.cli.supervisor import Supervisor, command_lines
from rio.errors import ConfigurationError
from tests.cli.processes import ROOT, Running, environment, python, rio, until

pytestmark = pytest.mark.processes

MODULE = """
import asyncio, signal, time
import rio

def was_signalled() -> bool:
    return signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

class Block(rio.Message[None]): ...
class Wait(rio.Message[None]): ...

class Stubborn(rio.ServiceObject):
    @rio.handler
    def block(self, message: Block) -> None:
        print("blocked", flush=True)
        while not was_signalled():
            time.sleep(0.01)
        print("signalled", flush=True)
        while True:
            time.sleep(1)

    @rio.handler
    async def wait(self, message: Wait) -> None:
        print("busy", flush=True)
        while not was_signalled():
            await asyncio.sleep(0.01)
        print("signalled", flush=True)
        await asyncio.sleep(60)

registry = rio.Registry(Stubborn)
"""
FAST = ("--cluster", "local", "--log-level", "warning")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "stubborn.py").write_text(MODULE)
    return tmp_path


def run_arguments(*more: str) -> tuple[str, ...]:
    return ("run", "stubborn", "--storage", "sqlite:///s.db", *FAST, *more)


def send(shop: Path, message: str, id: str = "a") -> subprocess.Popen[bytes]:
    """Have a server begin with a message that does not end."""
    line = [sys.executable, "-m", "rio", "send", "Stubborn", id, message]
    return subprocess.Popen(
        [*line, "--storage", "sqlite:///s.db"],
        cwd=shop,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def worker_of(parent: int) -> list[int]:
    """The processes whose parent is this one."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in listed.stdout.split()]


async def seen(condition: Callable[[], object]) -> None:
    """Wait for a condition, up to the time limit of the test."""
    while not condition():  # noqa: ASYNC110  # what is waited for notifies nobody
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_of_either_kind_ends_a_server_whose_loop_is_blocked(
    shop: Path, second: signal.Signals
) -> None:
    with Running(*run_arguments(), cwd=shop) as server:
        server.address()
        sender = send(shop, "Block")
        assert server.line() == "blocked"
        server.signal(signal.SIGTERM)
        assert server.line() == "signalled"
        server.signal(second)
        assert server.ended() == -second
        sender.kill()
        sender.wait()


def test_a_second_signal_to_workers_that_are_busy_does_not_end_with_0(shop: Path) -> None:
    with Running(*run_arguments("--workers", "2"), cwd=shop) as servers:
        servers.address(), servers.address()
        sender = send(shop, "Wait")
        assert servers.line() == "busy"
        servers.signal(signal.SIGTERM)
        assert servers.line() == "signalled"
        servers.signal(signal.SIGTERM)
        assert servers.ended() == 128 + signal.SIGTERM
        sender.kill()
        sender.wait()


@pytest.mark.parametrize("delay", [0.1, 0.3, 0.6])
def test_ctrl_c_during_the_start_of_workers_is_no_error(shop: Path, delay: float) -> None:
    with Running(*run_arguments("--workers", "2"), cwd=shop) as servers:
        until(lambda: len(worker_of(servers.process.pid)) == 2)
        with pytest.raises(subprocess.TimeoutExpired):
            servers.process.wait(delay)
        servers.signal(signal.SIGINT)
        assert servers.ended() == 0
        assert "Traceback" not in servers.errors()


async def test_a_worker_that_does_not_end_is_killed(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    deaf = (
        "import pathlib, signal, sys, time; signal.signal(15, signal.SIG_IGN);"
        " pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    )
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", deaf, str(ready)]
    supervisor = Supervisor([command], os.environ, patience=0.2)
    running = asyncio.ensure_future(supervisor.run())
    await seen(ready.exists)
    supervisor._stop()
    assert await running == 128 + signal.SIGKILL
    assert "server 1 did not end within 0.2 s" in caplog.text


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process that its parent has ended"
)
def test_a_blocked_worker_does_not_outlive_its_parent_for_good(shop: Path) -> None:
    (shop / "impatient.py").write_text(
        "import rio.cli.server_process\nrio.cli.server_process.STOP_TIMEOUT = 4.0\n" + MODULE
    )
    arguments = ("run", "impatient", "--storage", "sqlite:///s.db", *FAST, "--workers", "2")
    with Running(*arguments, cwd=shop) as servers:
        servers.address(), servers.address()
        sender = send(shop, "Block")
        assert servers.line() == "blocked"
        workers = worker_of(servers.process.pid)
        assert len(workers) == 2
        servers.signal(signal.SIGKILL)
        until(lambda: not any(is_alive(pid) for pid in workers))
        assert "in block" in servers.errors(), "the log shows where it was blocked"
        sender.kill()
        sender.wait()


# --- starts ---------------------------------------------------------------------------------------


async def test_a_worker_that_cannot_be_started_costs_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rio.cli.supervisor.FIRST_DELAY", 0.05)
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    supervisor = Supervisor([sleeper, sleeper], os.environ)
    running = asyncio.ensure_future(supervisor.run())
    await seen(lambda: len(supervisor._children) == 2)
    before = {number: child.pid for number, child in supervisor._children.items()}
    import resource  # here, because Windows has none

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        supervisor._children[1].kill()
        await seen(lambda: "could not be started" in caplog.text)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    await seen(lambda: 1 in supervisor._children)
    assert supervisor._children[1].pid != before[1]
    assert supervisor._children[2].pid == before[2]
    supervisor._stop()
    assert await running == 0


async def test_a_worker_that_was_killed_comes_back_however_its_restart_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill while the storage is away."""
    monkeypatch.setattr("rio.cli.supervisor.FIRST_DELAY", 0.02)
    program = f"""
import os, signal, sys
with open({str(tmp_path / "runs")!r}, "a+") as file:
    file.write("x"); file.seek(0); runs = len(file.read())
if runs == 1:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(1 if runs < 4 else 0)
"""
    supervisor = Supervisor([[sys.executable, "-c", program]], os.environ)
    assert await supervisor.run() == 0
    assert (tmp_path / "runs").read_text() == "xxxx"


def test_a_server_waits_for_a_storage_that_is_not_up_yet(shop: Path) -> None:
    database = sqlite3.connect(shop / "s.db", isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    with Running(*run_arguments("--wait", "30"), cwd=shop) as server:
        until(lambda: "waiting up to 30 s for the storage" in server.errors())
        database.close()
        server.address()
        server.signal(signal.SIGTERM)
        assert server.ended() == 0


def test_workers_wait_as_long_as_a_single_server() -> None:
    (line,) = command_lines(parse(["run", "m", "--storage", "s", "--wait", "7.5"], {}))
    assert line[line.index("--wait") + 1] == "7.5"


def test_a_signal_ends_the_wait_for_a_storage(shop: Path) -> None:
    database = sqlite3.connect(shop / "s.db", isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    with Running(*run_arguments("--wait", "30"), cwd=shop) as server:
        until(lambda: "waiting up to 30 s for the storage" in server.errors())
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
    database.close()


def test_workers_without_enough_ports_are_refused() -> None:
    given: Arguments = parse(
        ["run", "m", "--storage", "s", "--address", "h:65535", "--workers", "2"], {}
    )
    with pytest.raises(ConfigurationError, match="65535 is the last"):
        command_lines(given)


def test_workers_at_one_path_have_a_file_each() -> None:
    given: Arguments = parse(
        ["run", "m", "--storage", "s", "--address", "unix:/run/a", "--workers", "3"], {}
    )
    lines = command_lines(given)
    assert [line[line.index("--address") + 1] for line in lines] == [
        "unix:/run/a",
        "unix:/run/a.1",
        "unix:/run/a.2",
    ]
    assert {line[line.index("--socket-mode") + 1] for line in lines} == {"600"}


def test_workers_at_socket_files_serve_this_machine(shop: Path) -> None:
    options = ("--workers", "2", "--socket-mode", "660", "--log-level", "warning")
    with TemporaryDirectory(prefix="rio-") as folder:  # its name is short enough for a socket
        address = Path(folder) / "a"
        command = run_arguments("--address", f"unix:{address}", *options)
        with Running(*command, cwd=shop) as running:
            assert {running.line().split()[2] for _ in range(2)} == {
                f"unix:{address}",
                f"unix:{address}.1",
            }
            assert {each.stat().st_mode & 0o777 for each in Path(folder).iterdir()} == {0o660}
            stopped = rio("stop", f"unix:{address}.1", "--storage", "sqlite:///s.db", cwd=shop)
            assert (stopped.returncode, stopped.stderr) == (0, "")
            until(lambda: not address.with_name("a.1").exists())
            running.signal(signal.SIGTERM)
            assert running.ended() == 75, "a client has stopped one of them"
        assert os.listdir(folder) == []


# --- the surroundings -----------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_closed_standard_files_are_no_error(shop: Path, closed: str, workers: str) -> None:
    log = shop / "pids"
    (shop / "noting.py").write_text(MODULE + f"open({str(log)!r}, 'a').write('x')\n")
    line = f"exec {sys.executable} -m rio run noting --storage sqlite:///s.db --cluster local"
    process = subprocess.Popen(
        ["sh", "-c", f"{line} --workers {workers} {closed}"], cwd=shop, env=environment()
    )
    members = ("members", "--storage", "sqlite:///s.db")
    until(lambda: rio(*members, cwd=shop).stdout.count("active") == int(workers))
    process.terminate()
    assert process.wait(20) == 0


def test_workers_do_not_take_files_of_the_current_folder_for_modules(shop: Path) -> None:
    (shop / "rio.py").write_text("")
    (shop / "types.py").write_text("raise SystemExit('the wrong module')")
    installed = Path(sys.executable).with_name("rio")
    process = subprocess.Popen(
        [installed, *run_arguments("--workers", "2")],
        cwd=shop,
        env={**environment(), "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("listening on")
    assert process.stdout.readline().startswith("listening on")
    process.terminate()
    process.stdout.close()
    assert process.wait(20) == 0


def test_workers_run_with_the_flags_of_their_parent() -> None:
    program = """
from rio.cli.program import parse
from rio.cli.supervisor import command_lines
print(*command_lines(parse(["run", "m", "--storage", "s"], {}))[0])
"""
    shown = subprocess.run(
        [sys.executable, "-O", "-X", "dev", "-W", "error::UserWarning", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    ).stdout.split()
    flags = shown[1 : shown.index("-m")]
    assert {"-O", "-P", "-Werror::UserWarning"} <= set(flags)
    assert "dev" in flags or "-Xdev" in flags


LATE = """
import os, signal, sys
from rio.cli.server_process import keep_exit_code

with keep_exit_code() as note_end:
    if sys.argv[1] == "before":
        os.kill(os.getpid(), signal.SIGTERM)
    note_end()
    os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
sys.exit(70)
"""


@pytest.mark.parametrize(("moment", "code"), [("before", -signal.SIGTERM), ("after", 70)])
def test_a_signal_to_a_process_that_has_ended_its_work_does_not_replace_its_exit_code(
    moment: str, code: int, tmp_path: Path
) -> None:
    assert python("-c", LATE, moment, cwd=tmp_path).returncode == code
