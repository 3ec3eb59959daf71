"""Several processes on one SQLite file: what a file adds to the races of ``test_processes.py``."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rio.errors import StorageUnavailable
from rio.identity import ObjectId
from rio.storage import open_storage
from tests.server.harness import until

pytestmark = pytest.mark.processes

PROCESSES = 4

Start = Callable[[int, str], subprocess.Popen[str]]

PRELUDE = """
import asyncio, json, sys
from rio.contracts.membership import MemberStatus
from rio.identity import ObjectId
from rio.storage import open_storage

number, url = int(sys.argv[1]), "sqlite:///" + sys.argv[2] + "?busy_timeout=30"

def wait_for_start():
    print("ready", flush=True)
    sys.stdin.readline()

def answer(value):
    print(json.dumps(value), flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rio.db"


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Start a process on the database. Processes that still run at the end are killed."""
    processes: list[subprocess.Popen[str]] = []

    def start_one(number: int, script: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-W",
            "error",
            "-c",
            PRELUDE + textwrap.dedent(script),
            str(number),
            str(path),
        ]
        processes.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        return processes[-1]

    yield start_one
    for process in processes:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def race(start: Start, script: str) -> list[Any]:
    """Start four processes, release them at the same moment, and return the answer of each."""
    processes = [start(number, script) for number in range(1, PROCESSES + 1)]
    assert [line(process) for process in processes] == ["ready"] * PROCESSES
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(line(process)) for process in processes]
    assert [process.wait() for process in processes] == [0] * PROCESSES
    return answers


def test_processes_that_prepare_a_new_file_at_once_all_succeed(start: Start) -> None:
    answers = race(
        start,
        """
        async def join(file):
            async with open_storage(url.replace("rio.db", f"{file}.db")) as storage:
                return (await storage.membership.register(f"h:{number}")).generation

        async def main():
            wait_for_start()
            return [await join(file) for file in range(40)]

        answer(asyncio.run(main()))
        """,
    )
    assert [len(set(generations)) for generations in zip(*answers, strict=True)] == [4] * 40


async def test_a_process_killed_inside_its_transaction_blocks_nobody(
    start: Start, path: Path
) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        holder = start(
            1,
            """
            import sqlite3
            connection = sqlite3.connect(sys.argv[2], isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE rio_cluster SET token_high = 1 << 60")
            wait_for_start()
            """,
        )
        assert line(holder) == "ready"
        claiming = asyncio.create_task(storage.placement.claim(ObjectId("T", "1"), 1))
        os.kill(holder.pid, signal.SIGKILL)
        claimed = await claiming
        assert claimed.generation == 1
        assert claimed.token < 1 << 60


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a lock")
async def test_who_waits_for_a_stopped_process_names_it_and_goes_on_when_it_ends(
    start: Start, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        open_storage(f"sqlite:///{path}?busy_timeout=0") as impatient,
        open_storage(f"sqlite:///{path}?busy_timeout=600") as patient,
    ):
        holder = start(
            1,
            """
            import os, signal, sqlite3
            connection = sqlite3.connect(sys.argv[2], isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            os.kill(os.getpid(), signal.SIGSTOP)
            """,
        )
        stopped = os.WSTOPPED | os.WNOWAIT
        await asyncio.to_thread(os.waitid, os.P_PID, holder.pid, stopped)
        named = f"process {holder.pid} (python"
        with pytest.raises(StorageUnavailable, match="which is stopped: continue or kill it") as no:
            await impatient.placement.claim(ObjectId("T", "1"), 1)
        assert named in str(no.value)
        claiming = asyncio.create_task(patient.placement.claim(ObjectId("T", "1"), 1))
        await until(lambda: named in caplog.text)
        assert not claiming.done()
        os.kill(holder.pid, signal.SIGKILL)
        assert (await claiming).generation == 1
