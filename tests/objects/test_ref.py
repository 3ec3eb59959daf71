"""References: handlers are called by name, and sent as messages."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import rio
from rio.errors import BadIdentity
from rio.identity import ObjectId
from rio.objects.app_data import AppData
from rio.objects.handler import handler
from rio.objects.message import DynamicMessage, Message
from rio.objects.ref import ref
from rio.objects.service_object import ServiceObject


class Balance(Message):
    amount: int


class Deposit(Message[Balance]):
    amount: int


class BigDeposit(Deposit):
    pass


class Peek(Message[Balance]):
    pass


class Undeclared(Message):
    pass


class Account(ServiceObject, type_name="bank.Account"):
    limit = 3

    @handler
    async def deposit(self, message: Deposit) -> Balance: ...  # type: ignore[empty-body]

    @handler
    def peek(self, message: Peek, app: AppData) -> Balance:  # type: ignore[empty-body]
        """What is there."""

    @handler
    def undeclared(self, message: Undeclared) -> list[int]: ...  # type: ignore[empty-body]

    @handler("legacy.Set")
    def legacy_set(self, value: Any) -> int: ...  # type: ignore[empty-body]


class Savings(Account):
    @handler
    async def big(self, message: BigDeposit) -> Balance: ...  # type: ignore[empty-body]


class Sent:
    """A sender that answers with what it was asked to send."""

    def send(self, *arguments: Any, **keywords: Any) -> Awaitable[Any]:
        future = asyncio.get_running_loop().create_future()
        future.set_result((*arguments, keywords))
        return future


SENDER: Any = Sent()


async def test_a_handler_called_on_a_reference_is_a_message_sent() -> None:
    account: Any = ref(SENDER, Account, "ada")
    assert await account.deposit(Deposit(1)) == (Account, "ada", Deposit(1), {"timeout": None})
    assert await account.peek(Peek(), timeout=2.0) == (Account, "ada", Peek(), {"timeout": 2.0})
    assert await account.legacy_set([1]) == (
        Account,
        "ada",
        DynamicMessage("legacy.Set", [1]),
        {"timeout": None},
    )


async def test_a_reference_has_the_inherited_handlers_too() -> None:
    savings: Any = ref(SENDER, Savings, "ada")
    assert (await savings.deposit(Deposit(1)))[0] is Savings
    assert (await savings.big(BigDeposit(1)))[2] == BigDeposit(1)


@pytest.mark.parametrize("message", [Peek(), BigDeposit(1), 1, None])
def test_the_message_of_another_handler_is_refused_before_it_is_sent(message: Any) -> None:
    account: Any = ref(SENDER, Account, "ada")
    with pytest.raises(TypeError, match=r"Account\.deposit takes a Deposit, got"):
        account.deposit(message)


def test_fields_instead_of_a_message_are_told_how_to_write_it() -> None:
    account: Any = ref(SENDER, Account, "ada")
    with pytest.raises(TypeError, match=r"got none: write deposit\(Deposit\(amount=3\)\)"):
        account.deposit(amount=3)
    with pytest.raises(TypeError, match=r"got 3: write deposit\(Deposit\(\.\.\.\)\)"):
        account.deposit(3)


@pytest.mark.parametrize("name", ["limit", "transfer", "save_state", "shutdown", "__len__"])
def test_a_reference_has_nothing_but_handlers(name: str) -> None:
    account = ref(SENDER, Account, "ada")
    with pytest.raises(
        AttributeError,
        match=rf"Account has no handler '{name}'.*It has: deposit, peek, undeclared, legacy_set",
    ):
        getattr(account, name)


@pytest.mark.parametrize("name", ["save_state", "shutdown", "tasks", "tell", "load"])
def test_a_reference_says_what_is_for_the_objects_own_code(name: str) -> None:
    account = ref(SENDER, Account, "ada")
    with pytest.raises(AttributeError, match=rf"'{name}': it is for the object's own code"):
        getattr(account, name)


def test_a_reference_knows_whom_it_refers_to_and_cannot_be_changed() -> None:
    account = ref(SENDER, Account, "ada")
    assert (account.id, account.object_id) == ("ada", ObjectId("bank.Account", "ada"))
    with pytest.raises(AttributeError, match=r"<ref to bank\.Account/ada> cannot be changed"):
        account.id = "bob"
    assert {"deposit", "peek", "id"} <= set(dir(account))
    assert repr(account) == "<ref to bank.Account/ada>"
    assert repr(account.deposit) == "<bound method Account.deposit of <ref to bank.Account/ada>>"


def test_a_handler_of_a_reference_has_its_name_and_docstring() -> None:
    method: Any = ref(SENDER, Account, "ada").peek
    assert (method.__name__, method.__doc__) == ("peek", "What is there.")


def test_a_handler_is_read_once_for_all_references_to_a_class() -> None:
    ada, bob, savings = (
        ref(SENDER, cls, id) for cls, id in ((Account, "ada"), (Account, "bob"), (Savings, "ada"))
    )
    assert ada.deposit.__func__ is bob.deposit.__func__  # type: ignore[attr-defined]
    assert ada.deposit.__func__ is not savings.deposit.__func__  # type: ignore[attr-defined]


async def test_a_call_through_a_reference_runs_one_python_frame() -> None:
    account: Any = ref(SENDER, Account, "ada")
    account.deposit(Deposit(1))
    frames: list[str] = []
    ours = str(Path(rio.__file__).parent)

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ours):
            frames.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        account.deposit(Deposit(1))
    finally:
        sys.setprofile(None)
    assert frames == ["send"]


def test_references_are_equal_if_they_mean_one_object_by_one_sender() -> None:
    ada = ref(SENDER, Account, "ada")
    assert ada == ref(SENDER, Account, "ada")
    assert hash(ada) == hash(ref(SENDER, Account, "ada"))
    assert (
        len(
            {
                ada,
                ref(SENDER, Account, "bob"),
                ref(SENDER, Savings, "ada"),
                ref(Sent(), Account, "ada"),
            }
        )
        == 4
    )
    assert ada != "bank.Account/ada"


@pytest.mark.parametrize("id", ["", "x" * 513, 7])
def test_an_id_that_does_not_fit_is_refused(id: Any) -> None:
    with pytest.raises(BadIdentity, match="object id"):
        ref(SENDER, Account, id)


@pytest.mark.parametrize("object_type", ["bank.Account", int, Deposit])
def test_a_reference_needs_a_class_of_service_objects(object_type: Any) -> None:
    with pytest.raises(TypeError, match=r"needs a subclass of rio.ServiceObject"):
        ref(SENDER, object_type, "ada")
