"""The objects that the benchmarks call, and their messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

import rio
from rio.contracts import Placement


class Pong(rio.Message):
    ping_id: str


class Ping(rio.Message[Pong]):
    """Answered by an ``async def`` handler that waits for nothing."""

    ping_id: str


class PlainPing(rio.Message[Pong]):
    """Answered by a ``def`` handler."""

    ping_id: str


class Block(rio.Message):
    data: bytes


class EchoBlock(rio.Message[Block]):
    data: bytes


class Sleep(rio.Message[None]):
    """Keeps an object busy, and the loop free."""

    seconds: float


class Room(rio.ServiceObject):
    """The object of all calls that save nothing."""

    @rio.handler
    async def ping(self, message: Ping) -> Pong:
        return Pong(message.ping_id)

    @rio.handler
    def plain_ping(self, message: PlainPing) -> Pong:
        return Pong(message.ping_id)

    @rio.handler
    def echo(self, message: EchoBlock) -> Block:
        return Block(message.data)

    @rio.handler
    async def sleep(self, message: Sleep) -> None:
        await asyncio.sleep(message.seconds)


class Count(rio.State):
    value: int = 0
    filling: bytes = bytes(100)
    """Gives a row the size of a small real one."""


class Touch(rio.Message[int]):
    """Answered with the count, which does not change."""


class Increment(rio.Message[int]):
    """Answered when the new count is saved."""


class Counter(rio.ServiceObject):
    """An object with state."""

    count: Count = rio.managed_state()

    @rio.handler
    def touch(self, _: Touch) -> int:
        return self.count.value

    @rio.handler
    async def increment(self, _: Increment) -> int:
        self.count.value += 1
        await self.save_state()
        return self.count.value


class Grind(rio.Message[None]):
    """Keeps the server busy for so many seconds."""

    seconds: float


class AsyncGrind(Grind):
    """The same in an ``async def`` handler."""


class Mill(rio.ServiceObject):
    """An object that takes its time."""

    @rio.handler
    def grind(self, message: Grind) -> None:
        grind(message.seconds)

    @rio.handler
    async def grind_async(self, message: AsyncGrind) -> None:
        grind(message.seconds)

    @rio.handler
    def touch(self, _: Touch) -> int:
        return 0


def grind(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class Driven(rio.Message):
    seconds: float


class Drive(rio.Message[Driven]):
    """Make ``calls`` calls in all to ``objects`` rooms whose ids begin with ``prefix``."""

    prefix: str
    objects: int
    calls: int
    in_flight: int


class Where(rio.Message[str]):
    """Answered with the address of the server."""


class Driver(rio.ServiceObject):
    """An object that calls others, as the clients of the benchmarks do."""

    @rio.handler
    def where(self, _: Where) -> str:
        return str(self.address)

    @rio.handler
    async def drive(self, message: Drive) -> Driven:
        async def caller(number: int) -> None:
            for call in range(message.calls // message.in_flight):
                id = f"{message.prefix}{(number * 7919 + call) % message.objects}"
                await self.send(Room, id, Ping(id))

        began = time.perf_counter()
        await asyncio.gather(*(caller(number) for number in range(message.in_flight)))
        return Driven(time.perf_counter() - began)


class Rang(rio.Message):
    number: int


class Ring(rio.Message[None]):
    times: int


class Bell(rio.ServiceObject):
    """An object that publishes."""

    @rio.handler
    def ring(self, message: Ring) -> None:
        for number in range(message.times):
            self.publish(Rang(number))


class Health(rio.Message):
    tasks: int
    live_objects: int
    subscriptions: int


class Look(rio.Message[Health]): ...


class Leave(rio.Message[None]): ...


class Guest(rio.ServiceObject):
    """An object with state that leaves when it is asked to."""

    count: Count = rio.managed_state()

    @rio.handler
    async def ping(self, message: Ping) -> Pong:
        return Pong(message.ping_id)

    @rio.handler
    async def increment(self, _: Increment) -> int:
        self.count.value += 1
        await self.save_state()
        return self.count.value

    @rio.handler
    async def leave(self, _: Leave) -> None:
        await self.shutdown()


class Nurse(rio.ServiceObject):
    """Looks at the process in which it lives."""

    @rio.handler
    def look(self, _: Look, app: rio.AppData) -> Health:
        seen = app.get(rio.Server).statistics()
        return Health(len(asyncio.all_tasks()), seen.live_objects, seen.subscriptions)


TYPES: Sequence[type[rio.ServiceObject]] = (Room, Mill, Counter, Driver, Bell, Guest, Nurse)


def more_types(count: int) -> list[type[rio.ServiceObject]]:
    """Types that do what :class:`Room` does, under the names ``Room0``, ``Room1`` and so on."""
    return [type(f"Room{number}", (Room,), {}) for number in range(count)]


class GrantedPlacement(rio.ObjectPlacement):
    """Grants every claim at once and remembers none, for one server.

    So an activation costs what ``rio`` itself costs.
    """

    async def prepare(self) -> None: ...

    async def close(self) -> None: ...

    async def claim(
        self, object_id: rio.ObjectId, generation: int, *, supersede: int | None = None
    ) -> Placement:
        return Placement(generation, 1)

    async def lookup(self, object_id: rio.ObjectId) -> Placement | None:
        return None

    async def release(self, object_id: rio.ObjectId, token: int) -> bool:
        return True

    async def release_all(self, generation: int) -> int:
        return 0

    async def owned_by(self, generation: int) -> Sequence[rio.ObjectId]:
        return ()


def registry(more: Iterable[type[rio.ServiceObject]] = ()) -> rio.Registry:
    return rio.Registry(*TYPES, *more)
