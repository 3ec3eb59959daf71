"""Steps that several tests of storages take."""

from __future__ import annotations

from typing import Any

import pytest

from rio.errors import StateNotFound
from rio.identity import ObjectId
from rio.state import StateStorage
from rio.testing.contracts import ADA


async def fenced(state: StateStorage, object_id: ObjectId = ADA, token: int = 1) -> None:
    """Lay a fence where nothing is stored."""
    with pytest.raises(StateNotFound):
        await state.load_and_fence(object_id, "s", token)


async def waiting_for_a_lock(session: Any, count: int) -> None:
    """Return when so many sessions of PostgreSQL wait for a lock."""
    waiting = 0
    while waiting < count:
        waiting = await session.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
