"""What each of several processes does that want the same of one storage at the same moment: the
program that :class:`rio.testing._racer.Racer` starts.

``python -m rio.testing._races RACE NUMBER SIZE FUNCTION [ARGUMENT...]`` prints ``ready``, begins at
the time that a line on its standard input says, and prints its answer as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any, NamedTuple

from rio.contracts.membership import MemberStatus, Vote
from rio.contracts.state import Batch, StoredObject, StoredState
from rio.errors import Superseded
from rio.identity import ObjectId
from rio.storage import Storage
from rio.testing._shared_storage import SharedStorage

COUNTER = ObjectId("Race", "counter")
"""The object whose state all processes change in :func:`take_turns`."""


class Part(NamedTuple):
    """The part of one process in a race."""

    storage: Storage
    number: int
    """Tells the processes apart: 1, 2 and so on."""
    size: int
    """How much there is to do, in units of the race."""
    start: float
    """When all processes begin, by the clock that all processes of a machine share."""

    async def wait_until(self, seconds: float) -> None:
        """Wait until so long after the start, so that all processes do the next thing at the same
        time.
        """
        await asyncio.sleep(self.start + seconds - time.monotonic())

    async def generations(self) -> list[int]:
        """The first ``size`` members, in the order in which they registered."""
        return sorted(
            member.generation for member in (await self.storage.membership.snapshot()).members
        )[: self.size]


async def join(part: Part) -> int:
    """Open a storage that nobody has opened before, and register."""
    await part.storage.prepare()
    return (await part.storage.membership.register(f"h:{part.number}")).generation


async def claim_all(part: Part) -> list[tuple[int | None, int]]:
    """Claim all objects, a hundred at each moment; every process wants the same."""
    claims: list[tuple[int | None, int]] = []
    for first in range(0, part.size, 100):
        objects = [
            ObjectId("Race", str(index)) for index in range(first, min(first + 100, part.size))
        ]
        await part.wait_until(first * 0.0002)
        claims += await asyncio.gather(
            *(part.storage.placement.claim(object_id, part.number) for object_id in objects)
        )
    return claims


async def claim_in_waves(part: Part) -> list[list[int]]:
    """Claim the process' own objects again and again, all at once each time; the tokens of each
    time.
    """
    objects = [ObjectId("Wave", f"{part.number}-{index}") for index in range(50)]
    waves: list[list[int]] = []
    for _ in range(part.size):
        claims = await asyncio.gather(
            *(part.storage.placement.claim(object_id, part.number) for object_id in objects)
        )
        waves.append([claimed.token for claimed in claims])
    return waves


async def set_status(part: Part) -> list[list[tuple[bool, MemberStatus | None]]]:
    """Move each member from active to the process' own status, 32 times at the same moment.

    Answers, for each member and time, whether that moved it, and what its status is.
    """
    wanted = MemberStatus(part.number + 1)

    async def move(generation: int) -> tuple[bool, MemberStatus | None]:
        change = await part.storage.membership.set_status(generation, MemberStatus.ACTIVE, wanted)
        return change.applied, None if change.member is None else change.member.status

    fates: list[list[tuple[bool, MemberStatus | None]]] = []
    for index, generation in enumerate(await part.generations()):
        await part.wait_until(index * 0.002)
        fates.append(await asyncio.gather(*(move(generation) for _ in range(32))))
    return fates


async def vote(part: Part) -> bool:
    """Vote on all members but the first eight, in the name of one of these for each process."""
    members = await part.generations()
    own = Vote(members[part.number - 1], 1.0)
    return all(
        [(await part.storage.membership.vote(target, own)).applied for target in members[8:]]
    )


async def renew(part: Part) -> int:
    """Renew the lease of the first member many times at once; how often that succeeded."""
    first, *_ = await part.generations()
    renewals = await asyncio.gather(
        *(part.storage.membership.renew(first) for _ in range(part.size))
    )
    return sum(renewal is not None for renewal in renewals)


async def take_turns(part: Part) -> int:
    """Take one object over from the process that has it, and add one to its state; how often that
    was acknowledged.
    """
    return sum([await add_one(part.storage, part.number) for _ in range(part.size)])


async def add_one(storage: Storage, number: int) -> bool:
    """Take the object over and add one to its state; whether that was acknowledged."""
    placement = await storage.placement.lookup(COUNTER)
    claimed = await storage.placement.claim(
        COUNTER, number, supersede=placement.token if placement else None
    )
    if claimed.generation != number:
        return False
    try:
        stored = await storage.state.load_object(COUNTER, claimed.token)
        left, _ = numbers_of(stored)
        await storage.state.commit(COUNTER, claimed.token, stored.version, batch_of(left + 1))
    except Superseded:
        return False
    return True


def batch_of(number: int) -> Batch:
    """Two states with one number, which must never be apart."""
    data = str(number).encode()
    return Batch({"left": StoredState(data), "right": StoredState(data)})


def numbers_of(stored: StoredObject) -> tuple[int, int]:
    """The numbers of the two states, 0 where they are not stored."""
    left, right = (stored.states.get(name, StoredState(b"0")).data for name in ("left", "right"))
    return int(left), int(right)


async def save_until_killed(part: Part) -> None:
    """Save one version after the other, and print each that is acknowledged."""

    async def save_one(object_id: ObjectId) -> None:
        token = (await part.storage.placement.claim(object_id, 1)).token
        version = (await part.storage.state.load_object(object_id, token)).version
        while True:
            version = await part.storage.state.commit(
                object_id, token, version, batch_of(version + 1)
            )
            print_answer([object_id.id, version])

    await asyncio.gather(*(save_one(ObjectId("Saved", str(index))) for index in range(part.size)))


async def move_in_step(part: Part) -> int:
    """Until a line tells it to stop: register two members, move them forward in step, and purge
    them, the left one first each time; how many pairs there were.
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
        save_until_killed,
        move_in_step,
    )
}


def print_answer(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


async def main(race: str, number: str, size: str, function: str, *arguments: str) -> None:
    storage = SharedStorage(function, arguments).open()
    if race != join.__name__:
        await storage.prepare()
    try:
        print("ready", flush=True)
        start = float(await asyncio.to_thread(sys.stdin.readline))
        print_answer(await RACES[race](Part(storage, int(number), int(size), start)))
    finally:
        await storage.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
