"""How messages travel: which type a reply is decoded into."""

from __future__ import annotations

from typing import Any

import pytest

import rio
from rio.client.message_codecs import expected_reply


class Balance(rio.Message):
    amount: int


class Deposit(rio.Message[Balance]):
    amount: int


class Undeclared(rio.Message):
    pass


class Account(rio.ServiceObject, type_name="bank.Account"):
    @rio.handler
    async def deposit(self, message: Deposit) -> Balance: ...  # type: ignore[empty-body]

    @rio.handler
    def undeclared(self, message: Undeclared) -> list[int]: ...  # type: ignore[empty-body]

    @rio.handler("legacy.Set")
    def legacy_set(self, value: Any) -> int: ...  # type: ignore[empty-body]


class Savings(Account):
    pass


@pytest.mark.parametrize(
    ("object_type", "message", "arguments", "wanted"),
    [
        ("bank.Account", Deposit(1), (), Balance),
        (Account, Deposit(1), (), Balance),
        ("bank.Account", Undeclared(), (), Any),
        (Account, Undeclared(), (), list[int]),
        (Savings, Undeclared(), (), list[int]),
        (Account, Balance(1), (), Any),
        ("bank.Account", rio.DynamicMessage("legacy.Set"), (), Any),
        (Account, rio.DynamicMessage("legacy.Set"), (), int),
        (Account, rio.DynamicMessage("Deposit"), (), Balance),
        (Account, Undeclared(), (str,), str),
        (Account, Deposit(1), (None,), Balance),
    ],
)
def test_the_reply_is_what_the_caller_says_else_the_message_else_the_handler(
    object_type: Any, message: Any, arguments: tuple[Any, ...], wanted: Any
) -> None:
    assert expected_reply(object_type, message, *arguments) == wanted
