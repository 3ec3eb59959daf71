"""A server that gives its objects the table: ``python -m examples.custom_storage.server``."""

from __future__ import annotations

import argparse

import rio
from examples.custom_storage.service import Stocks, registry


async def main(storage: str, table: str) -> None:
    app_data = rio.AppData()
    app_data.set(Stocks(table))
    async with rio.Server(registry, storage=storage, app_data=app_data, cluster="local") as server:
        print("listening on", server.address, flush=True)
        await server.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="sqlite:///stock.db", help="of the cluster")
    parser.add_argument(
        "--table", help="the database of the table; that of the cluster if left out"
    )
    arguments = parser.parse_args()
    rio.run(main(arguments.storage, arguments.table or arguments.storage))
