"""The objects of the simulations: they save before they answer, and note each of their turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

import rio
from tests.simulation.history import History


class Value(rio.Message):
    value: int
    caller: str
    """The number of the message that this answers."""
    number: int


class Elements(rio.Message):
    elements: list[int]
    caller: str
    number: int


class Numbered(rio.Message[Value]):
    caller: str
    number: int
    """The caller's number of the message; no two are the same."""


class Add(Numbered):
    """Add one, save, and answer with the sum.

    It must not be repeated: a repetition would count twice.
    """

    pause: float = 0.0
    """Seconds that the handler waits for something before it saves."""


class Get(Numbered, readonly=True):
    """Answer with the sum. It may be repeated, so its turns are noted without a number."""


class Put(rio.Message[Elements]):
    caller: str
    number: int
    element: int


class Read(rio.Message[Elements], readonly=True):
    caller: str
    number: int


class Set(Numbered):
    """Overwrite a register with ``value`` if it holds ``expected``.

    The answer is what the register holds afterwards.
    """

    expected: int
    value: int


class AddElsewhere(Numbered):
    """Have another object add one, and answer with its answer."""

    target: str


class GetElsewhere(Numbered, readonly=True):
    target: str


class Noted(rio.ServiceObject):
    """An object that notes its turns."""

    @contextmanager
    def turn(self, caller: str = "", number: int = 0) -> Iterator[None]:
        with self.app_data.get(History).turn(str(self.object_id), self.token, caller, number):
            yield


class Sum(rio.State):
    value: int = 0


class Counter(Noted):
    sum: Sum = rio.managed_state()

    @rio.handler
    async def add(self, message: Add) -> Value:
        with self.turn(message.caller, message.number):
            await asyncio.sleep(message.pause)
            self.sum.value += 1
            await self.save_state()
            return Value(self.sum.value, message.caller, message.number)

    @rio.handler
    def get(self, message: Get) -> Value:
        with self.turn():
            return Value(self.sum.value, message.caller, message.number)


class Content(rio.State):
    elements: list[int] = msgspec.field(default_factory=list)


class Bag(Noted):
    content: Content = rio.managed_state()

    @rio.handler
    async def put(self, message: Put) -> Elements:
        with self.turn(message.caller, message.number):
            self.content.elements.append(message.element)
            await self.save_state()
            return Elements([], message.caller, message.number)

    @rio.handler
    def read(self, message: Read) -> Elements:
        with self.turn():
            return Elements(self.content.elements, message.caller, message.number)


class Register(Noted):
    sum: Sum = rio.managed_state()

    @rio.handler
    async def set(self, message: Set) -> Value:
        with self.turn(message.caller, message.number):
            if self.sum.value == message.expected:
                self.sum.value = message.value
                await self.save_state()
            return Value(self.sum.value, message.caller, message.number)

    @rio.handler
    def get(self, message: Get) -> Value:
        with self.turn():
            return Value(self.sum.value, message.caller, message.number)


class Relay(Noted):
    """Calls a counter from its own node, by the client of that node."""

    @rio.handler
    async def add_elsewhere(self, message: AddElsewhere) -> Value:
        with self.turn(message.caller, message.number):
            return await self.send(Counter, message.target, Add(message.caller, message.number))

    @rio.handler
    async def get_elsewhere(self, message: GetElsewhere) -> Value:
        with self.turn():
            return await self.send(Counter, message.target, Get(message.caller, message.number))


def registry() -> rio.Registry:
    return rio.Registry(Counter, Bag, Register, Relay)
