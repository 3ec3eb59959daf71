"""Two versions of a program, for servers that ``rio run`` starts: ``old`` and ``new``."""

from __future__ import annotations

import os
from importlib import import_module

import rio
from tests.cluster.processes.objects import PARENT

if PARENT in os.environ:
    import_module("tests.cluster.processes.node")  # with which a process dies with its test


class Deposit(rio.Message[int]):
    pass


class Grant(rio.Message[int]):
    """Only the new version handles it."""


class Where(rio.Message[str]):
    pass


class Balance(rio.State):
    amount: int = 0


class Account(rio.ServiceObject, type_name="Account"):
    balance: Balance = rio.managed_state()

    @rio.handler
    async def deposit(self, message: Deposit) -> int:
        self.balance.amount += 1
        await self.save_state()
        return self.balance.amount

    @rio.handler
    def where(self, message: Where) -> str:
        return str(self.address)


class NewBalance(rio.State):
    amount: int = 0
    credit: int = 0


class NewAccount(rio.ServiceObject, type_name="Account"):
    balance: NewBalance = rio.managed_state()

    @rio.handler
    async def deposit(self, message: Deposit) -> int:
        self.balance.amount += 1
        await self.save_state()
        return self.balance.amount

    @rio.handler
    def where(self, message: Where) -> str:
        return str(self.address)

    @rio.handler
    async def grant(self, message: Grant) -> int:
        self.balance.credit += 1
        await self.save_state()
        return self.balance.credit


old = rio.Registry(Account)
new = rio.Registry(NewAccount)
