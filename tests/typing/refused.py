"""What type checkers must refuse: each line that is marked as ignored, and no other.

This file is never run; see test_typing.py. Both checkers complain of an ignore that is not needed,
so they accept nothing here by mistake.
"""

# ruff: noqa: B018, F841

from typing import Any

import rio
from rio.objects.ref import ref
from rio.objects.sender import Sender


class Balance(rio.Message):
    amount: int


class Deposit(rio.Message[Balance]):
    amount: int


class Withdraw(rio.Message[Balance]):
    amount: int


class InsufficientFunds(rio.ApplicationError):
    missing: int


class Ledger(rio.State):
    balance: int = 0


class Account(rio.ServiceObject):
    ledger: Ledger = rio.managed_state()

    @rio.handler
    async def deposit(self, message: Deposit) -> Balance:
        self.publish("text")  # type: ignore # pyright: ignore # an event is a message
        self.ledger.balance = "much"  # type: ignore # pyright: ignore # a state's field has its type
        return Balance(1)

    @rio.handler
    def withdraw(self, message: Withdraw) -> Balance:
        return Balance(1)

    @rio.handler("legacy.Set")
    def legacy_set(self, value: Any) -> int:
        return 1


class Wrong(rio.ServiceObject):
    @rio.handler  # type: ignore # pyright: ignore # the parameter is no message
    async def text(self, message: str) -> str:
        return message

    @rio.handler(timeout="long")  # type: ignore # pyright: ignore # a timeout is a number
    async def late(self, message: Deposit) -> Balance:
        return Balance(1)

    @rio.handler
    async def own(self, message: Deposit) -> Balance:
        self.timers.every("late", "1", message)  # type: ignore # pyright: ignore # a period is a number
        self.timers.every("text", 1.0, "text")  # type: ignore # pyright: ignore # a message is a rio.Message
        self.tasks.create(self.own)  # type: ignore # pyright: ignore # it is no coroutine
        return Balance(1)


class Idle(rio.ServiceObject, idle_after="1"):  # type: ignore # pyright: ignore # it is a number
    ...


Deposit("one")  # type: ignore # pyright: ignore # the field is an int
Deposit()  # type: ignore # pyright: ignore # the field is missing
Deposit(1, 2)  # type: ignore # pyright: ignore # there is no second field
rio.check("text")  # type: ignore # pyright: ignore # it is no message
Deposit(1).size  # type: ignore # pyright: ignore # there is no such field
InsufficientFunds("three")  # type: ignore # pyright: ignore # the field is an int
InsufficientFunds()  # type: ignore # pyright: ignore # the field is missing
InsufficientFunds(missing=3, other=4)  # type: ignore # pyright: ignore # there is no such field
rio.ApplicationError("text")  # type: ignore # pyright: ignore # subclass it
Ledger(balance="much")  # type: ignore # pyright: ignore # the field is an int
rio.Registry(Ledger)  # type: ignore # pyright: ignore # it is no service object


async def sending(sender: Sender, app: rio.AppData) -> None:
    reply: str = await sender.send("Account", "ada", Deposit(1))  # type: ignore # pyright: ignore # it is answered with a Balance
    given: str = await sender.send("Account", "ada", rio.DynamicMessage("x"), returns=int)  # type: ignore # pyright: ignore # returns= says int
    sender.send(Ledger, "ada", Deposit(1))  # type: ignore # pyright: ignore # it is no service object
    sender.send("Account", 7, Deposit(1))  # type: ignore # pyright: ignore # an id is a string
    sender.send("Account", "ada", "text")  # type: ignore # pyright: ignore # a message is a rio.Message
    sender.send("Account", "ada", Deposit(1), timeout="1")  # type: ignore # pyright: ignore # a timeout is a number
    account = ref(sender, Account, "ada")
    await account.deposit(Withdraw(1))  # type: ignore # pyright: ignore # it is another handler's message
    await account.withdraw(1)  # type: ignore # pyright: ignore # it is no message
    await account.deposit()  # type: ignore # pyright: ignore # the message is missing
    wrong: int = await account.withdraw(Withdraw(1))  # type: ignore # pyright: ignore # it is answered with a Balance
    account.deposit(Deposit(1)).amount  # type: ignore # pyright: ignore # the await is missing
    account.transfer(Deposit(1))  # type: ignore # pyright: ignore # there is no such handler
    text: str = await account.legacy_set(1)  # type: ignore # pyright: ignore # it returns an int
    clock: str = app.get(int)  # type: ignore # pyright: ignore # it is an int
