"""Which error of a handler or of a hook the caller gets, and whether the object lives on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import rio
from rio.errors import HandlerFailed, NotActivated, RioError, StorageUnavailable, Superseded
from tests.server.harness import Cluster, Probe


class Refused(rio.ApplicationError, type_name="test_outcomes.Refused"):
    reason: str


class Raise(rio.Message[int]):
    what: str


class Count(rio.Message[int]):
    pass


class Fat(rio.Message[None]):
    data: Any


class Tell(rio.Message[str]):
    what: str


class Raising(rio.ServiceObject):
    def __init__(self) -> None:
        self.count = 0

    @rio.handler
    def count_(self, message: Count) -> int:
        self.count += 1
        return self.count

    @rio.handler
    async def raise_(self, message: Raise) -> int:
        match message.what:
            case "in a group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._refuse())
            case "in a group of groups":
                raise ExceptionGroup("outer", [ExceptionGroup("inner", [Refused("no")])])
            case "two in a group":
                raise ExceptionGroup("both", [Refused("no"), ValueError("and this")])
            case "superseded":
                raise Superseded("another object was")
            case "storage":
                raise StorageUnavailable("another storage is")
        raise ValueError(message.what)

    async def _refuse(self) -> None:
        raise Refused("no")

    @rio.handler
    def publish_what(self, message: Tell) -> str:
        event = Fat("x" * 5_000_000 if message.what == "too large" else object())
        try:
            self.publish(event)
        except RioError as error:
            return type(error).__name__
        return "published"


@pytest.mark.parametrize("what", ["in a group", "in a group of groups"])
async def test_the_one_application_error_in_a_group_arrives_and_the_object_lives_on(
    cluster: Cluster, what: str
) -> None:
    await cluster.server(Raising)
    client = await cluster.client()
    assert await client.send(Raising, "a", Count()) == 1
    with pytest.raises(Refused, match="no"):
        await client.send(Raising, "a", Raise(what))
    assert await client.send(Raising, "a", Count()) == 2


@pytest.mark.parametrize("what", ["two in a group", "superseded", "storage", "any"])
async def test_what_is_no_answer_of_this_object_arrives_as_a_failed_handler(
    cluster: Cluster, what: str
) -> None:
    await cluster.server(Raising)
    client = await cluster.client()
    assert await client.send(Raising, "a", Count()) == 1
    with pytest.raises(HandlerFailed):
        await client.send(Raising, "a", Raise(what))
    assert await client.send(Raising, "a", Count()) == 1


@pytest.mark.parametrize(
    ("what", "raised"), [("too large", "FrameTooLarge"), ("cannot be encoded", "BadMessage")]
)
async def test_an_event_that_cannot_be_published_is_an_error_that_the_handler_may_catch(
    cluster: Cluster, what: str, raised: str
) -> None:
    await cluster.server(Raising)
    client = await cluster.client()
    assert await client.send(Raising, "a", Count()) == 1
    assert await client.send(Raising, "a", Tell(what)) == raised
    assert await client.send(Raising, "a", Count()) == 2


# --- hooks ----------------------------------------------------------------------------------------


class Odd(BaseException):
    """What is no Exception, and no end of the program either."""


class Hooked(rio.ServiceObject):
    raised: type[BaseException] = Odd
    during = "after_load"

    def __init__(self) -> None:
        if self.during == "__init__":
            raise self.raised("a hook")

    async def after_load(self) -> None:
        if self.during == "after_load":
            raise self.raised("a hook")

    async def before_shutdown(self, app: rio.AppData) -> None:
        app.get(Probe).note("before_shutdown")
        if self.during == "before_shutdown":
            raise self.raised("a hook")

    async def shutdown(self, app: rio.AppData) -> None:
        app.get(Probe).note("shutdown")

    @rio.handler
    def count(self, message: Count) -> int:
        return 1


@pytest.fixture(params=[ValueError, Odd, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def raised(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Hooked, "raised", request.param)
    return request.param


@pytest.mark.usefixtures("raised")
@pytest.mark.parametrize("during", ["__init__", "after_load"])
async def test_a_hook_that_raises_anything_fails_the_activation_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    monkeypatch.setattr(Hooked, "during", during)
    await cluster.server(Hooked)
    client = await cluster.client()
    with pytest.raises(NotActivated, match=rf"{during}|a hook"):
        await client.send(Hooked, "a", Count(), timeout=5.0)
    placement = await cluster.storage.placement.lookup(rio.ObjectId("Hooked", "a"))
    assert placement is None, "the claim is given back"


class Brittle(rio.State):
    value: int = 0

    def __post_init__(self) -> None:
        raise Hooked.raised("a state")


class Kept(rio.ServiceObject):
    state: Brittle = rio.managed_state()

    @rio.handler
    def count(self, message: Count) -> int:
        return 1


@pytest.mark.usefixtures("raised")
async def test_a_state_that_raises_anything_fails_the_activation_at_once(cluster: Cluster) -> None:
    await cluster.server(Kept)
    client = await cluster.client()
    with pytest.raises(NotActivated, match=r"load|a state"):
        await client.send(Kept, "a", Count(), timeout=5.0)
    placement = await cluster.storage.placement.lookup(rio.ObjectId("Kept", "a"))
    assert placement is None, "the claim is given back"


@pytest.mark.usefixtures("raised")
async def test_shutdown_runs_although_before_shutdown_has_raised(
    cluster: Cluster, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hooked, "during", "before_shutdown")
    await cluster.server(Hooked)
    client = await cluster.client()
    assert await client.send(Hooked, "a", Count()) == 1
    await client.admin(rio.AdminCommand.shutdown("Hooked", "a"))
    await probe.noted("shutdown")
    assert probe.log == ["before_shutdown", "shutdown"]
    assert await client.send(Hooked, "a", Count()) == 1


# --- errors while an error is told ----------------------------------------------------------------


class Filter(logging.Filter):
    def __init__(self, raised: type[BaseException]) -> None:
        super().__init__()
        self.raised = raised

    def filter(self, record: logging.LogRecord) -> bool:
        raise self.raised("a filter")


@pytest.mark.parametrize("raised", [ValueError, asyncio.CancelledError, SystemExit])
async def test_a_failure_is_answered_although_it_cannot_be_logged(
    cluster: Cluster, raised: type[BaseException]
) -> None:
    await cluster.server(Raising)
    client = await cluster.client()
    assert await client.send(Raising, "a", Count()) == 1
    logger, broken = logging.getLogger("rio.server"), Filter(raised)
    logger.addFilter(broken)
    try:
        waiting = [client.send(Raising, "a", message) for message in (Raise("any"), Count())]
        failed, counted = await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        logger.removeFilter(broken)
    assert isinstance(failed, HandlerFailed)
    assert "ValueError" in str(failed)
    assert counted == 1, "the object was dropped, and came to life anew"


@pytest.mark.parametrize("broken", [ValueError, asyncio.CancelledError, SystemExit])
@pytest.mark.parametrize("during", ["__init__", "after_load"])
async def test_a_failed_activation_gives_its_claim_back_although_it_cannot_be_logged(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, broken: type[BaseException], during: str
) -> None:
    monkeypatch.setattr(Hooked, "raised", ValueError)
    monkeypatch.setattr(Hooked, "during", during)
    await cluster.server(Hooked)
    client = await cluster.client()
    logger, filter = logging.getLogger("rio.server"), Filter(broken)
    logger.addFilter(filter)
    try:
        with pytest.raises(NotActivated):
            await client.send(Hooked, "a", Count(), timeout=5.0)
        placement = await cluster.storage.placement.lookup(rio.ObjectId("Hooked", "a"))
    finally:
        logger.removeFilter(filter)
    assert placement is None
    monkeypatch.setattr(Hooked, "during", "nothing")
    assert await client.send(Hooked, "a", Count()) == 1
