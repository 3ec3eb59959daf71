"""Products whose stock lies in the columns of a table that other programs query."""

from __future__ import annotations

from typing import Any

import rio
from rio.storage.table import SqlTable


class Stock(rio.State):
    name: str = ""
    pieces: int = 0
    shelf: str = ""


class Stocks(SqlTable[Stock]):
    """One row for each product."""

    table = "stock"
    columns = ("name", "pieces", "shelf")
    migrations = (
        "CREATE TABLE stock (id TEXT PRIMARY KEY, rio_token BIGINT NOT NULL,"
        " rio_version BIGINT NOT NULL, name TEXT, pieces BIGINT)",
        # the shelf came later: programs that have run the first statement only run this one
        "ALTER TABLE stock ADD COLUMN shelf TEXT NOT NULL DEFAULT ''",
    )

    def to_row(self, state: Stock) -> tuple[object, ...]:
        return (state.name, state.pieces, state.shelf)

    def to_state(self, row: tuple[Any, ...]) -> Stock:
        return Stock(*row)


class SoldOut(rio.ApplicationError):
    pieces: int


class Store(rio.Message[int]):
    """Put pieces on a shelf. Answers with how many there are."""

    name: str
    pieces: int
    shelf: str


class Take(rio.Message[int]):
    """Take pieces away. Answers with how many are left."""

    pieces: int


class Product(rio.ServiceObject):
    stock: Stock = rio.managed_state(storage=Stocks)  # the one in the server's AppData

    @rio.handler
    async def store(self, message: Store) -> int:
        self.stock.name, self.stock.shelf = message.name, message.shelf
        self.stock.pieces += message.pieces
        await self.save_state()
        return self.stock.pieces

    @rio.handler
    async def take(self, message: Take) -> int:
        if message.pieces > self.stock.pieces:
            raise SoldOut(self.stock.pieces)
        self.stock.pieces -= message.pieces
        await self.save_state()
        return self.stock.pieces


registry = rio.Registry(Product)
