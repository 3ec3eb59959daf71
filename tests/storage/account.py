"""An object that saves at each call."""

from __future__ import annotations

import rio


class Add(rio.Message[int]):
    amount: int


class Ledger(rio.State):
    total: int = 0


class Account(rio.ServiceObject):
    ledger: Ledger = rio.managed_state()

    @rio.handler
    async def add(self, message: Add) -> int:
        self.ledger.total += message.amount
        await self.save_state()
        return self.ledger.total
