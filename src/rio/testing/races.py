"""Several processes on one storage that want the same at the same moment: what
:class:`rio.testing.contracts.SharedStorageContract` runs.

``python -m rio.testing.races RACE NUMBER COUNT FACTORY [ARGUMENT...]`` is one of them. It prints
``ready``, begins at the time that a line on its standard input says, and prints its answer as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import import_module
from itertools import pairwise
from typing import Any, NamedTuple, Self

from rio.contracts.membership import MemberStatus, Vote
from rio.contracts.state import StateStorage, StoredState
from rio.errors import StateNotFound, Superseded
from rio.identity import ObjectId
from rio.storage import Storage

COUNTER = ObjectId("Race", "counter")
LIMIT = 1 << 26
"""Bytes of an answer."""


class Shared(NamedTuple):
    """How any process opens the same data: the function ``"module:function"`` is called with the
    arguments.

    It returns a :class:`rio.storage.Storage` that is not prepared yet, and it does so in processes
    that have imported nothing else.
    """

    function: str
    arguments: tuple[str, ...] = ()

    def open(self) -> Storage:
        module, _, name = self.function.partition(":")
        storage: Storage = getattr(import_module(module), name)(*self.arguments)
        return storage


# --- the parent -----------------------------------------------------------------------------------


class Racer:
    """One process, ready to begin: ``async with Racer(shared, "claim_all", 1, 3000) as racer``.

    In the end it is killed.
    """

    def __init__(self, shared: Shared, race: str, number: int, count: int) -> None:
        self._arguments = [race, str(number), str(count), shared.function, *shared.arguments]
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-W", "error", "-m", "rio.testing.races", *self._arguments]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environ = {**os.environ, "PYTHONPATH": path}
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, env=environ, limit=LIMIT
        )
        assert await self.line() == "ready", f"{self._arguments} did not start"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    def tell(self, start: float = 0.0) -> None:
        """Have it begin, at a time of the clock that all processes share; or, if it goes on until
        it is told, end.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{start}\n".encode())

    async def line(self) -> str:
        """The next line of its output, or nothing if there will be none."""
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()

    async def answer(self) -> Any:
        line = await self.line()
        assert line, (
            f"{self._arguments} ended with {await self._process.wait()} and without an answer"
        )
        return json.loads(line)

    async def kill(self) -> list[str]:
        """SIGKILL, and what it had printed before."""
        if self._process.returncode is None:
            self._process.kill()
        rest, _ = await self._process.communicate()
        return [line for line in rest.decode().splitlines(keepends=True) if line.endswith("\n")]


async def run(shared: Shared, race: str, count: int, *, processes: int = 4) -> list[Any]:
    """Start processes with the numbers 1, 2 and so on, let them begin at the same moment, and
    return what each answers.
    """
    async with AsyncExitStack() as stack:
        starting = [
            stack.enter_async_context(Racer(shared, race, number, count))
            for number in range(1, processes + 1)
        ]
        racers = [await racer for racer in starting]
        start = time.monotonic() + 0.1
        for racer in racers:
            racer.tell(start)
        return [await racer.answer() for racer in racers]


# --- what each process does -----------------------------------------------------------------------


class Part(NamedTuple):
    """One process's part in a race."""

    storage: Storage
    number: int
    size: int
    """Of what, is the race's to say."""
    start: float
    """When all begin, by the clock that all processes of a machine share."""

    async def moment(self, seconds: float) -> None:
        """Wait until so long after the start, so that all processes do the next thing at the same
        time.
        """
        await asyncio.sleep(self.start + seconds - time.monotonic())

    async def generations(self) -> list[int]:
        """The first ``size`` members, in the order in which they came."""
        return sorted(
            member.generation for member in (await self.storage.membership.snapshot()).members
        )[: self.size]


async def join(part: Part) -> int:
    """Open a storage that nobody has opened before, and register."""
    await part.storage.prepare()
    return (await part.storage.membership.register(f"h:{part.number}")).generation


async def claim_all(part: Part) -> list[tuple[int | None, int]]:
    """Claim all objects, which everybody wants, a hundred at each moment."""
    claims: list[tuple[int | None, int]] = []
    for first in range(0, part.size, 100):
        objects = [
            ObjectId("Race", str(index)) for index in range(first, min(first + 100, part.size))
        ]
        await part.moment(first * 0.0002)
        claims += await asyncio.gather(
            *(part.storage.placement.claim(object_id, part.number) for object_id in objects)
        )
    return claims


async def claim_in_waves(part: Part) -> list[list[int]]:
    """The tokens of claims, some of which are made at once, and some after each other."""
    objects = [ObjectId("Wave", f"{part.number}-{index}") for index in range(50)]
    waves: list[list[int]] = []
    for _ in range(part.size):
        claims = await asyncio.gather(
            *(part.storage.placement.claim(object_id, part.number) for object_id in objects)
        )
        waves.append([claimed.token for claimed in claims])
    return waves


async def set_status(part: Part) -> list[list[tuple[bool, MemberStatus | None]]]:
    """32 times at the same moment: move a member from active to a status of one's own.

    Who did it, and what its status is.
    """
    wanted = MemberStatus(part.number + 1)

    async def move(generation: int) -> tuple[bool, MemberStatus | None]:
        change = await part.storage.membership.set_status(generation, MemberStatus.ACTIVE, wanted)
        return change.applied, None if change.member is None else change.member.status

    fates: list[list[tuple[bool, MemberStatus | None]]] = []
    for index, generation in enumerate(await part.generations()):
        await part.moment(index * 0.002)
        fates.append(await asyncio.gather(*(move(generation) for _ in range(32))))
    return fates


async def vote(part: Part) -> bool:
    """The first members vote on all others, each process for one of them."""
    members = await part.generations()
    own = Vote(members[part.number - 1], 1.0)
    return all(
        [(await part.storage.membership.vote(target, own)).applied for target in members[8:]]
    )


async def renew(part: Part) -> int:
    """Renew the lease of the first member, many at once."""
    first, *_ = await part.generations()
    return sum(
        await asyncio.gather(*(part.storage.membership.renew(first) for _ in range(part.size)))
    )


async def take_turns(part: Part) -> int:
    """Take one object over from whoever has it and add one to its state.

    How often that was acknowledged.
    """
    return sum([await add_one(part.storage, part.number) for _ in range(part.size)])


async def add_one(storage: Storage, number: int) -> bool:
    placement = await storage.placement.lookup(COUNTER)
    claimed = await storage.placement.claim(
        COUNTER, number, supersede=placement.token if placement else None
    )
    if claimed.generation != number:
        return False
    try:
        version, data = await load(storage.state, COUNTER, claimed.token)
        await storage.state.save(
            COUNTER, "s", claimed.token, version, str(int(data or b"0") + 1).encode()
        )
    except Superseded:
        return False
    return True


async def load(state: StateStorage, object_id: ObjectId, token: int) -> StoredState:
    try:
        return await state.load_and_fence(object_id, "s", token)
    except StateNotFound:
        return StoredState(0, b"")


async def save_for_ever(part: Part) -> None:
    """Save one version after the other, and say so of each that is acknowledged."""

    async def save_one(object_id: ObjectId) -> None:
        version = (await load(part.storage.state, object_id, 1)).version
        while True:
            version = await part.storage.state.save(
                object_id, "s", 1, version, str(version + 1).encode()
            )
            tell([object_id.id, version])

    await asyncio.gather(*(save_one(ObjectId("Saved", str(index))) for index in range(part.size)))


async def move_in_step(part: Part) -> int:
    """Until it is told to stop: two members come, move forward in step, and go; the left one first
    each time. How many pairs there were.
    """
    pairs, membership = 0, part.storage.membership
    stop = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    while not stop.done():
        pair = [
            (await membership.register(address)).generation for address in ("left:1", "right:1")
        ]
        for before, after in pairwise(MemberStatus):
            for generation in pair:
                await membership.set_status(generation, before, after)
        for generation in pair:
            await membership.purge(generation)
        pairs += 1
    return pairs


RACES: dict[str, Callable[[Part], Awaitable[Any]]] = {
    race.__name__: race
    for race in (
        join,
        claim_all,
        claim_in_waves,
        set_status,
        vote,
        renew,
        take_turns,
        save_for_ever,
        move_in_step,
    )
}


def tell(what: Any) -> None:
    print(json.dumps(what), flush=True)


async def main(race: str, number: str, count: str, function: str, *arguments: str) -> None:
    storage = Shared(function, arguments).open()
    if race != join.__name__:
        await storage.prepare()
    try:
        print("ready", flush=True)
        start = float(await asyncio.to_thread(sys.stdin.readline))
        tell(await RACES[race](Part(storage, int(number), int(count), start)))
    finally:
        await storage.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
