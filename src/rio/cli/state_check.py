"""Whether the saved states of a storage can be loaded by the classes of a registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from rio.contracts.state import StateStorage
from rio.errors import StateCorrupt, StateTooNew
from rio.identity import ObjectId
from rio.objects.registry import RegisteredType, Registry
from rio.server.states import StateGroup, group_states

PAGE = 1000


class TypeReport(NamedTuple):
    """What was found about the objects of one type."""

    type_name: str
    objects: int
    """How many were looked at."""
    failures: Mapping[str, list[str]]
    """The ids of the objects whose state cannot be loaded, by the problem."""


async def check_states(
    registry: Registry, default: StateStorage, sample: int | None
) -> list[TypeReport]:
    """Load the saved states of the first ``sample`` objects of each type, or of all, without taking
    the objects over.

    :raises Unsupported: a storage cannot list its objects, or read them without a fence.
    """
    return [
        await _check_type(registered, default, sample)
        for registered in registry
        if registered.managed_states
    ]


async def _check_type(
    registered: RegisteredType, default: StateStorage, sample: int | None
) -> TypeReport:
    failures: dict[str, list[str]] = {}
    seen: set[str] = set()
    for group in group_states(registered, default):
        await group.storage.prepare()
        try:
            async for id in _ids(group.storage, registered.type_name, sample):
                seen.add(id)
                for problem in await _problems(group, ObjectId(registered.type_name, id)):
                    failures.setdefault(problem, []).append(id)
        finally:
            if group.storage is not default:
                await group.storage.close()
    return TypeReport(registered.type_name, len(seen), failures)


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


async def _problems(group: StateGroup, object_id: ObjectId) -> list[str]:
    """What keeps the states of an object from being loaded."""
    try:
        states = (await group.storage.read_object(object_id)).states
    except StateCorrupt as error:
        return [f"StateCorrupt: {error.message}"]
    problems = []
    for field in group.fields:
        stored = states.get(field.state_name)
        if stored is None:
            continue
        try:
            field.decode(stored)
        except (StateCorrupt, StateTooNew) as error:
            problems.append(f"{field.state_name}: {type(error).__name__}: {error.message}")
    return problems
