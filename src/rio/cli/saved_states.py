"""Whether the saved states of a storage can be loaded by the classes of a registry, and rewriting
them in the form of these classes.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from rio.contracts.state import Batch, StateStorage, StoredObject, StoredState
from rio.errors import BadState, StateCorrupt, StateTooNew, UnknownKey, Unsupported
from rio.identity import ObjectId
from rio.objects.managed_state import ManagedStateField
from rio.objects.registry import RegisteredType, Registry
from rio.server.states import StateGroup, group_states
from rio.storage import EncryptedState

PAGE = 1000


class TypeReport(NamedTuple):
    """What was found about the objects of one type."""

    type_name: str
    objects: int
    """How many were looked at."""
    failures: Mapping[str, list[str]]
    """The ids of the objects whose state cannot be loaded, by the problem."""
    rewritten: int = 0
    """How many had a state of an older schema, or under an older key, which was rewritten."""


async def check_states(
    registry: Registry, default: StateStorage, sample: int | None = None, *, rewrite: bool = False
) -> list[TypeReport]:
    """Load the saved states of the first ``sample`` objects of each type, or of all, without taking
    the objects over. ``rewrite``: save those of an older schema in the form of the classes, and
    encrypt anew what is not encrypted under the first key of a keyring.

    :raises Unsupported: a storage cannot list its objects, or read and rewrite them without a
        fence.
    """
    return [
        await _check_type(registered, default, sample, rewrite)
        for registered in registry
        if registered.managed_states
    ]


async def _check_type(
    registered: RegisteredType, default: StateStorage, sample: int | None, rewrite: bool
) -> TypeReport:
    failures: dict[str, list[str]] = {}
    seen: set[str] = set()
    rewritten: set[str] = set()
    for group in group_states(registered, _own_storages(registered), default):
        await group.storage.prepare()
        try:
            async for id in _ids(group.storage, registered.type_name, sample):
                seen.add(id)
                look = await _look_at(group, ObjectId(registered.type_name, id), rewrite)
                for problem in look.problems:
                    failures.setdefault(problem, []).append(id)
                if look.rewritten:
                    rewritten.add(id)
        finally:
            if group.storage is not default:
                await group.storage.close()
    return TypeReport(registered.type_name, len(seen), failures, len(rewritten))


def _own_storages(registered: RegisteredType) -> dict[ManagedStateField, StateStorage]:
    """:raises Unsupported: a state is kept by what only the program can make."""
    own = {}
    for field in registered.managed_states:
        if isinstance(field.storage, StateStorage):
            own[field] = field.storage
        elif field.storage is not None:
            raise Unsupported(
                f"{registered.type_name}.{field.attribute} is kept by {field.storage!r}, which the"
                " program itself opens: look there with its own tools"
            )
    return own


async def _ids(storage: StateStorage, type_name: str, sample: int | None) -> AsyncIterator[str]:
    after, left = "", sample
    while left is None or left > 0:
        limit = PAGE if left is None else min(PAGE, left)
        page = await storage.list_objects(type_name, after=after, limit=limit)
        if not page:
            return
        for id in page:
            yield id
        after, left = page[-1], None if left is None else left - len(page)


class Look(NamedTuple):
    """What was found about the states of one object in one storage."""

    problems: list[str]
    """What keeps them from being loaded."""
    rewritten: bool = False


async def _look_at(group: StateGroup, object_id: ObjectId, rewrite: bool) -> Look:
    while True:
        try:
            stored = await group.storage.read_object(object_id)
        except (StateCorrupt, UnknownKey) as error:
            return Look([f"{type(error).__name__}: {error.message}"])
        problems, newer = _load(group, stored)
        if not (rewrite and newer):
            return Look(problems, rewrite and await _encrypt_anew(group.storage, object_id))
        if await group.storage.rewrite_object(object_id, stored.version, Batch(newer)):
            await _encrypt_anew(group.storage, object_id)  # what was of no older schema
            return Look(problems, rewritten=True)
        # Its server has saved it meanwhile.


async def _encrypt_anew(storage: StateStorage, object_id: ObjectId) -> bool:
    """Leave nothing of an object plain, or under a key that is not the first. Returns whether there
    was anything.
    """
    return isinstance(storage, EncryptedState) and await storage.encrypt_anew(object_id)


def _load(group: StateGroup, stored: StoredObject) -> tuple[list[str], dict[str, StoredState]]:
    """What keeps the states from being loaded, and those of older schemas in their newest form."""
    problems: list[str] = []
    newer: dict[str, StoredState] = {}
    for field in group.fields:
        state = stored.states.get(field.state_name)
        if state is None:
            continue
        try:
            value, kept = field.decode(state)
            if state.schema != field.schema:
                newer[field.state_name] = field.encode(value, kept, sys.maxsize)
        except (StateCorrupt, StateTooNew, BadState) as error:
            problems.append(f"{field.state_name}: {type(error).__name__}: {error.message}")
    return problems, newer
