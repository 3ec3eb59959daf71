"""The objects of these tests: they save before they answer, and log each of their turns."""

from __future__ import annotations

import asyncio
import itertools
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

import rio

LOG = "RIO_TEST_LOG"
"""Environment: the file in which a server process logs."""
PARENT = "RIO_TEST_PARENT"
"""Environment: the process with which a server process dies."""
VERSION = "RIO_TEST_VERSION"
"""Environment: ``newer`` for a server process with newer code."""
STORAGE = "RIO_TEST_STORAGE"
"""Environment: the scheme of the storage's URL."""
KILL_AT = "RIO_TEST_KILL_AT"
"""Environment: the place at which a server process kills itself.

It does so as soon as an object whose id starts with ``victim`` comes there.
"""
LOOK = "RIO_TEST_LOOK"
"""Environment: seconds between two looks whether the security file has changed."""
POINTS = (
    "before claim",
    "after claim",
    "before load",
    "after load",
    "before save",
    "after save",
    "before release",
    "after release",
)
LOG_SIZE = 64 * 1024 * 1024


class Event(msgspec.Struct, omit_defaults=True):
    """One line of a server's log."""

    what: str
    """What happened.

    ``loaded`` and ``unloaded``; ``begin`` and ``end`` of a turn; ``blocked`` when a handler holds
    up the event loop from now on; ``refused`` for a save that the storage did not accept any more.
    """
    at: float
    """``CLOCK_MONOTONIC``, which is the same for all processes of one machine."""
    object: str
    token: int
    turn: int = 0
    """A number within the process."""
    caller: str = ""
    number: int = 0
    """The caller's number of the message."""
    outcome: str = ""
    """For ``end``: the class of what the handler raised."""


class Log:
    """A file of JSON lines.

    It is mapped into memory, so that neither SIGKILL nor a full disk loses a line.
    """

    def __init__(self, path: str) -> None:
        with open(path, "x+b") as file:
            file.truncate(LOG_SIZE)
            self._map = mmap.mmap(file.fileno(), LOG_SIZE)
        self._end = 0

    def write(self, event: Event) -> None:
        line = msgspec.json.encode(event) + b"\n"
        self._map[self._end : self._end + len(line)] = line
        self._end += len(line)


def read_log(path: Path) -> list[Event]:
    """The log so far, without a last line that is not whole yet."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        written = data[: max(0, data.find(b"\0"))]
    return [
        msgspec.json.decode(line, type=Event)
        for line in written[: written.rfind(b"\n") + 1].splitlines()
    ]


_log = Log(os.environ[LOG]) if LOG in os.environ else None
_turns = itertools.count(1)


def note(what: str, object_id: rio.ObjectId, token: int, **more: str | int) -> None:
    """Log an event, in a server process."""
    assert _log is not None
    _log.write(
        msgspec.convert(
            {
                "what": what,
                "at": time.monotonic(),
                "object": str(object_id),
                "token": token,
                **more,
            },
            Event,
        )
    )


def reach(point: str, id: str) -> None:
    """Kill the server process here, if its environment says so; see ``node.py``."""


# --- messages -------------------------------------------------------------------------------------


class Value(rio.Message):
    value: int
    newer: int = 0
    """How many additions newer code has counted; 0 from older code, which does not know of that."""


class Elements(rio.Message):
    elements: list[int]


class Owners(rio.Message):
    """Object id to the process that has it in memory."""

    processes: dict[str, int]


class Add(rio.Message[Value]):
    """Add one, save, and answer with the sum.

    It must not be repeated: a repetition would count twice.
    """

    caller: str
    number: int


class Get(rio.Message[Value], readonly=True):
    pass


class Put(rio.Message[None]):
    caller: str
    number: int
    element: int


class Read(rio.Message[Elements], readonly=True):
    pass


class Block(rio.Message[Value]):
    """Add one, hold up the whole event loop for ``seconds``, and save."""

    seconds: float


class Owner(rio.Message[Value], readonly=True):
    """Answer with the process that has the object in memory."""


class AskOwners(rio.Message[Owners]):
    """Ask all these counters for their owner, ten at a time.

    Ten are asked at ``start``, the next ten at ``start`` + 20 ms, and so on.
    """

    ids: list[str]
    start: float


# --- objects --------------------------------------------------------------------------------------


class Logged(rio.ServiceObject):
    async def before_load(self) -> None:
        reach("before load", self.id)

    async def after_load(self) -> None:
        note("loaded", self.object_id, self.token)
        reach("after load", self.id)

    async def before_shutdown(self) -> None:
        note("unloaded", self.object_id, self.token)

    @contextmanager
    def turn(self, caller: str = "", number: int = 0) -> Iterator[None]:
        turn, token, outcome = next(_turns), self.token, ""
        note("begin", self.object_id, token, turn=turn, caller=caller, number=number)
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            note(
                "end",
                self.object_id,
                token,
                turn=turn,
                caller=caller,
                number=number,
                outcome=outcome,
            )


class Sum(rio.State):
    value: int = 0


class Counter(Logged):
    sum: Sum = rio.managed_state()

    @rio.handler
    async def add(self, message: Add) -> Value:
        with self.turn(message.caller, message.number):
            self.sum.value += 1
            reach("before save", self.id)
            await self.save_state()
            reach("after save", self.id)
            return Value(self.sum.value)

    @rio.handler
    async def get(self, _: Get) -> Value:
        with self.turn():
            return Value(self.sum.value)

    @rio.handler
    async def block(self, message: Block) -> Value:
        with self.turn():
            self.sum.value += 1
            note("blocked", self.object_id, self.token)
            time.sleep(message.seconds)  # noqa: ASYNC251  # this is the fault
            await self.save_state()
            return Value(self.sum.value)

    @rio.handler
    async def owner(self, _: Owner) -> Value:
        with self.turn():
            await asyncio.sleep(0)
            return Value(os.getpid())


class Content(rio.State):
    elements: list[int] = msgspec.field(default_factory=list)


class Bag(Logged):
    content: Content = rio.managed_state()

    @rio.handler
    async def put(self, message: Put) -> None:
        with self.turn(message.caller, message.number):
            self.content.elements.append(message.element)
            await self.save_state()

    @rio.handler
    async def read(self, _: Read) -> Elements:
        with self.turn():
            return Elements(self.content.elements)


class Asker(Logged):
    @rio.handler
    async def ask(self, message: AskOwners) -> Owners:
        owners: dict[str, int] = {}
        for number in range(0, len(message.ids), 10):
            ids = message.ids[number : number + 10]
            await asyncio.sleep(
                message.start + 0.002 * number - time.monotonic()
            )  # so that several processes ask at the same moment
            replies = await asyncio.gather(*(self.send(Counter, id, Owner()) for id in ids))
            owners.update(zip(ids, (reply.value for reply in replies), strict=True))
        return Owners(owners)

    @rio.handler
    async def owner(self, _: Owner) -> Value:
        return Value(os.getpid())
