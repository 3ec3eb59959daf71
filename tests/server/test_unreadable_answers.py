"""Whatever the code of an application raises while an answer is made or read, that call ends, and
all others go on.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import rio
from rio.errors import BadReply, HandlerFailed
from tests.server.harness import Cluster

RAISED = [KeyError, asyncio.CancelledError, SystemExit, GeneratorExit]
what_is_raised: type[BaseException] = KeyError


class Checked(msgspec.Struct):
    """A field that can be written, and not be read."""

    armed: bool = False

    def __post_init__(self) -> None:
        if self.armed and _reads:
            raise what_is_raised("no")


_reads = True


class Gone(rio.ApplicationError, type_name="test_unreadable_answers.Gone"):
    message: str | None = None


class Ask(rio.Message[Any]):
    how: str


class Listed(rio.Message[Checked]):
    pass


class Oracle(rio.ServiceObject):
    @rio.handler
    def ask(self, message: Ask) -> Any:
        match message.how:
            case "gone":
                raise Gone
            case "syntax":
                error = SyntaxError("bad")
                error.text, error.offset, error.lineno = object(), "x", "y"  # type: ignore[assignment]
                raise error
        return message.how

    @rio.handler
    def listed(self, message: Listed) -> Checked:
        _disarm(True)
        part = Checked(True)
        _disarm(False)
        return part


def _disarm(off: bool) -> None:
    global _reads
    _reads = not off


@pytest.fixture(params=RAISED)
def raised(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    monkeypatch.setattr(f"{__name__}.what_is_raised", request.param)
    monkeypatch.setattr(f"{__name__}._reads", True)
    return request.param  # type: ignore[no-any-return]


async def test_an_application_error_without_a_text_arrives(cluster: Cluster) -> None:
    await cluster.server(Oracle)
    client = await cluster.client()
    with pytest.raises(Gone):
        await client.send(Oracle, "a", Ask("gone"), timeout=5.0)
    assert await client.send(Oracle, "a", Ask("hello")) == "hello"


@pytest.mark.usefixtures("raised")
async def test_a_call_ends_whose_reply_cannot_be_read(cluster: Cluster) -> None:
    await cluster.server(Oracle)
    client = await cluster.client()
    other = client.send(Oracle, "b", Ask("other"))
    with pytest.raises(BadReply):
        await client.send(Oracle, "a", Listed(), timeout=5.0)
    assert await other == "other"
    assert await client.send(Oracle, "a", Ask("hello")) == "hello"


async def test_a_failure_is_told_whose_traceback_cannot_be_written(cluster: Cluster) -> None:
    await cluster.server(Oracle)
    client = await cluster.client()
    with pytest.raises(HandlerFailed, match="SyntaxError"):
        await client.send(Oracle, "a", Ask("syntax"), timeout=5.0)
    assert await client.send(Oracle, "a", Ask("hello")) == "hello"
