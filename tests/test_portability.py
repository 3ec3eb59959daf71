"""Where a system lacks something, the rest works, and what needs it says what is missing.

These tests take from Linux what the other system lacks. They cannot show that nothing else differs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rio._core.clock import now
from rio.cli.program import main

POSIX_MODULES = ["fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"]
POSIX_NAMES = {
    "os": ["fork", "getuid", "register_at_fork", "sched_getaffinity", "sysconf"],
    "signal": ["SIGCONT", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGUSR1", "pthread_sigmask"],
    "socket": ["SO_REUSEPORT", "TCP_USER_TIMEOUT"],
}
LIBRARIES = [
    "asyncio",
    "multiprocessing",
    "sqlite3",
    "ssl",
    "aiosqlite",
    "asyncpg",
    "redis.asyncio",
]
"""They ask for the system when they are imported, and have their own tests."""

IMPORT_ALL = f"""
import importlib, pkgutil, sys
for name in {LIBRARIES!r}:
    importlib.import_module(name)
for name in {POSIX_MODULES!r} + ["uvloop"]:
    sys.modules[name] = None
for module, names in {POSIX_NAMES!r}.items():
    for name in names:
        delattr(sys.modules[module], name)
sys.platform = "win32"
import os
os.process_cpu_count = os.cpu_count     # that of Linux asks for the affinity
import rio
for module in pkgutil.walk_packages(rio.__path__, "rio."):
    if module.name not in ("rio.__main__", "rio.testing.conformance"):
        importlib.import_module(module.name)


class Text(rio.Message["Text"]):
    text: str


async def main():
    async with rio.Server(rio.Registry(Echo), storage="sqlite:///here.db"):
        async with rio.Client("sqlite:///here.db") as client:
            return await client.send(Echo, "a", Text("still here"))


class Echo(rio.ServiceObject):
    @rio.handler
    async def echo(self, message: Text) -> Text:
        return message


print(rio.run(main()).text)
"""


@pytest.mark.slow
def test_the_package_works_where_the_modules_of_posix_are_missing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(IMPORT_ALL)
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("still here", "")


def test_more_workers_are_refused_where_no_process_can_ask_another_to_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    code = main(["run", "bank:registry", "--storage", "sqlite:///bank.db", "--workers", "2"])
    assert code == 1
    assert "--workers does not exist on Windows" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems call it otherwise")
def test_the_clock_is_one_that_goes_on_while_the_machine_is_suspended() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    read = now()
    assert before <= read <= time.clock_gettime(time.CLOCK_BOOTTIME)
