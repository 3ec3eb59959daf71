"""Several processes on one SQLite file: they race, one of them is killed, and nothing is owned twice or lost."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rio.cluster.membership import MemberStatus
from rio.errors import StateNotFound
from rio.identity import ObjectId
from rio.storage import open_storage

PROCESSES = 4

Start = Callable[[int, str], subprocess.Popen[str]]

PRELUDE = """
import asyncio, json, sys
from rio.cluster.membership import MemberStatus
from rio.errors import StateNotFound
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
    """Start a process on the database; whichever still runs at the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start_one(number: int, script: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(script), str(number), str(path)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start_one
    for process in processes:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def race(start: Start, script: str) -> list[Any]:
    """Start four processes, let them go at the same moment, and return what each answers."""
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
    assert [sorted(generations) for generations in zip(*answers, strict=True)] == [[1, 2, 3, 4]] * 40


async def test_no_object_is_owned_twice_and_none_is_unowned(start: Start, path: Path) -> None:
    answers = race(
        start,
        """
        async def main():
            async with open_storage(url) as storage:
                objects = [ObjectId("T", str(n)) for n in range(3000)]
                wait_for_start()
                claims = await asyncio.gather(*(storage.placement.claim(object_id, number) for object_id in objects))
                return claims

        answer(asyncio.run(main()))
        """,
    )
    async with open_storage(f"sqlite:///{path}") as storage:
        owned = {number: set(await storage.placement.owned_by(number)) for number in range(1, PROCESSES + 1)}
    owners = Counter(object_id for objects in owned.values() for object_id in objects)
    assert len(owners) == 3000
    assert set(owners.values()) == {1}
    assert all(answer == answers[0] for answer in answers)  # and all were told the same
    assert len({token for _, token in answers[0]}) == 3000


async def test_of_processes_that_set_a_status_one_wins_each_time(start: Start, path: Path) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        for port in range(200):
            generation, _ = await storage.membership.register(f"h:{port}")
            await storage.membership.set_status(generation, MemberStatus.JOINING, MemberStatus.ACTIVE)
    answers = race(
        start,
        """
        async def main():
            async with open_storage(url) as storage:
                set_status, status = storage.membership.set_status, MemberStatus(number + 1)
                wait_for_start()
                changes = [await asyncio.gather(*(set_status(g, MemberStatus.ACTIVE, status) for _ in range(3))) for g in range(1, 201)]
                return [[(change.applied, change.member.status) for change in three] for three in changes]

        answer(asyncio.run(main()))
        """,
    )
    async with open_storage(f"sqlite:///{path}") as storage:
        snapshot = await storage.membership.snapshot()
    for generation in range(1, 201):
        told = [fate for answer in answers for fate in answer[generation - 1]]
        assert sum(applied for applied, _ in told) == 1
        assert {status for _, status in told} == {snapshot.status_of(generation)}
    assert snapshot.version == 600


async def test_no_vote_is_lost_among_processes(start: Start, path: Path) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        for port in range(50):
            generation, _ = await storage.membership.register(f"h:{port}")
            await storage.membership.set_status(generation, MemberStatus.JOINING, MemberStatus.ACTIVE)
    answers = race(
        start,
        """
        from rio.cluster.membership import Vote

        async def main():
            async with open_storage(url) as storage:
                wait_for_start()
                changes = [await storage.membership.vote(target, Vote(number, 1.0)) for target in range(5, 51)]
                return all(change.applied for change in changes)

        answer(asyncio.run(main()))
        """,
    )
    assert answers == [True] * PROCESSES
    async with open_storage(f"sqlite:///{path}") as storage:
        snapshot = await storage.membership.snapshot()
    assert {frozenset(vote.voter for vote in member.votes) for member in snapshot.members[4:]} == {frozenset(range(1, PROCESSES + 1))}


async def test_a_killed_writer_loses_nothing_that_was_acknowledged(start: Start, path: Path) -> None:
    writer = start(
        1,
        """
        async def save_for_ever(state, object_id):
            try:
                await state.load_and_fence(object_id, "s", 1)
            except StateNotFound:
                version = 0
            while True:
                version = await state.save(object_id, "s", 1, version, str(version + 1).encode())
                answer([object_id.id, version])

        async def main():
            async with open_storage(url) as storage:
                await asyncio.gather(*(save_for_ever(storage.state, ObjectId("T", str(n))) for n in range(32)))

        asyncio.run(main())
        """,
    )
    acknowledged: dict[str, int] = {}
    for _ in range(2000):
        id, version = json.loads(line(writer))
        acknowledged[id] = version
    os.kill(writer.pid, signal.SIGKILL)
    rest, _ = writer.communicate()
    acknowledged.update(json.loads(text) for text in rest.splitlines(keepends=True) if text.endswith("\n"))
    async with open_storage(f"sqlite:///{path}") as storage:
        for id, version in acknowledged.items():
            found = await storage.state.load_and_fence(ObjectId("T", id), "s", 2)
            assert found.version in (version, version + 1)
            assert found.data == str(found.version).encode()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_process_killed_inside_its_transaction_blocks_nobody(start: Start, path: Path) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        holder = start(
            1,
            """
            import sqlite3
            connection = sqlite3.connect(sys.argv[2], isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE rio_cluster SET token_high = 1000")
            wait_for_start()
            """,
        )
        assert line(holder) == "ready"
        claiming = asyncio.create_task(storage.placement.claim(ObjectId("T", "1"), 1))
        os.kill(holder.pid, signal.SIGKILL)
        claimed = await claiming
        assert (claimed.generation, claimed.token) == (1, 1)


async def test_processes_that_take_turns_with_one_object_never_lose_a_count(start: Start, path: Path) -> None:
    answers = race(
        start,
        """
        from rio.errors import Superseded

        async def add_one(storage):
            object_id = ObjectId("Counter", "1")
            placement = await storage.placement.lookup(object_id)
            claimed = await storage.placement.claim(object_id, number, supersede=placement.token if placement else None)
            if claimed.generation != number:
                return 0
            try:
                version, data = await storage.state.load_and_fence(object_id, "s", claimed.token)
            except StateNotFound:
                version, data = 0, b"0"
            except Superseded:
                return 0
            try:
                await storage.state.save(object_id, "s", claimed.token, version, str(int(data) + 1).encode())
            except Superseded:
                return 0
            return 1

        async def main():
            async with open_storage(url) as storage:
                wait_for_start()
                return sum([await add_one(storage) for _ in range(300)])

        answer(asyncio.run(main()))
        """,
    )
    async with open_storage(f"sqlite:///{path}") as storage:
        try:
            _, data = await storage.state.load_and_fence(ObjectId("Counter", "1"), "s", 10**9)
        except StateNotFound:
            data = b"0"
    assert int(data) == sum(answers) > 0
