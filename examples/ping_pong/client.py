"""Send pings to two players, on whatever servers they live."""

from __future__ import annotations

import argparse

import rio
from examples.ping_pong.service import Ping, Player


async def main(storage: str) -> None:
    async with rio.Client(storage) as client:
        for name in ("ada", "bob", "ada"):
            pong = await client.send(Player, name, Ping("hello"))
            print(f"{pong.text}, pong number {pong.count}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--storage", required=True, help="the storage of the cluster, for example sqlite:///ping.db"
    )
    rio.run(main(parser.parse_args().storage))
