"""``rio.run`` runs a coroutine on the fastest loop that is installed."""

from __future__ import annotations

import asyncio
import sys

import pytest

import rio


async def loop_module() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_run_returns_what_the_coroutine_returns() -> None:
    async def answer() -> int:
        return 42

    assert rio.run(answer()) == 42


def test_run_takes_uvloop_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    assert rio.run(loop_module()) == "uvloop"


def test_run_works_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert rio.run(loop_module()) == "asyncio"


def test_run_touches_no_event_loop_policy() -> None:
    before = asyncio.events._event_loop_policy  # type: ignore[attr-defined]
    rio.run(loop_module())
    assert asyncio.events._event_loop_policy is before  # type: ignore[attr-defined]


async def test_run_inside_a_running_loop_is_an_error() -> None:
    coroutine = loop_module()
    with pytest.raises(RuntimeError, match="await the coroutine instead"):
        rio.run(coroutine)
    coroutine.close()
