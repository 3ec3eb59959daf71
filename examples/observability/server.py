"""One server of the shop, until it is told to stop."""

from __future__ import annotations

import argparse

import rio
from examples.observability import telemetry
from examples.observability.service import registry


async def main(storage: str) -> None:
    async with rio.Server(registry, storage=storage, cluster="local") as server:
        telemetry.measure(server)
        print(f"serving on {server.address}", flush=True)
        await server.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", required=True)
    rio.run(main(parser.parse_args().storage))
