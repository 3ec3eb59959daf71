"""The table of roles: what a cluster remembers, part by part.

Opening, mixing, preparing and closing storages, their URLs and the options of the command ``rio``
follow from this table. To add a role, add its contract and one row here; then give it a field of
:class:`rio.storage.Storage` and a keyword of ``open_storage`` and ``Server``, so that type checkers
know it (a test compares them with the table).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from rio.contracts.membership import MembershipStorage
from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import StateStorage


class RoleRow(msgspec.Struct, frozen=True):
    """One role: how it is called, what it promises, and what it holds."""

    name: str
    """The field of :class:`rio.storage.Storage`, the keyword of ``open_storage`` and ``Server``,
    and, after two dashes, the option of ``rio run``.
    """
    contract: type[Any]
    """The subclass of :class:`rio.contracts.Role` that a back end implements."""
    holds: str
    """What the role holds, in a few words, for help texts."""


ROLES = (
    RoleRow("membership", MembershipStorage, "the servers of the cluster and their leases"),
    RoleRow("placement", ObjectPlacement, "which server owns which object"),
    RoleRow("state", StateStorage, "the managed states of objects"),
)


def make_stand_in(contract: type[Any], call: Callable[..., Awaitable[Any]], **members: Any) -> Any:
    """A role without a back end: ``call(method, *args, **keywords)`` answers each coroutine method
    of the contract, by its name. ``members`` are further members of its class. Closing it does
    nothing.
    """

    def make_method(name: str) -> Callable[..., Any]:
        async def method(_: Any, *args: Any, **keywords: Any) -> Any:
            return await call(name, *args, **keywords)

        return method

    async def close(_: Any) -> None: ...

    methods = {
        name: make_method(name)
        for name, _ in inspect.getmembers(contract, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    members = methods | {"close": close} | members
    return type(f"StandIn{contract.__name__}", (contract,), members)()
