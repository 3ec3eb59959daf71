"""A shop: a cart takes what it orders out of a stock, which lives anywhere in the cluster."""

from __future__ import annotations

import rio
from examples.observability import telemetry

customer = rio.ContextVar("customer", str, default="nobody")
"""Who orders. It travels with the calls, and no message names it."""


class OutOfStock(rio.ApplicationError):
    product: str


class Receipt(rio.Message):
    cart_at: str
    stock_at: str


class Order(rio.Message[Receipt]):
    product: str


class Take(rio.Message[str]):
    """Answered with the address of the server that has the stock."""


class Where(rio.Message[str]):
    """Answered with the address of the server."""


class Orders(rio.State):
    count: int = 0


class Shelf(rio.State):
    left: int = 100
    last_taken_by: str = ""


class Stock(rio.ServiceObject):
    """What is left of one product."""

    shelf: Shelf = rio.managed_state()

    @rio.handler
    def where(self, _: Where) -> str:
        return str(self.address)

    @rio.handler
    async def take(self, _: Take) -> str:
        if not self.shelf.left:
            raise OutOfStock(product=self.id)
        self.shelf.left -= 1
        self.shelf.last_taken_by = customer.get()
        await self.save_state()
        return str(self.address)


class Cart(rio.ServiceObject):
    orders: Orders = rio.managed_state()

    @rio.handler
    async def order(self, message: Order) -> Receipt:
        stock_at = await self.ref(Stock, message.product).take(Take())
        self.orders.count += 1
        await self.save_state()
        return Receipt(cart_at=str(self.address), stock_at=stock_at)


telemetry.start()
registry = rio.Registry(Cart, Stock)
