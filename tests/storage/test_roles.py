"""The table of roles is the only list of roles: what names them follows from it, or is held to it
here.
"""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import rio
from rio.contracts import ROLES
from rio.storage import Storage, open_storage
from rio.storage.local import LocalState
from rio.storage.storage import mix_roles

NAMES = [role.name for role in ROLES]


def keywords(function: Any) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def test_a_storage_has_a_field_for_each_role() -> None:
    assert get_type_hints(Storage) == {role.name: role.contract for role in ROLES}


def test_open_storage_takes_a_url_for_each_role() -> None:
    assert keywords(open_storage) == set(NAMES)


def test_a_server_takes_a_back_end_for_each_role() -> None:
    hints = get_type_hints(rio.Server.__init__)
    assert {name: hints[name] for name in NAMES} == {
        role.name: role.contract | str | None for role in ROLES
    }


async def test_what_is_opened_from_a_url_is_told_apart_from_what_was_given() -> None:
    state, whole = LocalState(), open_storage("memory://")
    storage, opened = mix_roles(whole, placement="memory://", state=state)
    assert storage.membership is whole.membership
    assert storage.state is state
    assert opened == [storage.placement]


async def test_all_roles_of_one_url_are_opened_here() -> None:
    storage, opened = mix_roles("memory://", state=LocalState())
    assert opened == [storage.membership, storage.placement]
