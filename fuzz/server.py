"""A server process, through sockets. An execution is a frame that it has taken.

A conversation is requests whose names, ids, contexts and payloads are mutated, so that the server
answers each, and at its end one frame of which everything is. Then the server must still live; in
the end it must hold nothing, and have met no error of its own. Frames that it did not answer,
because it had closed the connection, do not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from typing import Any

import msgpack

import rio
from bench.workload import Room
from fuzz.mutator import VALUES, Mutator
from rio.transport import protocol
from rio.transport.protocol import VERSION, Hello

FRAMES = 200
TIMEOUT = 60.0
MOST_GROWTH = 200 * 1024 * 1024
"""Bytes by which the process may grow; the objects that were made up stay in its memory."""
CORPUS = [
    msgpack.packb([1, 1, "Room", "a", "PlainPing", 0, None, {"ping_id": "x"}]),
    msgpack.packb([1, 2, "Room", "a", "Ping", 1000, b"\x81\xa5chain\x90", {"ping_id": "x"}]),
    msgpack.packb([1, 3, "Room", "b", "EchoBlock", 0, b"\x81\xa5trace\xc2", {"data": b"x" * 9}]),
    msgpack.packb([1, 4, "Room", "b", "rio.subscribe", 0, None, {}]),
    msgpack.packb([1, 5, "Room", "b", "rio.shutdown", 0, None, None]),
    *(msgpack.packb([kind, 1]) for kind in (4, 5, 7, 8)),
    msgpack.packb([10, 0, [1, 4, 5, 3, 0, b"", 7]]),
    protocol.write_hello(Hello(VERSION, "client")),
]
NAMES = ["Room"] * 20 + ["", "room", "R" * 129, "rio.System", "ä", "\0"]
MESSAGES = ["PlainPing", "Ping", "EchoBlock"] * 8 + ["", "rio.subscribe", "nothing", "P" * 129]
IDS = [f"object-{number}" for number in range(40)] + ["", "x" * 513, "ä" * 256, "\n\x1b[31m"]
CONTEXTS = [None] * 8 + [b"", b"\x80", b"\x81\xa5chain\x90", b"\x81\xa5trace\xc2", b"\xff" * 9]
PAYLOADS = [msgpack.packb({"ping_id": "x"}), msgpack.packb({"data": b"x" * 30}), b"\xc0"]
TIMEOUTS = [0] * 6 + [1, 30_000, 2**32, 2**64 - 1]


class Target:
    def __init__(self) -> None:
        command = [sys.executable, "-m", "fuzz.server"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        host, port, self._resident = self._line().split()
        self._address = host, int(port)
        self._payloads: Mutator | None = None
        self._socket: Any = None
        self._number = 0

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line, f"the server has ended: {self._process.wait()}"
        return line

    def make(self, mutator: Mutator) -> bytes:
        if self._payloads is None:
            self._payloads = Mutator(PAYLOADS, mutator.below(2**31))
        bodies = [self._request(mutator, self._payloads) for _ in range(FRAMES - 1)]
        bodies.append(mutator.mutant())
        return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)

    def _request(self, mutator: Mutator, payloads: Mutator) -> bytes:
        below = mutator.below
        self._number += 1
        pack = msgpack.packb
        context = pack(CONTEXTS[below(len(CONTEXTS))])
        if below(10) == 0:
            value = payloads.mutant()
            context = b"\xc4" + bytes([len(value) & 255]) + value[: len(value) & 255]
        return b"".join((
            b"\x98\x01",
            pack(self._number),
            pack(NAMES[below(len(NAMES))]),
            pack(IDS[below(len(IDS))]),
            pack(MESSAGES[below(len(MESSAGES))]),
            pack(TIMEOUTS[below(len(TIMEOUTS))]),
            context,
            payloads.mutant() if below(9) else VALUES[below(len(VALUES))],
        ))  # fmt: skip

    def run(self, conversation: bytes) -> int:
        if self._socket is None:
            self._connect()
        ping = msgpack.packb([7, 2**40])
        answered = 0
        try:
            self._socket.sendall(conversation + len(ping).to_bytes(4, "big") + ping)
            while (frame := self._frame()) != [8, 2**40]:
                assert frame[0] in (0, 2, 3, 6, 5, 8, 9, 10), f"it has sent {frame!r:.200}"
                answered += frame[0] in (2, 3) and frame[1] != 0
        except ConnectionError:
            self._socket.close()
            self._socket = None
        assert self._process.poll() is None, f"the server has ended: {self._process.returncode}"
        return answered + 1

    def _connect(self) -> None:
        self._socket = socket.create_connection(self._address, TIMEOUT)
        self._buffer = b""
        hello = protocol.write_hello(Hello(VERSION, "client"))
        self._socket.sendall(len(hello).to_bytes(4, "big") + hello)
        assert self._frame()[0] == 0

    def _frame(self) -> list[Any]:
        while len(self._buffer) < 4 or len(self._buffer) < 4 + self._size():
            data = self._socket.recv(1 << 18)
            if not data:
                raise ConnectionResetError
            self._buffer += data
        body, self._buffer = self._buffer[4 : 4 + self._size()], self._buffer[4 + self._size() :]
        return list(msgpack.unpackb(body, strict_map_key=False, unicode_errors="replace"))

    def _size(self) -> int:
        return int.from_bytes(self._buffer[:4], "big")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        calls, in_flight, used, connections, errors, resident = map(int, self._line().split())
        code = self._process.wait(TIMEOUT)
        assert self._process.stdout is not None
        self._process.stdout.close()
        print(f"    the server has taken {calls:,} requests; {resident >> 20} MiB are resident")
        assert (in_flight, used, connections) == (0, 0, 0), "something is left on the server"
        assert errors == 0, f"the server has met {errors} errors of its own"
        assert resident - int(self._resident) < MOST_GROWTH, "the server grows"
        assert code == 0


# --- the process of the server --------------------------------------------------------------------


class Errors(logging.Handler):
    """Counts what the server takes for a fault of its own."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.count += 1
            print(self.format(record), file=sys.stderr)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def serve() -> None:
    errors = Errors()
    logging.getLogger("rio").addHandler(errors)
    logging.getLogger("rio").propagate = False
    async with rio.Server(rio.Registry(Room), storage="memory://") as server:
        host, port = rio.Address.parse(server.address)
        print(host, port, resident(), flush=True)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()
        dispatcher = server._catalog.dispatcher
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT / 2):
                while dispatcher.connections or dispatcher.in_flight:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        print(
            dispatcher.calls, dispatcher.in_flight, dispatcher.budget.used,
            len(dispatcher.connections), errors.count, resident(), flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    asyncio.run(serve())
