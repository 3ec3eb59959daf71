"""Call everything in the compiled core with wrong values: ``python -m tests.core.every_method``.

Each function and each method of each class is called with right values but for one wrong one, on
objects that are

* made by ``__new__`` alone,
* made rightly,
* made with one wrong value,
* right until one attribute, or one entry of a ``dict`` of theirs, was set to a wrong value;

and the owners, codecs and handlers that the core calls return wrong values. What is right, the
``.pyi`` files say. Everything may be raised. What must not happen is the end of the process:
:mod:`tests.core.test_every_method` starts this file as a process of its own, which notes before
each try what it is about to do.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import contextvars
import faulthandler
import importlib
import itertools
import logging
import math
import mmap
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

import rio._core
from rio._core import budget, calls, connection, dispatch
from tests.core.node import Node, Wire, frames, request

NOTE_SIZE = 4096
HANGS = 300
"""Seconds after which 5,000 tries count as ones that never end."""
FOLDER = Path(rio._core.__file__).parent


class Text(str):
    __slots__ = ()


class Bytes(bytes):
    __slots__ = ()


class Number(int):
    __slots__ = ()


class Says:
    """Has each attribute and each method; all of them are, or return, one value."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: self._value


def wrong_values(world: World) -> Iterator[tuple[str, Any]]:
    """Each has a name, so that a try can be told from the others."""
    yield from {
        "None": None,
        "True": True,
        "-1": -1,
        "0": 0,
        "200": 200,
        "2**31": 2**31,
        "2**63-1": 2**63 - 1,
        "2**64-1": 2**64 - 1,
        "2**64": 2**64,
        "-2**63": -(2**63),
        "nan": math.nan,
        "inf": math.inf,
        "''": "",
        "'a'": "a",
        "half a character": "\udcff",
        "b''": b"",
        "huge bytes": bytes(300_000),
        "a bytearray": bytearray(b"\x00\x00\x00\x01x"),
        "every second byte": memoryview(b"abcd")[::2],
        "a long view": memoryview(bytearray(70_000)),
        "[]": [],
        "[None]": [None],
        "[object]": [object()],
        "[(2**40, 200)]": [(2**40 + at, 200) for at in range(60)],
        "{}": {},
        "a dict": {"Thing": object(), "a": object(), "plain": object(), 1: object()},
        "an object": object(),
        "a class": dispatch.Turn,
        "a subclass of str": Text("a"),
        "a subclass of bytes": Bytes(b"a"),
        "a subclass of int": Number(7),
        "a generator": (each for each in [1]),
        "a function": wrong_values,
    }.items()
    for value in (None, 5, "text", object(), [object()]):
        yield f"what says {value!r:.5}", Says(value)
        yield f"what returns {value!r:.5}", lambda *_, value=value, **__: value
    for name in world.NAMES:
        yield f"a {name}", world.make(name)
    for name, made in bare(world):
        yield f"a bare {name}", made


def bare(world: World) -> Iterator[tuple[str, Any]]:
    """Objects that nobody has initialised, of each class that has them."""
    for name, found in CLASSES.items():
        with contextlib.suppress(Exception):
            yield name, found.__new__(found)


# --- what is right --------------------------------------------------------------------------------


class Owner(Node):
    """The owner of everything: of a dispatcher, of a caller and its codecs, of connections."""

    def __init__(self) -> None:
        super().__init__(dispatch)

    def name_of(self, object_type: Any) -> str:
        return str(object_type)

    def codec_of(self, message: Any) -> calls.MessageCodec:
        return calls.MessageCodec("plain", msgpack.packb, msgpack.unpackb)

    def route(self, call: Any) -> None: ...
    def arm(self, deadline: float) -> None: ...
    def withdraw(self, call: Any) -> None: ...
    def told(self, call: Any) -> None: ...
    def leave(self, call: Any) -> None: ...
    def note_answer(self, call: Any, connection: Any) -> None: ...

    def reply_decoder(self, *_: Any) -> Any:
        return msgpack.unpackb

    def context_of(self, turn: Any) -> bytes:
        return b"\x80"

    def context_with(self, *_: Any) -> bytes:
        return b"\x80"

    def unencodable(self, *_: Any) -> Exception:
        return ValueError("unencodable")

    def undecodable(self, *_: Any) -> Any:
        return ValueError("undecodable")


class Sink(Wire):
    """A transport that takes everything."""

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def get_write_buffer_size(self) -> int:
        return 0


class Half(calls.ClientHalf):
    def frame_received(self, kind: int, id: int, body: bytes) -> None: ...
    def error_received(self, call: Any, body: bytes) -> None: ...
    def break_off(self, error: BaseException) -> None: ...


class World:
    """One of each class, made rightly and as late as possible, and at work with each other."""

    NAMES = (
        "Budget", "Caller", "Call", "ClientHalf", "Connection", "Context", "Dispatcher",
        "FrameReader", "FrameWriter", "Mailbox", "MemberTable", "MessageCodec", "Method",
        "ReceiveBuffer", "RemoteCaller", "Routes", "ServerHalf", "Task", "Turn", "TurnCaller",
        "TypeTable", "Backlog", "Ranking", "Spinner",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._made: dict[str, Any] = {}

    def make(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = getattr(self, f"_{name}")()
        return self._made[name]

    def __getattr__(self, name: str) -> Any:
        # _FrameReader() and the like: what needs nothing
        found = CLASSES[name.removeprefix("_")]
        return lambda: found()

    def _Owner(self) -> Owner:
        return Owner()

    def _Budget(self) -> Any:
        return budget.Budget(1000)

    def _Caller(self) -> Any:
        caller = calls.Caller(self.make("Owner"), self.make("Owner"))
        caller.loop = self.loop
        return caller

    def _Call(self) -> Any:
        caller, line = self.make("Caller"), self.make("ClientHalf")
        caller.learn("Thing", "a", line)
        return caller.send("Thing", "a", {"n": 1})

    def _ClientHalf(self) -> Any:
        half = Half(self.loop)
        half.transport = Sink()
        half.usable = True
        half.spinner = self.make("Spinner")
        return half

    def _Connection(self) -> Any:
        return connection.Connection(1000, None)

    def _Context(self) -> Any:
        return contextvars.copy_context()

    def _Dispatcher(self) -> Any:
        return self.make("Owner").dispatcher

    def _Mailbox(self) -> Any:
        self.make("Turn")
        return self.make("TypeTable").mailboxes["a"]

    def _MessageCodec(self) -> Any:
        return self.make("Owner").codec_of(None)

    def _Method(self) -> Any:
        return self.make("TypeTable").methods["plain"]

    def _RemoteCaller(self) -> Any:
        return self.make("Turn").caller

    def _Routes(self) -> Any:
        return calls.Routes(8)

    def _Ranking(self) -> Any:
        return CLASSES["Ranking"](["a:1", "b:2"])

    def _ServerHalf(self) -> Any:
        half = self.make("Owner").connect()
        half.spinner = self.make("Spinner")
        return half

    def _Spinner(self) -> Any:
        spinner = CLASSES["Spinner"]()
        spinner.open()
        return spinner

    def _Task(self) -> Any:
        async def nothing() -> None: ...

        return self.loop.create_task(nothing())

    def _Turn(self) -> Any:
        half = self.make("ServerHalf")
        half.receive(frames(request(1, 1, message="wait"), request(2, 2, message="wait")))
        return self.make("TypeTable").mailboxes["a"].turn

    def _TypeTable(self) -> Any:
        return self.make("Dispatcher").tables["Thing"]

    def work(self) -> None:
        """Have everything that was made do something."""
        steps: list[Callable[[], Any]] = []
        if "ServerHalf" in self._made or "Dispatcher" in self._made:
            half = self.make("ServerHalf")
            steps += [
                lambda: fill(half, frames(request(3, 3), request(4, 4, message="quick"))),
                lambda: half.receive(frames(request(5, 5, object="b", context=b"\x80"))),
                lambda: half.receive(frames(msgpack.packb([4, 1]))),
                half.flush,
                half.abandon,
                lambda: half.dispatcher.sweep(),
                lambda: half.dispatcher.mailboxes(),
                lambda: half.dispatcher.catch_up(),
                lambda: half.dispatcher.flush(),
            ]
        if "Caller" in self._made or "ClientHalf" in self._made:
            line, caller = self.make("ClientHalf"), self.make("Caller")
            steps += [
                lambda: caller.learn("Thing", "a", line),
                lambda: caller.send("Thing", "a", {"n": 1}),
                lambda: caller.tell("Thing", "a", {"n": 1}),
                line.flush,
                lambda: fill(line, frames(*(msgpack.packb([2, id, {}]) for id in range(1, 5)))),
                lambda: line.take_calls(),
                lambda: line.find_overdue(0.0),
            ]
        if "Spinner" in self._made:
            spinner = self.make("Spinner")
            steps += [
                spinner.open,
                spinner.note_write,
                spinner,
                spinner.note_read,
                spinner.close,  # before the next try: its clock may stand still
            ]
        for step in steps:
            with contextlib.suppress(Exception):
                step()


def fill(half: Any, data: bytes) -> None:
    room = memoryview(half.get_buffer(-1))
    room[: len(data)] = data
    half.buffer_updated(len(data))
    room[: len(data)] = data  # and once more, through a view that was kept


# --- what the .pyi files say ----------------------------------------------------------------------


class Parameter(NamedTuple):
    name: str
    type: str
    by_name: bool


Signatures = dict[str, list[Parameter]]


def parameters(function: ast.FunctionDef) -> list[Parameter]:
    found = function.args
    return [
        Parameter(each.arg, ast.unparse(each.annotation), each in found.kwonlyargs)
        for each in [*found.posonlyargs, *found.args, *found.kwonlyargs]
        if each.annotation is not None
    ]


def signatures(module: str) -> dict[str, Signatures]:
    """Class name, or "" for the functions, to method name to parameters."""
    found: dict[str, Signatures] = {"": {}}
    for node in ast.parse((FOLDER / f"{module}.pyi").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[""][node.name] = parameters(node)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = {
                each.name: parameters(each)
                for each in node.body
                if isinstance(each, ast.FunctionDef)
            }
    return found


MODULES = sorted(path.stem for path in FOLDER.glob("*.pyi"))
SIGNATURES = {module: signatures(module) for module in MODULES}
CLASSES = {
    name: found
    for module in MODULES
    for name, found in vars(importlib.import_module(f"rio._core.{module}")).items()
    if isinstance(found, type)
    and found.__module__ == f"rio._core.{module}"
    and not issubclass(found, (BaseException, int, tuple))
}
RIGHT: dict[str, Any] = {
    "int": 1,
    "float": 1.0,
    "bool": True,
    "str": "plain",
    "bytes": b"\x00\x00\x00\x01x",
    "Buffer": b"\x00\x00\x00\x01x",
    "type": dict,
    "object": "Thing",
    "Any": "Thing",
    "SupportsIndex": 0,
    "BaseException": ValueError("right"),
    "Sequence[str]": ["a:1", "b:2"],
    "Iterable[int]": [1, 2],
    "Iterable[tuple[int, int]]": [(1, 1), (2, 2)],
}


def right_value(type_: str, world: World) -> Any:
    first = type_.split(" | ")[0].removeprefix("contextvars.")
    if first in RIGHT:
        return RIGHT[first]
    if first in World.NAMES:
        return world.make(first)
    if first in ("_Owner", "_Codecs", "_Runtime"):
        return world.make("Owner")
    if first == "asyncio.AbstractEventLoop":
        return world.loop
    if first.startswith("asyncio.Task"):
        return world.make("Task")
    if first.startswith("Coroutine"):
        return asyncio.sleep(0)
    if first in ("Iterable[TypeTable]", "Iterable[Method]"):
        return [world.make(first[9:-1])]
    return msgpack.packb  # some Callable


# --- the tries ------------------------------------------------------------------------------------

Try = tuple[str, Callable[[], Any]]


def call(function: Any, wanted: list[Parameter], values: list[Any]) -> Any:
    by_name = {each.name: value for each, value in zip(wanted, values, strict=True) if each.by_name}
    return function(
        *(value for each, value in zip(wanted, values, strict=True) if not each.by_name), **by_name
    )


def with_one_wrong(wanted: list[Parameter], world: World) -> Iterator[tuple[str, list[Any]]]:
    """The right values, and those with one wrong one."""

    def right() -> list[Any]:
        return [right_value(each.type, world) for each in wanted]

    yield "right", right()
    yield "nothing", []
    for at, parameter in enumerate(wanted):
        for name, value in wrong_values(world):
            yield f"{parameter.name}={name}", [*right()[:at], value, *right()[at + 1 :]]


def constructor(name: str) -> list[Parameter]:
    for module in SIGNATURES.values():
        for method in ("__init__", "__new__"):
            if method in module.get(name, {}):
                return module[name][method]
    return []


def methods_of(name: str) -> Signatures:
    """Those of the class and of its bases, with its attributes and what every object has."""
    found: Signatures = {}
    for base in reversed(CLASSES[name].__mro__):
        for module in SIGNATURES.values():
            found |= module.get(base.__name__, {})
    known = {method: [] for method in dir(CLASSES[name]) if method not in NEVER_CALLED}
    return {**known, **{method: each for method, each in found.items() if method in known}}


NEVER_CALLED = {"__class__", "__init_subclass__", "__new__", "__subclasshook__"}


def use(made: Any, method: str, wanted: list[Parameter], values: list[Any]) -> Any:
    found = getattr(made, method)
    if not callable(found):
        return repr(found)
    result = call(found, wanted, values) if len(values) == len(wanted) else found(*values)
    if isinstance(result, Iterator):
        return list(itertools.islice(result, 10))
    return result


class Tries:
    """All tries, each with a name and in the same order each time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __iter__(self) -> Iterator[Try]:
        for module, found in SIGNATURES.items():
            for name, wanted in found[""].items():
                yield from self._of_function(module, name, wanted)
        for name in CLASSES:
            yield f"{name}.__new__({name})", lambda name=name: CLASSES[name].__new__(CLASSES[name])
            if name in dict(bare(self._world())):
                yield from self._of_arguments(name, "bare")
            yield from self._of_arguments(name, "right")
            yield from self._of_constructors(name)
            yield from self._of_attributes(name)
            yield from self._of_entries(name)

    def _world(self) -> World:
        return World(self._loop)

    def _of_function(self, module: str, name: str, wanted: list[Parameter]) -> Iterator[Try]:
        function = getattr(importlib.import_module(f"rio._core.{module}"), name)
        for what, values in with_one_wrong(wanted, self._world()):
            if len(values) == len(wanted):
                yield (
                    f"{module}.{name}({what})",
                    lambda values=values: call(function, wanted, values),
                )

    def _of_arguments(self, name: str, kind: str) -> Iterator[Try]:
        for method, wanted in methods_of(name).items():
            for what, values in with_one_wrong(wanted, self._world()):
                world = self._world()

                def attempt(
                    world: World = world,
                    method: str = method,
                    wanted: list[Parameter] = wanted,
                    values: list[Any] = values,
                ) -> None:
                    made = (
                        CLASSES[name].__new__(CLASSES[name])
                        if kind == "bare"
                        else made_right(name, world)
                    )
                    use(made, method, wanted, values)
                    world.work()

                yield f"{kind} {name}.{method}({what})", attempt

    def _of_constructors(self, name: str) -> Iterator[Try]:
        wanted = constructor(name)
        for what, values in with_one_wrong(wanted, self._world()):
            if len(values) != len(wanted):
                continue

            def attempt(values: list[Any] = values) -> None:
                world = self._world()
                made = call(CLASSES[name], wanted, values)
                world._made[name] = made
                self._use_all(made, name, world)

            yield f"{name}({what}), and then all methods", attempt

    def _of_attributes(self, name: str) -> Iterator[Try]:
        for attribute in dir(CLASSES[name]):
            if attribute.startswith("__"):
                continue
            for what, value in wrong_values(self._world()):

                def attempt(attribute: str = attribute, value: Any = value) -> None:
                    world = self._world()
                    made = made_right(name, world)
                    setattr(made, attribute, value)
                    self._use_all(made, name, world)

                yield f"{name}.{attribute} = {what}, and then all methods", attempt

    def _of_entries(self, name: str) -> Iterator[Try]:
        try:
            made = made_right(name, self._world())
        except Exception:
            return
        for attribute in dir(made):
            if not attribute.startswith("__") and isinstance(getattr(made, attribute, None), dict):
                for key in ("Thing", "a", None):

                    def attempt(attribute: str = attribute, key: Any = key) -> None:
                        world = self._world()
                        made = made_right(name, world)
                        entries = getattr(made, attribute)
                        entries[object() if key is None else key] = object()
                        self._use_all(made, name, world)

                    yield f"{name}.{attribute}[{key}] = object(), and then all methods", attempt

    def _use_all(self, made: Any, name: str, world: World) -> None:
        for method, wanted in methods_of(name).items():
            with contextlib.suppress(BaseException):
                use(made, method, wanted, [right_value(each.type, world) for each in wanted])
        world.work()


def made_right(name: str, world: World) -> Any:
    return world.make(name) if name in World.NAMES else CLASSES[name]()


# --- the process ----------------------------------------------------------------------------------


async def run(note: mmap.mmap | None, start: int) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    number = 0
    for number, (name, attempt) in enumerate(Tries(loop), 1):
        if number < start:
            continue
        if note is not None:
            text = f"{number} {name}".encode("ascii", "replace")[: NOTE_SIZE - 1]
            note[: len(text) + 1] = text + b"\n"
        try:
            attempt()
        except Exception:
            pass
        except BaseException as error:
            if not isinstance(error, (SystemExit, asyncio.CancelledError, GeneratorExit)):
                raise
        if number % 50 == 0:
            await asyncio.sleep(0)
        if number % 5000 == 0:
            faulthandler.dump_traceback_later(HANGS, exit=True)
    print(number, "tries", flush=True)
    os._exit(0)  # what was tried may keep a loop from its end


def main() -> None:
    """``every_method [FILE START]``: FILE is where the number and the name of each try go."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable()
    sys.unraisablehook = lambda _: None
    note = None
    if len(sys.argv) > 1:
        with open(sys.argv[1], "r+b") as file:
            note = mmap.mmap(file.fileno(), NOTE_SIZE)
    start = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    asyncio.run(run(note, start))


if __name__ == "__main__":
    main()
