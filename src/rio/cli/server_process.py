"""One server process, from its start to its drained end."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Mapping

from rio.cli.options import Arguments
from rio.objects.registry import Registry
from rio.server.config import ServerConfig
from rio.server.server import Server

EVICTED = 70
"""The exit code of a server that the cluster declared dead (``EX_SOFTWARE``)."""
PARENT = "RIO_PARENT_PID"
"""The variable that tells a server process which process is its parent."""
PR_SET_PDEATHSIG = 1
"""Of ``prctl``: the signal to send when the parent ends."""


async def serve(registry: Registry, arguments: Arguments) -> None:
    """Run a server until a signal or the cluster ends it.

    :raises NodeEvicted: the cluster declared it dead.
    :raises asyncio.CancelledError: a signal came before the server was ready.
    """
    _stop_while_starting()
    server = Server(
        registry,
        storage=arguments.storage,
        address=arguments.address,
        advertise=arguments.advertise,
        http=arguments.http,
        cluster=arguments.cluster,
        version=arguments.version,
        labels=arguments.label,
        config=ServerConfig(
            idle_after=arguments.idle_after,
            max_objects=arguments.max_objects,
            max_memory=arguments.max_memory,
        ),
        **arguments.roles(),
    )
    async with server:
        # What is in memory now stays until the end: the garbage collector need not look at it.
        gc.freeze()
        # run() will have its signal handlers when this is called.
        asyncio.get_running_loop().call_soon(_announce, server)
        await server.run()


def follow_parent(environ: Mapping[str, str]) -> None:
    """If a supervisor started this process: drain and stop when the supervisor has ended, in
    whichever way. Only Linux tells a process that its parent has ended.
    """
    parent = environ.get(PARENT)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("rio: the parent process has ended")


def _stop_while_starting() -> None:
    """Have signals cancel the start, until the server handles them itself."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, task.cancel)
        except NotImplementedError:
            return  # Windows


def _announce(server: Server) -> None:
    print(f"listening on {server.address} (member {server.generation})", flush=True)
    if server.http_address:
        print(f"showing the members on http://{server.http_address}/members", flush=True)
