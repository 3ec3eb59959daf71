"""What type checkers must accept and infer, without a plugin. Never run; see test_typing.py."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, assert_type

import msgspec

import rio
from rio.objects.handler import BoundHandler, Handler
from rio.objects.ref import ref
from rio.objects.sender import Sender

R = TypeVar("R")


# --- messages -------------------------------------------------------------------------------------


class Balance(rio.Message):
    amount: int


class Deposit(rio.Message[Balance], type_name="bank.Deposit", idempotent=True):
    amount: int
    note: str = ""


class Peek(rio.Message[Balance], readonly=True, frozen=True):
    pass


class Forget(rio.Message[None]):
    pass


class Undeclared(rio.Message, kw_only=True, rename="camel"):
    amount: int = 0
    tags: list[str] = msgspec.field(default_factory=list)


class Early(rio.Message["Late"]):
    pass


class Late(rio.Message):
    pass


class Query(rio.Message[R], Generic[R]):
    text: str


class Names(Query[list[str]]):
    limit: int = 10


Deposit(1)
Deposit(amount=1, note="x")
Names("ada", limit=3)
assert_type(Deposit(1).amount, int)
assert_type(rio.check(Deposit(1)), Deposit)


# --- errors, state, application data --------------------------------------------------------------


class InsufficientFunds(rio.ApplicationError, type_name="bank.InsufficientFunds"):
    missing: int
    message: str = "not enough money"


class Closed(InsufficientFunds):
    reasons: list[str] = msgspec.field(default_factory=list)


def raising() -> None:
    try:
        raise InsufficientFunds(missing=3)
    except InsufficientFunds as error:
        assert_type(error.missing, int)
        assert_type(error.message, str)
    InsufficientFunds(3)
    InsufficientFunds(3, "none at all")
    assert_type(Closed(3, reasons=["holiday"]).reasons, list[str])


class Ledger(rio.State):
    balance: int = 0


class Clock:
    def now(self) -> float:
        return 0.0


def application_data(app: rio.AppData) -> None:
    app.set(Clock())
    app.set(Clock(), as_type=object)
    assert_type(app.get(Clock), Clock)
    assert_type(app.get_or_default(Clock), Clock)


# --- objects --------------------------------------------------------------------------------------


class Account(rio.ServiceObject, type_name="bank.Account", idle_after=60.0, activate_timeout=3):
    ledger: Ledger = rio.managed_state()
    audit: Ledger = rio.managed_state(name="log")

    async def before_load(self) -> None: ...

    async def load(self, app: rio.AppData) -> None:
        await super().load()
        await self.load_state("audit")

    async def shutdown(self) -> None:
        await super().shutdown()

    @rio.handler
    async def deposit(self, message: Deposit) -> Balance:
        assert_type(self.ledger, Ledger)
        await self.save_state("ledger")
        self.publish(Balance(1))
        assert_type(self.send("bank.Account", "bob", Deposit(1)), Awaitable[Balance])
        assert_type(await self.ref(Account, "bob").peek(Peek()), Balance)
        assert_type(await self.peek(Peek()), Balance)
        assert_type(self.id, str)
        assert_type(self.token, int)
        assert_type(self.tasks.create(self.peeks()), asyncio.Task[Balance])
        self.timers.every("peek", 5.0, Peek(), keep_alive=True)
        self.keep_alive(60.0)
        return Balance(1)

    async def peeks(self) -> Balance:
        return await self.ref(Account, self.id).peek(Peek())

    @rio.handler
    def peek(self, message: Peek) -> Balance:
        return Balance(1)

    @rio.handler(timeout=5.0)
    async def forget(self, message: Forget, app: rio.AppData) -> None:
        await self.shutdown()

    @rio.handler
    def undeclared(self, message: Undeclared, app: rio.AppData) -> list[str]:
        return []

    @rio.handler()
    def names(self, message: Names) -> list[str]:
        return []

    @rio.handler("legacy.Set")
    async def legacy_set(self, value: Any) -> Any:
        return value

    @rio.handler("legacy.Get", timeout=1)
    def legacy_get(self, value: Any, app: rio.AppData) -> int:
        return 1


class Savings(Account):
    @rio.handler
    async def deposit(self, message: Deposit) -> Balance:
        return await super().deposit(message)


assert_type(Account.deposit, Handler[Account, Deposit, Balance])
assert_type(Account.peek, Handler[Account, Peek, Balance])
assert_type(Account.forget, Handler[Account, Forget, None])
assert_type(Account.legacy_get, Handler[Account, Any, int])


async def through_a_reference(sender: Sender) -> None:
    account = ref(sender, Account, "ada")
    assert_type(account, Account)
    assert_type(account.deposit, BoundHandler[Deposit, Balance])
    assert_type(account.deposit(Deposit(1)), Awaitable[Balance])
    assert_type(account.peek(Peek()), Awaitable[Balance])
    assert_type(await account.deposit(Deposit(1)), Balance)
    assert_type(await account.peek(Peek(), timeout=2.0), Balance)
    assert_type(await account.undeclared(Undeclared(amount=1)), list[str])
    assert_type(await account.names(Names("a")), list[str])
    assert_type(await account.legacy_set({"any": "thing"}), Any)
    assert_type(await account.legacy_get(3), int)
    await account.forget(Forget())
    assert_type(await ref(sender, Savings, "ada").deposit(Deposit(1)), Balance)


async def sending(sender: Sender) -> None:
    assert_type(sender.send("bank.Account", "ada", Deposit(1)), Awaitable[Balance])
    assert_type(sender.send(Account, "ada", Deposit(1), timeout=1.5), Awaitable[Balance])
    assert_type(await sender.send(Account, "ada", Names("a")), list[str])
    assert_type(await sender.send(Account, "ada", Early()), Late)
    await sender.send(Account, "ada", Forget())
    assert_type(
        sender.send("bank.Account", "ada", Undeclared(), returns=list[str]), Awaitable[list[str]]
    )
    assert_type(sender.send("bank.Account", "ada", Undeclared()), Awaitable[Any])
    assert_type(
        sender.send("bank.Account", "ada", rio.DynamicMessage("legacy.Set", 1)), Awaitable[Any]
    )
    assert_type(
        await sender.send("bank.Account", "ada", rio.DynamicMessage("legacy.Get"), returns=int), int
    )


def an_object_sends_as_a_client_does(account: Account) -> Sender:
    return account


def the_client_sends_as_an_object_does(client: rio.Client) -> Sender:
    return client


async def through_the_client(client: rio.Client) -> None:
    assert_type(client.send("bank.Account", "ada", Deposit(1)), Awaitable[Balance])
    assert_type(client.send(Account, "ada", Deposit(1)), Awaitable[Balance])
    assert_type(client.send("bank.Account", "ada", Undeclared(), returns=int), Awaitable[int])
    assert_type(client.ref(Account, "ada").deposit(Deposit(1)), Awaitable[Balance])
    assert_type(await client.ref(Account, "ada").peek(Peek()), Balance)


def from_outside(account: Account, message: Forget) -> None: ...


registry = rio.Registry(Account, Savings)
registry.add_handler(Account, from_outside)
assert_type(registry.add_type(Account), type[Account])
plain: Callable[[Deposit], Awaitable[Balance]] = Account().deposit


# --- modules that are public ----------------------------------------------------------------------


async def errors_are_known_without_an_import_of_their_own(client: rio.Client) -> None:
    try:
        await client.send("Account", "ada", Peek())
    except rio.errors.NotExecuted as error:
        assert_type(error, rio.errors.NotExecuted)
    assert_type(rio.__version__, str)
