"""A server of :mod:`bench.workload`: ``python -m bench.servers.node --storage URL``.

The process ends when its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys

import rio
from bench.workload import GrantedPlacement, more_types, registry


async def serve(options: argparse.Namespace) -> None:
    app = rio.AppData()
    placement = GrantedPlacement() if options.grant else None
    state = rio.open_storage("memory://").state if options.grant else None
    types = registry(more_types(options.types))
    stopped = asyncio.Event()
    async with rio.Server(
        types,
        storage=options.storage,
        placement=placement,
        state=state,
        app_data=app,
        security=options.security,
        latency=options.latency,
    ) as server:
        app.set(server)
        asyncio.get_running_loop().add_reader(sys.stdin, stopped.set)
        gc.freeze()
        print(f"listening {server.address}", flush=True)
        await stopped.wait()
        await server.stop(drain=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--grant", action="store_true", help="keep placements and states nowhere")
    parser.add_argument("--types", type=int, default=0, help="how many more types to register")
    parser.add_argument("--security", help="a file of keys")
    parser.add_argument("--latency", choices=["normal", "low"], default="normal")
    rio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
