"""Stores and takes: ``python -m examples.custom_storage.client``."""

from __future__ import annotations

import argparse

import rio
from examples.custom_storage.service import Product, SoldOut, Store, Take


async def main(storage: str) -> None:
    async with rio.Client(storage) as client:
        nuts, bolts = client.ref(Product, "m8-nut"), client.ref(Product, "m8-bolt")
        print(await nuts.store(Store("Nut M8", 500, "A3")), "nuts")
        print(await bolts.store(Store("Bolt M8", 120, "A4")), "bolts")
        print(await nuts.take(Take(120)), "nuts")
        try:
            await bolts.take(Take(200))
        except SoldOut as error:
            print("only", error.pieces, "bolts are left")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="sqlite:///stock.db", help="of the cluster")
    rio.run(main(parser.parse_args().storage))
