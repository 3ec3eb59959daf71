"""The storages on SQLite keep the contracts.

The other tests are about what SQLite adds: grouped commits, cancelling, closing, and a file that
cannot be used.
"""

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from rio.contracts.membership import MembershipStorage
from rio.contracts.placement import ObjectPlacement, Placement
from rio.contracts.state import StateStorage
from rio.errors import (
    ConfigurationError,
    SchemaMismatch,
    StateCorrupt,
    StorageClosed,
    StorageUnavailable,
    Superseded,
)
from rio.identity import ObjectId
from rio.storage import Storage, open_storage
from rio.storage._sql import Operation
from rio.storage.sqlite import (
    SqliteDatabase,
    SqliteMembershipStorage,
    SqliteObjectPlacement,
    SqliteState,
    _lane,
)
from rio.storage.sqlite._connection import connect_writer
from rio.testing.conformance import (
    FirstCommitTests,
    MembershipStorageTests,
    ObjectPlacementTests,
    StateStorageTests,
)
from rio.testing.conformance._state import held, single
from tests.effort import examples
from tests.storage.steps import ADA, load_nothing

pytestmark = pytest.mark.both_loops

ROOT = Path(__file__).parents[2]
BOB = ObjectId("Account", "bob")
TOO_LARGE_FOR_SQLITE = 1 << 63


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rio.db"


@pytest.fixture
def database(path: Path) -> SqliteDatabase:
    return SqliteDatabase(path, busy_timeout=0.05)


@pytest.fixture
async def placement(database: SqliteDatabase) -> AsyncIterator[ObjectPlacement]:
    async with SqliteObjectPlacement(database) as placement:
        yield placement


@pytest.fixture
async def state(database: SqliteDatabase) -> AsyncIterator[StateStorage]:
    async with SqliteState(database) as state:
        yield state


class TestSqliteMembershipStorage(MembershipStorageTests):
    @pytest.fixture
    async def membership(self, path: Path) -> AsyncIterator[MembershipStorage]:
        async with SqliteMembershipStorage(path) as membership:
            yield membership


class TestSqliteObjectPlacement(ObjectPlacementTests):
    @pytest.fixture
    async def placement(self, path: Path) -> AsyncIterator[ObjectPlacement]:
        async with SqliteObjectPlacement(path) as placement:
            yield placement


class TestSqliteState(StateStorageTests):
    @pytest.fixture
    async def state(self, path: Path) -> AsyncIterator[StateStorage]:
        async with SqliteState(path) as state:
            yield state


class TestFirstCommitOnSqlite(FirstCommitTests):
    @pytest.fixture
    async def storage(self, path: Path) -> AsyncIterator[Storage]:
        async with open_storage(f"sqlite:///{path}") as storage:
            yield storage


@pytest.fixture
def lock(path: Path) -> Iterator[Callable[[], sqlite3.Connection]]:
    """Take the file's write lock from outside. Closing the connection gives it back."""
    connections: list[sqlite3.Connection] = []

    def take_it() -> sqlite3.Connection:
        connections.append(sqlite3.connect(path, isolation_level=None))
        connections[-1].execute("BEGIN IMMEDIATE")
        return connections[-1]

    yield take_it
    for connection in connections:
        connection.close()


def execute(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


def run(
    script: str, *args: object, options: tuple[str, ...] = ("-W", "error")
) -> subprocess.CompletedProcess[str]:
    """Run a script in its own process, which must end by itself."""
    command = [sys.executable, *options, "-c", textwrap.dedent(script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


# --- group commit


def test_no_release_of_the_driver_is_taken_whose_inside_nobody_has_looked_at() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [bounds] = [
        requirement.specifier
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == "aiosqlite"
    ]
    major, minor, *_ = version("aiosqlite").split(".")
    assert f"{major}.{minor}.99" in bounds
    assert f"{major}.{int(minor) + 1}" not in bounds
    assert f"{int(major) + 1}.0" not in bounds
    assert "0.22.0" not in bounds  # its thread ends at what nobody awaits, and answers nothing more


async def test_a_commit_survives_a_power_cut_on_macos_too(tmp_path: Path) -> None:
    opened = connect_writer(str(tmp_path / "a.db"), 1.0, True)
    for name, expected in ("synchronous", 2), ("fullfsync", 1), ("checkpoint_fullfsync", 1):
        assert opened.connection.execute(f"PRAGMA {name}").fetchone() == (expected,)
    opened.close()


async def test_writes_that_wait_together_share_a_transaction(
    database: SqliteDatabase, placement: ObjectPlacement
) -> None:
    claims = await asyncio.gather(
        *(placement.claim(ObjectId("T", str(number)), 1) for number in range(100))
    )
    assert len(set(claims)) == 100
    assert database.statistics()[:2] == (100, 1)
    await placement.claim(ADA, 1)
    assert database.statistics()[:2] == (101, 2)


async def test_a_save_that_is_alone_is_one_statement_which_returns_nothing(
    database: SqliteDatabase, state: StateStorage
) -> None:
    """SQLite takes twice as long for a statement that returns what it has written."""
    await load_nothing(state)
    await state.commit(ADA, 1, 0, single(b"x"))
    lane = database._require_lanes()[0]
    executed: list[str] = []

    def listen() -> Operation[None]:
        lane._connection.set_trace_callback(executed.append)
        yield "SELECT 1", ()

    await database._write(listen)
    executed.clear()
    assert await state.commit(ADA, 1, 1, single(b"y")) == 2
    [statement] = executed
    assert statement.startswith("UPDATE rio_object SET version")
    assert "RETURNING" not in statement
    with pytest.raises(Superseded):
        await state.commit(ADA, 1, 1, single(b"z"))


async def test_a_save_wakes_the_thread_one_turn_of_the_loop_later(
    state: StateStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load_nothing(state)
    await state.commit(ADA, 1, 0, single(b"x"))
    woken: list[object] = []
    call = _lane.SqliteLane._call

    def note(lane: _lane.SqliteLane, function: Callable[[], object]) -> None:
        woken.append(function)
        call(lane, function)

    with monkeypatch.context() as patch:
        patch.setattr(_lane.SqliteLane, "_call", note)
        saving = asyncio.create_task(state.commit(ADA, 1, 1, single(b"y")))
        await asyncio.sleep(0)  # the task begins
        assert woken == []  # others may join
        await asyncio.sleep(0)
        assert len(woken) == 1
        assert await saving == 2


async def test_writes_of_all_roles_share_a_transaction(
    database: SqliteDatabase, placement: ObjectPlacement, state: StateStorage
) -> None:
    await asyncio.gather(
        placement.claim(ADA, 1), load_nothing(state), state.commit(ADA, 1, 0, single(b"x"))
    )
    assert database.statistics()[:2] == (3, 1)


async def test_operations_are_started_before_the_lock_is_taken(
    database: SqliteDatabase, placement: ObjectPlacement
) -> None:
    """A process that is stopped while it holds the lock stops all others that write."""
    await placement.claim(ADA, 1)  # opens the database
    lane = database._require_lanes()[0]
    held = []

    def operation() -> Operation[None]:
        held.append(lane._connection.in_transaction)
        yield "UPDATE rio_cluster SET settings = settings", ()

    await asyncio.gather(*(database._write(operation) for _ in range(3)))
    assert held == [False, False, False]


async def test_a_batch_has_a_limit(database: SqliteDatabase, placement: ObjectPlacement) -> None:
    await asyncio.gather(*(placement.claim(ADA, 1) for _ in range(3000)))
    assert database.statistics()[:2] == (3000, 3)


async def test_reads_that_wait_together_share_a_transaction(
    database: SqliteDatabase, placement: ObjectPlacement
) -> None:
    claimed = await placement.claim(ADA, 1)
    assert await asyncio.gather(*(placement.lookup(ADA) for _ in range(50))) == [claimed] * 50
    assert database.statistics()[2:] == (50, 1)


@pytest.mark.parametrize("position", [0, 5, 9])
async def test_an_operation_that_fails_fails_alone(
    placement: ObjectPlacement, position: int
) -> None:
    generations = [1] * 10
    generations[position] = TOO_LARGE_FOR_SQLITE
    objects = [ObjectId("T", str(number)) for number in range(10)]
    fates = await asyncio.gather(
        *map(placement.claim, objects, generations), return_exceptions=True
    )
    assert isinstance(fates.pop(position), OverflowError)
    failed = objects.pop(position)
    assert fates == [await placement.lookup(object_id) for object_id in objects]
    assert await placement.lookup(failed) is None


async def test_operations_that_all_fail_each_learn_why_and_are_started_a_few_times(
    placement: ObjectPlacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = _lane._start, 0

    def count(batch: list[Any]) -> Any:
        nonlocal started
        started += len(batch)
        return start(batch)

    monkeypatch.setattr(_lane, "_start", count)
    fates = await asyncio.gather(
        *(placement.claim(ADA, TOO_LARGE_FOR_SQLITE) for _ in range(1500)), return_exceptions=True
    )
    assert {type(fate) for fate in fates} == {OverflowError}
    assert started < 3 * 1500
    assert (await placement.claim(ADA, 1)).generation == 1


OBJECTS = [ObjectId("T", str(number)) for number in range(5)]
kinds = st.sampled_from(["claim", "load", "release", "first save", "save", "take over"])
waves = st.lists(
    st.lists(
        st.tuples(kinds, st.sampled_from(OBJECTS), st.integers(1, 3)), min_size=1, max_size=12
    ),
    min_size=1,
    max_size=6,
)


@given(waves)
@settings(max_examples=examples(40), deadline=None)
def test_what_is_written_at_once_ends_as_if_one_after_the_other(
    waves: list[list[tuple[str, ObjectId, int]]],
) -> None:
    """What happens at once, happens in the order of the kinds.

    Tokens are compared by their order, since the token of a refused claim is lost.
    """

    async def do(
        storage: Storage, kind: str, object_id: ObjectId, number: int, standing: Placement | None
    ) -> Any:
        token = 0 if standing is None else standing.token
        match kind:
            case "claim":
                return await storage.placement.claim(object_id, number)
            case "load":
                return await storage.state.load_object(object_id, token)
            case "release":
                return await storage.placement.release(object_id, token)
            case "first save":
                return await storage.state.commit(object_id, token, 0, single(bytes(number)))
            case "save":
                return await storage.state.commit(object_id, token, 1, single(bytes(number)))
            case _:
                return await storage.placement.claim(object_id, number, supersede=token)

    async def fates(
        storage: Storage, wave: list[tuple[str, ObjectId, int]], at_once: bool
    ) -> list[Any]:
        standing = {object_id: await storage.placement.lookup(object_id) for object_id in OBJECTS}
        doing = [do(storage, *asked, standing[asked[1]]) for asked in wave]
        if at_once:
            return await asyncio.gather(*doing, return_exceptions=True)
        return [(await asyncio.gather(one, return_exceptions=True))[0] for one in doing]

    def comparable(fates: list[Any], order: dict[int, int]) -> list[Any]:
        for token in sorted(
            {fate.token for fate in fates if isinstance(fate, Placement)} - order.keys()
        ):
            assert token > max(order, default=0), "tokens grow"
            order[token] = len(order)
        placed = [
            Placement(fate.generation, order[fate.token]) if isinstance(fate, Placement) else fate
            for fate in fates
        ]
        return [repr(type(fate)) if isinstance(fate, Exception) else fate for fate in placed]

    async def compare() -> None:
        with tempfile.TemporaryDirectory() as directory:
            together, alone = (
                open_storage(f"sqlite:///{directory}/{name}.db") for name in ("together", "alone")
            )
            orders: tuple[dict[int, int], dict[int, int]] = {}, {}
            async with together, alone:
                for wave in waves:
                    wave = [
                        asked
                        for kind in ("claim", "take over", "load", "release", "first save", "save")
                        for asked in wave
                        if asked[0] == kind
                    ]
                    ended = (
                        await fates(together, wave, at_once=True),
                        await fates(alone, wave, at_once=False),
                    )
                    one, other = map(comparable, ended, orders)
                    assert one == other

    asyncio.run(compare())


async def test_claims_of_one_object_at_once_each_get_a_token_of_their_own(
    placement: ObjectPlacement,
) -> None:
    claims = await asyncio.gather(
        *(placement.claim(object_id, 1) for object_id in (ADA, ADA, BOB, BOB, BOB, ADA, BOB))
    )
    tokens = [claimed.token for claimed in claims]
    assert tokens == sorted(set(tokens))


async def test_an_operation_that_cannot_even_begin_fails_alone(placement: ObjectPlacement) -> None:
    objects: list[Any] = [ObjectId("T", str(number)) for number in range(9)]
    objects[4] = 4
    fates = await asyncio.gather(
        *(placement.claim(object_id, 1) for object_id in objects), return_exceptions=True
    )
    assert [type(fate) for fate in fates] == [Placement] * 4 + [TypeError] + [Placement] * 4


async def test_a_name_that_cannot_be_stored_fails_alone(placement: ObjectPlacement) -> None:
    objects = [ObjectId("T", str(number)) for number in range(9)]
    objects[4] = ObjectId("T", "half a character: \udcff")
    fates = await asyncio.gather(
        *(placement.claim(object_id, 1) for object_id in objects), return_exceptions=True
    )
    assert [type(fate) for fate in fates] == [Placement] * 4 + [UnicodeEncodeError] + [
        Placement
    ] * 4


# --- cancelling and closing


async def test_a_write_cancelled_before_it_began_is_not_done(placement: ObjectPlacement) -> None:
    claiming = asyncio.create_task(placement.claim(ADA, 1))
    neighbour = asyncio.create_task(placement.claim(BOB, 1))
    asyncio.get_running_loop().call_soon(
        claiming.cancel
    )  # after both have asked, before anything was sent
    assert (await neighbour).generation == 1
    assert claiming.cancelled()
    assert await placement.lookup(ADA) is None


async def test_cancelling_at_any_moment_leaves_no_transaction_open_and_no_neighbour_hurt(
    path: Path, database: SqliteDatabase, placement: ObjectPlacement
) -> None:
    for moment in range(60):
        object_id = ObjectId("T", str(moment))
        tasks = [asyncio.create_task(placement.claim(object_id, owner)) for owner in (1, 2, 3)]
        for _ in range(moment):
            await asyncio.sleep(0)
        tasks[0].cancel()
        _, second, third = await asyncio.gather(*tasks, return_exceptions=True)
        assert second == third == await placement.lookup(object_id)
    execute(path, "CREATE TABLE nobody_holds_a_lock (x)")


async def test_closing_finishes_the_writes_that_wait(path: Path) -> None:
    placement = SqliteObjectPlacement(path)
    await placement.prepare()
    claims = [
        asyncio.create_task(placement.claim(ObjectId("T", str(number)), 1))
        for number in range(2500)
    ]
    await asyncio.sleep(0)
    await placement.close()
    assert len({claimed.token for claimed in await asyncio.gather(*claims)}) == 2500
    with pytest.raises(StorageClosed):
        await placement.claim(ADA, 1)


async def test_closing_while_the_file_is_locked_fails_what_waits(
    path: Path, lock: Callable[[], sqlite3.Connection]
) -> None:
    placement = SqliteObjectPlacement(SqliteDatabase(path, busy_timeout=0.05))
    await placement.prepare()
    lock()
    claim = asyncio.create_task(placement.claim(ADA, 1))
    await asyncio.sleep(0)
    await placement.close()
    with pytest.raises(StorageUnavailable):
        await claim


async def test_a_database_closes_with_its_last_role(path: Path, database: SqliteDatabase) -> None:
    placement, state = SqliteObjectPlacement(database), SqliteState(database)
    await asyncio.gather(placement.prepare(), placement.prepare(), state.prepare())
    await placement.close()
    await placement.close()
    await load_nothing(state)
    with pytest.raises(StorageClosed):
        await placement.lookup(ADA)
    await state.close()
    with pytest.raises(StorageClosed):
        database.statistics()
    assert not path.with_name("rio.db-wal").exists()


async def test_a_closed_storage_can_be_prepared_again(path: Path) -> None:
    placement = SqliteObjectPlacement(path)
    async with placement:
        claimed = await placement.claim(ADA, 1)
    async with placement:
        assert await placement.lookup(ADA) == claimed
        assert (await placement.claim(ADA, 1)).token > claimed.token


async def test_cancelling_prepare_at_any_moment_leaves_the_database_closed(path: Path) -> None:
    for moment in range(30):
        database = SqliteDatabase(path)
        placement = SqliteObjectPlacement(database)
        preparing = asyncio.create_task(placement.prepare())
        for _ in range(moment):
            await asyncio.sleep(0)
        preparing.cancel()
        await asyncio.wait([preparing])
        await placement.close()
        async with placement:  # it waits for what the cancelled operation has begun
            assert database.statistics()[:2] == (0, 0)
        with pytest.raises(StorageClosed):
            database.statistics()


async def test_tokens_grow_when_rows_are_deleted(path: Path, placement: ObjectPlacement) -> None:
    claimed = await placement.claim(ADA, 1)
    execute(path, "DELETE FROM rio_placement")
    assert (await placement.claim(ADA, 1)).token > claimed.token


def test_forgetting_to_close_warns_and_does_not_hang_the_exit(path: Path) -> None:
    script = """
        import asyncio, sys
        from rio.storage import Storage, open_storage

        async def main():
            storage = open_storage("sqlite:///" + sys.argv[1])
            await storage.prepare()
            await storage.membership.register("h:1")

        asyncio.run(main())
    """
    ended = run(script, path, options=("-W", "always"))
    assert ended.returncode == 0
    assert f"ResourceWarning: SqliteDatabase('{path}') was not closed" in ended.stderr
    assert "was deleted before being closed" not in ended.stderr  # aiosqlite has nothing to add


def test_a_loop_that_ends_under_a_write_leaves_a_whole_file(path: Path) -> None:
    script = """
        import asyncio, sys
        from rio.identity import ObjectId
        from rio.storage.sqlite import SqliteObjectPlacement

        placement = SqliteObjectPlacement(sys.argv[1])

        async def main():
            await placement.prepare()
            ids = [ObjectId("T", str(number)) for number in range(1000)]
            claims = [asyncio.create_task(placement.claim(id, 1)) for id in ids]
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        asyncio.run(main())
    """
    ended = run(script, path, options=("-W", "ignore"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert execute(path, "PRAGMA integrity_check") == [("ok",)]
    assert execute(path, "SELECT count(*) FROM rio_placement") in ([(0,)], [(1000,)])


# --- a file that cannot be used


async def test_a_locked_file_is_unavailable_and_says_why(
    path: Path,
    placement: ObjectPlacement,
    state: StateStorage,
    lock: Callable[[], sqlite3.Connection],
) -> None:
    await load_nothing(state)
    holder = lock()
    fates = await asyncio.gather(
        placement.claim(ADA, 1),
        state.commit(ADA, 1, 0, single(b"x")),
        state.load_object(ADA, 1),
        return_exceptions=True,
    )
    assert [type(fate) for fate in fates] == [StorageUnavailable] * 3
    assert str(path) in str(fates[0])
    assert "lock" in str(fates[0])
    assert await placement.lookup(ADA) is None  # reading goes on
    holder.close()
    assert await state.commit(ADA, 1, 0, single(b"x")) == 1


async def test_a_write_waits_for_another_process_to_finish(
    path: Path, lock: Callable[[], sqlite3.Connection]
) -> None:
    async with SqliteObjectPlacement(path) as placement:
        holder = lock()
        claiming = asyncio.create_task(placement.claim(ADA, 1))
        assert await placement.lookup(ADA) is None
        holder.execute("COMMIT")
        assert (await claiming).generation == 1


async def test_a_new_file_that_is_locked_is_unavailable_until_it_is_not(
    path: Path, database: SqliteDatabase, lock: Callable[[], sqlite3.Connection]
) -> None:
    holder = lock()
    state = SqliteState(database)
    with pytest.raises(StorageUnavailable, match="lock"):
        await state.prepare()
    holder.close()
    async with state:
        await load_nothing(state)


async def test_preparing_waits_for_the_lock_on_a_new_file(
    path: Path, lock: Callable[[], sqlite3.Connection]
) -> None:
    holder = lock()
    state = SqliteState(SqliteDatabase(path, busy_timeout=30))
    preparing = asyncio.create_task(state.prepare())
    done, _ = await asyncio.wait([preparing], timeout=0.1)
    assert not done
    holder.close()
    await preparing
    await state.close()


FULL_DISK = """
    import asyncio, resource, sys
    from pathlib import Path
    from rio.errors import StorageUnavailable
    from rio.identity import ObjectId
    from tests.storage.steps import held, single
    from rio.storage.sqlite import SqliteDatabase, SqliteState

    path, filler = Path(sys.argv[1]), Path(sys.argv[1] + ".filler")
    objects = [ObjectId("T", str(number)) for number in range(8)]

    def limit_file_size(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def squeeze():
        if sys.argv[2] == "limit":
            limit_file_size(path.with_name(path.name + "-wal").stat().st_size)
        else:
            try:
                with filler.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
            except OSError:
                pass

    def relax():
        limit_file_size(resource.RLIM_INFINITY) if sys.argv[2] == "limit" else filler.unlink()

    async def main():
        database = SqliteDatabase(path)
        async with SqliteState(database) as state:
            for object_id in objects:
                if not (await state.load_object(object_id, 1)).version:
                    await state.commit(object_id, 1, 0, single(b"good"))
            before = database.statistics()
            squeeze()
            saves = [state.commit(o, 1, 1, single(bytes(100_000))) for o in objects]
            fates = await asyncio.gather(*saves, return_exceptions=True)
            assert [type(fate) for fate in fates] == [StorageUnavailable] * 8, fates
            assert all(str(path) in str(fate) for fate in fates), fates
            assert database.statistics() == before
            relax()
            for object_id in objects:
                assert await state.load_object(object_id, 1) == held(1, b"good")
                assert await state.commit(object_id, 1, 1, single(b"small")) == 2
            print(fates[0])

    asyncio.run(main())
"""


def test_a_commit_beyond_the_file_size_limit_fails_its_whole_batch_and_loses_nothing(
    path: Path,
) -> None:
    ended = run(FULL_DISK, path, "limit")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "a limit on file sizes" in ended.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True
        ).returncode
        != 0
    ):
        pytest.skip(
            "only root can mount a small disk here; the test with the file size limit runs"
            " everywhere"
        )
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tmpfs is a file system of Linux")
def test_a_commit_on_a_full_disk_fails_its_whole_batch_and_loses_nothing(small_disk: Path) -> None:
    ended = run(FULL_DISK, small_disk / "rio.db", "fill")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "the disk is full" in ended.stdout


def test_a_read_only_file_is_unavailable_and_says_what_to_do() -> None:
    script = """
        import asyncio, os, sys
        from rio.errors import StorageUnavailable
        from rio.identity import ObjectId
        from rio.storage import Storage, open_storage
        import rio.storage.sqlite

        directory = sys.argv[1]

        async def make():
            async with open_storage(f"sqlite:///{directory}/rio.db"):
                pass

        async def use():
            async with open_storage(f"sqlite:///{directory}/rio.db") as storage:
                await storage.placement.claim(ObjectId("T", "1"), 1)

        asyncio.run(make())
        os.chmod(f"{directory}/rio.db", 0o444)
        os.chmod(directory, 0o555)
        if os.geteuid() == 0:
            os.seteuid(65534)  # to root nothing is read-only
        try:
            asyncio.run(use())
        except StorageUnavailable as error:
            print(error)
        finally:
            os.seteuid(os.getuid())
            os.chmod(directory, 0o755)
    """
    with tempfile.TemporaryDirectory() as directory:  # not tmp_path, which only its owner can read
        ended = run(script, directory)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "writable" in ended.stdout
    assert directory in ended.stdout


NO_DATABASES = {
    "short": b"hello",
    "archive": b"PK\x03\x04" * 5000,
    "damaged": b"SQLite format 3\x00" + b"z" * 5000,
}


@pytest.mark.parametrize("content", NO_DATABASES.values(), ids=NO_DATABASES.keys())
def test_a_file_that_is_no_database_is_refused_and_left_untouched(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(SchemaMismatch, match=r"rio\.db.*no SQLite database.*choose another file"):
        asyncio.run(SqliteState(path).prepare())
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["rio.db"]


@pytest.mark.parametrize(("version", "text"), [(0, "no rio has made"), (2, "newer.*upgrade rio")])
async def test_another_schema_is_refused(path: Path, version: int, text: str) -> None:
    async with SqliteState(path) as state:
        await state.commit(ADA, 1, 0, single(b"x"))
    execute(path, f"UPDATE rio_cluster SET schema_version = {version}")
    with pytest.raises(SchemaMismatch, match=text):
        await SqliteState(path).prepare()
    assert execute(path, "SELECT count(*) FROM rio_object") == [(1,)]


async def test_a_sqlite_that_is_too_old_is_named_with_what_is_needed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    with pytest.raises(ConfigurationError, match=r"has SQLite 3\.34\.1, and rio needs 3\.35\.0"):
        await SqliteState(path).prepare()
    assert os.listdir(path.parent) == []


async def test_tables_of_somebody_else_are_refused(path: Path) -> None:
    execute(path, "CREATE TABLE rio_cluster (what INTEGER)")
    with pytest.raises(SchemaMismatch, match="not those of this version"):
        await SqliteState(path).prepare()
    assert execute(path, "SELECT name FROM sqlite_schema") == [("rio_cluster",)]


async def test_tables_that_disappear_are_a_mismatch_and_not_an_empty_state(
    path: Path, state: StateStorage
) -> None:
    execute(path, "DROP TABLE rio_object")
    with pytest.raises(SchemaMismatch):
        await state.load_object(ADA, 1)


async def test_a_file_may_hold_other_tables(path: Path) -> None:
    execute(path, "CREATE TABLE mine (x)")
    async with SqliteState(path) as state:
        await load_nothing(state)
    execute(path, "SELECT x FROM mine")


async def test_a_directory_that_does_not_exist_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="directory must exist"):
        await SqliteState(tmp_path / "missing" / "rio.db").prepare()


async def test_prepare_can_be_tried_again_after_it_failed(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "later" / "rio.db")
    with pytest.raises(StorageUnavailable):
        await state.prepare()
    with pytest.raises(StorageClosed):
        await state.load_object(ADA, 1)
    (tmp_path / "later").mkdir()
    async with state:
        await load_nothing(state)


@pytest.mark.parametrize("damage", ["data = 7", "data = 'text'", "version = 'one'"])
async def test_a_row_that_cannot_be_read_is_corrupt_and_left_alone(
    path: Path, state: StateStorage, damage: str
) -> None:
    await load_nothing(state)
    await state.commit(ADA, 1, 0, single(b"x"))
    execute(path, f"UPDATE rio_object SET {damage}")
    before = execute(path, "SELECT version, data FROM rio_object")
    with pytest.raises(StateCorrupt):
        await state.load_object(ADA, 1)
    assert execute(path, "SELECT version, data FROM rio_object") == before


# --- one file for all, and its URL


async def test_two_databases_on_one_path_are_one_cluster(path: Path) -> None:
    async with open_storage(f"sqlite:///{path}") as one, open_storage(f"sqlite:///{path}") as two:
        generation, snapshot = await one.membership.register("h:1")
        assert await two.membership.snapshot() == snapshot
        claimed = await two.placement.claim(ADA, generation)
        assert await one.placement.lookup(ADA) == claimed
        await load_nothing(one.state)
        assert await two.state.commit(ADA, claimed.token, 0, single(b"x")) == 1
        assert await one.state.load_object(ADA, claimed.token) == held(1, b"x")


async def test_a_write_is_durable_once_it_has_returned(path: Path) -> None:
    async with SqliteObjectPlacement(path) as placement:
        await placement.claim(ADA, 1)
        assert execute(path, "PRAGMA journal_mode") == [("wal",)]
        assert execute(path, "SELECT type_name, id, generation FROM rio_placement") == [
            ("Account", "ada", 1)
        ]


@pytest.mark.parametrize("name", ["", ":memory:", "sqlite:///app.db"])
def test_a_path_that_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"memory://|rio.open_storage"):
        SqliteDatabase(name)


@pytest.mark.parametrize("busy_timeout", [-1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused(path: Path, busy_timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="busy_timeout"):
        SqliteDatabase(path, busy_timeout=busy_timeout)
