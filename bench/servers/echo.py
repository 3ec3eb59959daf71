"""Send back what arrives, on uvloop: the most that I/O in Python can do.

The process ends when its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(
            asyncio.Transport, transport
        ).write  # uvloop's transports do not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        self._write(data)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    listener = await loop.create_server(Echo, "127.0.0.1", 0)
    loop.add_reader(sys.stdin, stopped.set)
    host, port = listener.sockets[0].getsockname()
    print(f"listening {host}:{port}", flush=True)
    await stopped.wait()
    listener.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
