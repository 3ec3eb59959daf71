"""Server processes on one storage, the faults that a test does to them, and their callers.

No test sleeps in order to wait. It watches a condition until that holds, and fails at a deadline
that is far away.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import textwrap
import time
from collections import Counter as Multiset
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

import rio
from rio.cluster.config import ClusterConfig
from rio.contracts.membership import MembershipSnapshot, MemberStatus
from rio.errors import NotExecuted, OutcomeUnknown, StorageError
from tests.cluster.processes import history
from tests.cluster.processes.history import Call, Finding, Turn
from tests.cluster.processes.objects import (
    LOG,
    PARENT,
    STORAGE,
    VERSION,
    Add,
    Bag,
    Counter,
    Event,
    Get,
    Owner,
    Put,
    Read,
    Value,
    read_log,
)
from tests.cluster.processes.restores import Loss, forget, noticed
from tests.cluster.processes.stores import Store

ROOT = Path(__file__).parents[3]
REGISTRY = "tests.cluster.processes.node:registry"
PATIENCE = 45.0
"""Seconds after which a condition that does not hold fails its test.

Far more than anything takes, even where the machine is busy.
"""


async def until(condition: Callable[[], Any], what: str = "") -> None:
    """Watch a condition, a function or a coroutine function, until it holds.

    :raises AssertionError: it did not hold within :data:`PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE
    while not (await answer if isinstance(answer := condition(), Awaitable) else answer):
        assert time.monotonic() < deadline, (
            f"waited {PATIENCE:g} s in vain for: {what or condition}"
        )
        await asyncio.sleep(0.01)  # other processes notify nobody


# --- one server -----------------------------------------------------------------------------------


class Node:
    """A server process: ``rio run`` with the objects of these tests."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.address = ""
        self.generation = 0
        self.output: list[str] = []
        """The lines that it printed and logged."""
        self.killed_at = 0.0
        self._log = log
        self._stopped: list[tuple[float, float]] = []
        self._listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(), name=f"read the output of {process.pid}")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.output.append(line.decode().rstrip())
            if self.output[-1].startswith("listening on ") and not self._listening.done():
                _, _, self.address, _, generation = self.output[-1].split()
                self.generation = int(generation.rstrip(")"))
                self._listening.set_result(None)

    async def serves(self) -> bool:
        """Wait until it serves, or has ended."""
        await asyncio.wait(
            (self._listening, self._reader), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        return self._listening.done()

    async def listening(self) -> Self:
        """Wait until it serves."""
        assert await self.serves(), f"no server: {self.output}"
        return self

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    async def ended(self) -> int:
        """Wait until the process has ended, and return its exit code."""
        async with asyncio.timeout(PATIENCE):
            code = await self.process.wait()
            await self._reader
        return code

    async def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        if self.alive:
            self.killed_at = time.monotonic()
            self.process.kill()
        await self.ended()

    def terminate(self) -> None:
        """SIGTERM: ask it to drain."""
        self._signal(signal.SIGTERM)

    async def stop(self, store: Store) -> None:
        """Send SIGSTOP at a moment at which the server does not hold the lock of the database.

        With the lock, this would be an outage for all others, and not a fault of this server.
        """
        while True:
            began = time.monotonic()
            self._signal(signal.SIGSTOP)
            await until(
                lambda: self._state() in "TZ", "a process that is stopped, or has ended by itself"
            )
            if await store.is_free():
                self._stopped.append((began, float("inf")))
                return
            self._signal(signal.SIGCONT)
            await until(store.is_free, "a database that is not locked")

    def resume(self) -> None:
        """Send SIGCONT."""
        began, _ = self._stopped[-1]
        self._stopped[-1] = (began, time.monotonic())
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            self.process.send_signal(number)

    def _state(self) -> str:
        try:
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return "Z"

    def said(self, text: str) -> bool:
        """Whether it has logged ``text``."""
        return any(text in line for line in self.output)

    @property
    def events(self) -> list[Event]:
        return read_log(self._log) if self._log.exists() else []

    @property
    def turns(self) -> list[Turn]:
        """The turns that the server has run.

        A turn that the server's death cut off ends with the last event that the server logged. A
        turn that was under way when the process was stopped, or its event loop blocked, ends there:
        it did not run meanwhile, and what it did afterwards is judged by what it could save. So
        does a turn that had been admitted and had not logged its beginning yet.
        """
        turns: dict[int, Turn] = {}
        events = self.events
        halts = [stopped for stopped, _ in self._stopped] + [
            event.at for event in events if event.what == "blocked"
        ]
        for event in events:
            if event.what == "begin":
                turns[event.turn] = Turn(
                    object=event.object,
                    generation=self.generation,
                    token=event.token,
                    began=event.at,
                    ended=events[-1].at,
                    caller=event.caller,
                    number=event.number,
                )
            elif event.what == "end":
                turns[event.turn].ended = event.at
        for stopped, resumed in self._stopped:
            first = next((event for event in events if event.at > resumed), None)
            if first is not None and first.what == "begin":
                turns[first.turn].began = stopped
        for turn in turns.values():
            turn.ended = min([turn.ended, *(halt for halt in halts if halt >= turn.began)])
        return list(turns.values())


# --- all of them ----------------------------------------------------------------------------------


class Cluster:
    """The server processes of one test."""

    def __init__(self, directory: Path, cluster: str, store: Store) -> None:
        self.store = store
        self.url = store.url
        self.config = ClusterConfig.named(cluster)
        self.nodes: list[Node] = []
        """All servers that were ever started."""
        self.client: rio.Client
        self.version = "older"
        """``older`` or ``newer``: the code of the servers that are started from now on."""
        self._directory = directory
        self._cluster = cluster
        self._numbers = count(1)

    def use(self, preset: str) -> None:
        """Start servers with this preset from now on."""
        self.config = ClusterConfig.named(preset)
        self._cluster = preset

    async def start(
        self,
        *,
        address: str = "127.0.0.1:0",
        environ: Mapping[str, str] | None = None,
        registry: str = REGISTRY,
    ) -> Node:
        """Start a server, and wait until it serves."""
        launched = await self.launch(address=address, environ=environ, registry=registry)
        return await launched.listening()

    async def launch(
        self,
        *,
        address: str = "127.0.0.1:0",
        environ: Mapping[str, str] | None = None,
        registry: str = REGISTRY,
    ) -> Node:
        """Start a server."""
        log = self._directory / f"server-{next(self._numbers)}.jsonl"
        own = {name: value for name, value in os.environ.items() if not name.startswith("RIO_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rio", "run", registry),
            *("--storage", self.url, "--address", address, "--cluster", self._cluster),
            cwd=ROOT,
            env={
                **own,
                LOG: str(log),
                PARENT: str(os.getpid()),
                STORAGE: self.store.name,
                VERSION: self.version,
                **(environ or {}),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        node = Node(process, log)
        self.nodes.append(node)
        return node

    async def end(self) -> None:
        """Kill the servers that still run."""
        for node in self.nodes:
            await node.kill()
            print(
                f"--- member {node.generation}, {node.address}, process {node.process.pid}, exit"
                f" code {node.process.returncode}"
            )
            print("\n".join(node.output[-30:]))

    async def members(self) -> MembershipSnapshot:
        """Wait until the storage answers, and return the membership."""
        snapshots: list[MembershipSnapshot] = []

        async def answers() -> bool:
            with suppress(StorageError):
                async with rio.open_storage(self.url).membership as membership:
                    snapshots.append(await membership.snapshot())
            return bool(snapshots)

        await until(answers, "an answer of the storage")
        return snapshots[0]

    async def status(self, node: Node) -> MemberStatus | None:
        return (await self.members()).status_of(node.generation)

    async def dead(self, node: Node) -> None:
        """Wait until the cluster has declared a server dead."""

        async def is_dead() -> bool:
            return await self.status(node) == MemberStatus.DEAD

        await until(is_dead, f"the eviction of member {node.generation}")

    async def lease_counters(self) -> dict[int, int]:
        return {
            member.generation: member.lease_counter for member in (await self.members()).members
        }

    async def pause(self, node: Node, seconds: float) -> None:
        """Stop a server for some time, and wait until that is decided.

        It then holds its lease again, or has ended because it does not.
        """
        await node.stop(self.store)
        await asyncio.sleep(seconds)  # the fault itself
        before = (await self.lease_counters()).get(node.generation)
        node.resume()

        async def is_decided() -> bool:
            return not node.alive or (await self.lease_counters()).get(node.generation) != before

        await until(is_decided, f"a renewal, or the end, of member {node.generation}")

    @property
    def evictions(self) -> list[str]:
        return [line for node in self.nodes for line in node.output if " evicted member " in line]

    @property
    def turns(self) -> list[Turn]:
        return [turn for node in self.nodes for turn in node.turns]

    def owner(self, object: str) -> Node:
        """The server that ran the last turn of an object."""
        last = {
            node: max((turn.began for turn in node.turns if turn.object == object), default=0.0)
            for node in self.nodes
        }
        return max(self.nodes, key=lambda node: last[node])

    async def owners(self, ids: Iterable[str]) -> dict[str, int]:
        """The process that has each counter in memory."""

        async def owner(id: str) -> tuple[str, int]:
            return id, (await self.client.send(Counter, id, Owner(), timeout=PATIENCE)).value

        return dict(await asyncio.gather(*map(owner, ids)))

    async def value(self, id: str) -> int:
        """The value of a counter, as soon as it answers."""
        return (await self.client.send(Counter, id, Get(), timeout=PATIENCE)).value

    @asynccontextmanager
    async def unusable(self, how: str) -> AsyncIterator[None]:
        """Have another process make the database unusable for all.

        ``"writing"`` locks writers out, ``"reading and writing"`` everybody.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LOCK[how], str(self.store.database)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            assert await process.stdout.readline() == b"locked\n"
            yield
        finally:
            await process.communicate(b"\n")


_UNTIL_TOLD = """
print("locked", flush=True)
sys.stdin.readline()
"""
LOCK = {
    "writing": textwrap.dedent("""
        import sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
    """)
    + _UNTIL_TOLD,
    # the locks of readers, writers, checkpoints and recovery are bytes 120 to 127 of the file that
    # all connections share
    "reading and writing": textwrap.dedent("""
        import fcntl, os, sys, time
        while not os.path.exists(sys.argv[1] + "-shm"):  # whoever opens the database makes it
            time.sleep(0.01)
        shared = open(sys.argv[1] + "-shm", "r+b")
        fcntl.lockf(shared, fcntl.LOCK_EX, 8, 120)
    """)
    + _UNTIL_TOLD,
}


# --- callers --------------------------------------------------------------------------------------


class Load:
    """Callers, each of which sends one message after the other, and what they saw.

    ``burst``: the messages that a caller sends to one object before it waits for their answers.
    ``pause``: seconds between two bursts.
    """

    def __init__(
        self,
        client: rio.Client,
        *,
        callers: int = 24,
        counters: int = 48,
        bags: int = 4,
        burst: int = 1,
        pause: float = 0.01,
        name: str = "counter",
    ) -> None:
        self.calls: list[Call] = []
        self.errors: list[str] = []
        """The answers that are neither an acknowledgement nor "not executed" nor "unknown"."""
        self.counters = [f"{name}-{number}" for number in range(counters)]
        self.bags = [f"bag-{number}" for number in range(bags)]
        self._client = client
        self._callers = callers
        self._burst = burst
        self._pause = pause
        self._numbers = count(1)
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.warm_up()
        self._tasks = [
            asyncio.create_task(self._call(f"caller-{number}")) for number in range(self._callers)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def warm_up(self) -> None:
        """Bring all objects to life."""
        await asyncio.gather(
            *(self._get(id) for id in self.counters), *(self._read(id) for id in self.bags)
        )

    async def _call(self, caller: str) -> None:
        rng = random.Random(caller)
        while not self._over:
            await asyncio.gather(*self._some_calls(caller, rng))
            await asyncio.sleep(rng.uniform(0.0, 2 * self._pause))

    def _some_calls(self, caller: str, rng: random.Random) -> Iterable[Awaitable[None]]:
        choice = rng.random()
        if choice < 0.1 and self.bags:
            return [self._put(caller, rng.choice(self.bags))]
        if choice < 0.15 and self.bags:
            return [self._read(rng.choice(self.bags))]
        id = rng.choice(self.counters)
        return [self._add(caller, id) for _ in range(self._burst)]

    async def _add(self, caller: str, id: str) -> None:
        call = Call(
            kind="add",
            object=f"Counter/{id}",
            began=time.monotonic(),
            ended=0.0,
            outcome="unknown",
            caller=caller,
        )

        def value(reply: Value) -> int:
            call.newer = reply.newer
            return reply.value

        message = Add(caller, next(self._numbers))
        await self._record(call, self._client.send(Counter, id, message), value)

    async def _get(self, id: str) -> None:
        call = Call(
            kind="get", object=f"Counter/{id}", began=time.monotonic(), ended=0.0, outcome="unknown"
        )
        await self._record(call, self._client.send(Counter, id, Get()), lambda reply: reply.value)

    async def _put(self, caller: str, id: str) -> None:
        element = next(self._numbers)
        call = Call(
            kind="put",
            object=f"Bag/{id}",
            began=time.monotonic(),
            ended=0.0,
            outcome="unknown",
            caller=caller,
        )
        await self._record(
            call, self._client.send(Bag, id, Put(caller, element, element)), lambda _: element
        )
        call.value = element

    async def _read(self, id: str) -> None:
        call = Call(
            kind="read", object=f"Bag/{id}", began=time.monotonic(), ended=0.0, outcome="unknown"
        )
        await self._record(call, self._client.send(Bag, id, Read()), lambda reply: reply.elements)

    async def _record(
        self, call: Call, answer: Awaitable[Any], value: Callable[[Any], Any]
    ) -> None:
        try:
            reply = await answer
        except NotExecuted as error:
            call.outcome = "not executed"
            self.errors.append(f"{type(error).__name__}: {error}")
        except OutcomeUnknown as error:
            self.errors.append(f"{type(error).__name__}: {error}")
        except rio.RioError as error:
            self.errors.append(f"UNEXPECTED {type(error).__name__}: {error}")
        else:
            call.outcome, call.value = "acknowledged", value(reply)
        call.ended = time.monotonic()
        self.calls.append(call)

    def acknowledged(self, since: float = 0.0) -> int:
        """The calls that began after ``since`` and were acknowledged."""
        return sum(call.outcome == "acknowledged" and call.began >= since for call in self.calls)

    async def more(self, number: int = 200) -> None:
        """Wait for so many acknowledgements of calls that begin from now on."""
        began = time.monotonic()
        await until(lambda: self.acknowledged(began) >= number, f"{number} acknowledgements")

    @property
    def outcomes(self) -> str:
        counted = Multiset(call.outcome for call in self.calls)
        return ", ".join(f"{number} {outcome}" for outcome, number in sorted(counted.items()))

    def slowest(self, since: float = 0.0) -> float:
        """Seconds that the slowest acknowledged call took."""
        return max(
            call.ended - call.began
            for call in self.calls
            if call.outcome == "acknowledged" and call.ended >= since
        )

    async def violations(self, cluster: Cluster, *losses: Loss) -> list[Finding]:
        """The findings of this run: H1, H3 and H4, and answers that should not exist.

        ``losses``: when the storage went back in time.
        """
        await self.warm_up()  # the last read of each object belongs to the history
        found = [
            Finding("unexpected", error) for error in self.errors if error.startswith("UNEXPECTED")
        ]
        calls: defaultdict[str, list[Call]] = defaultdict(list)
        for call in forget(self.calls, losses, cluster.config):
            calls[call.object].append(call)
        for id in self.counters:
            found += [
                of(f"Counter/{id}", each)
                for each in history.counter(calls[f"Counter/{id}"], await cluster.value(id))
            ]
        for id in self.bags:
            found += [of(f"Bag/{id}", each) for each in history.set_full(calls[f"Bag/{id}"])]
        return found + history.single_activation(noticed(cluster.turns, losses, cluster.config))


def of(name: str, finding: Finding) -> Finding:
    return finding._replace(text=f"{name}: {finding.text}")


def report(text: str) -> None:
    """Print a figure that ``pytest -rP`` and ``-s`` show even if the test passes."""
    print(f"\nFIGURE {text}")
