"""One server process, from its start to its drained end."""

from __future__ import annotations

import asyncio
import gc
import signal

from rio.cli.arguments import Arguments
from rio.objects.registry import Registry
from rio.server.server import Server


async def serve(registry: Registry, arguments: Arguments) -> None:
    """Run a server until a signal or the cluster ends it. ``CancelledError``: the signal came
    before the server could be used.

    :raises NodeEvicted: the cluster has declared it dead.
    """
    _stop_while_starting()
    server = Server(
        registry,
        storage=arguments.storage,
        membership=arguments.membership,
        placement=arguments.placement,
        state=arguments.state,
        address=arguments.address,
        advertise=arguments.advertise,
        http=arguments.http,
        cluster=arguments.cluster,
    )
    async with server:
        # what is there now stays until the end: the garbage collector need not look at it again
        gc.freeze()
        asyncio.get_running_loop().call_soon(
            _announce, server
        )  # run() will have its signal handlers by then
        await server.run()


def _stop_while_starting() -> None:
    """Until the server handles signals itself, they cancel its start."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, task.cancel)
        except NotImplementedError:
            return  # Windows


def _announce(server: Server) -> None:
    print(f"listening on {server.address} (member {server.cluster.generation})", flush=True)
    if server.http_address:
        print(f"showing the members on http://{server.http_address}/members", flush=True)
