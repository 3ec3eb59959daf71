"""A small life of a cluster, and the look at it afterwards."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from typing import Any

import pytest

import rio
from rio.server.activation import Activation
from rio.storage import Storage, open_storage
from rio.testing import Network, VirtualTimeLoop
from rio.testing.virtual_time import Host
from tests.faults.plan import Log, Plan

PATIENCE = 60.0
"""Virtual seconds within which everything ends that the scenario waits for."""
TIMEOUT = 5.0
"""Seconds of a call."""
MOST_TURNS = 100_000
"""Turns of the event loop after which a run is given up; it takes 600 to 2,000."""

plan = Plan()
"""That of the run."""

_activate = Activation.activate


class Zone(tzinfo):
    """Has a value call code of users while it is encoded."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        plan.call("encoding")
        return timedelta(0)

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        return "zone"


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=Zone())


class Reply(rio.Message[None]):
    total: int
    at: datetime

    def __post_init__(self) -> None:
        plan.call("Reply.__post_init__")


class Bump(rio.Message[Reply]):
    at: datetime

    def __post_init__(self) -> None:
        plan.call("Bump.__post_init__")

    def __repr__(self) -> str:
        plan.call("Bump.__repr__")
        return "Bump"


def a_bump() -> Bump:
    """Make a message as the test itself."""
    armed, plan.armed = plan.armed, False
    try:
        return Bump(now())
    finally:
        plan.armed = armed


class Peek(rio.Message[int], readonly=True):
    pass


class Forward(rio.Message[int]):
    to: str


class Work(rio.Message[None]):
    pass


class Tick(rio.Message[None]):
    pass


class Break(rio.Message[None]):
    pass


class Bumped(rio.Message[None]):
    total: int
    at: datetime

    def __post_init__(self) -> None:
        plan.call("Bumped.__post_init__")


class Total(rio.State):
    value: int = 0
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __post_init__(self) -> None:
        plan.call("Total.__post_init__")


class Tally(rio.ServiceObject, activate_timeout=1.0, deactivate_timeout=1.0):
    total: Total = rio.managed_state()

    def __init__(self) -> None:
        plan.call("Tally.__init__")

    def __repr__(self) -> str:
        plan.call("Tally.__repr__")
        return "Tally"

    async def before_load(self) -> None:
        await plan.wait("before_load")

    async def after_load(self) -> None:
        await asyncio.sleep(0)
        await plan.wait("after_load")

    async def before_shutdown(self) -> None:
        await asyncio.sleep(0)
        await plan.wait("before_shutdown")
        self.total.at = now()
        await self.save_state()

    def task_failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
        plan.call("task_failed")

    @rio.handler
    async def bump(self, message: Bump) -> Reply:
        return await plan.watch("the turn of Bump", self._bump())

    async def _bump(self) -> Reply:
        await plan.wait("the handler of Bump")
        self.total.value += 1
        self.total.at = now()
        await self.save_state()
        self.publish(Bumped(self.total.value, now()))
        return Reply(self.total.value, now())

    @rio.handler
    async def peek(self, _: Peek) -> int:
        await asyncio.sleep(0)
        return self.total.value

    @rio.handler
    async def forward(self, message: Forward) -> int:
        return await plan.watch("the turn of Forward", self._forward(message))

    async def _forward(self, message: Forward) -> int:
        return (await self.ref(Tally, message.to).bump(Bump(now()))).total

    @rio.handler
    def work(self, _: Work) -> None:
        self.timers.after("tick", 0.2, Tick())
        self.tasks.create(self._work())
        self.tasks.create(self._fail())

    async def _work(self) -> None:
        await plan.wait("an own task")
        await asyncio.sleep(0.1)

    async def _fail(self) -> None:
        raise ZeroDivisionError

    @rio.handler
    async def tick(self, _: Tick) -> None:
        await plan.wait("the handler of Tick")

    @rio.handler
    def break_(self, _: Break) -> None:
        raise ZeroDivisionError(self)


class Failed(AssertionError):
    """Something does not answer, or was left behind."""


class Loop(VirtualTimeLoop):
    """Ends a run that would go on for ever, however slow the machine is."""

    def __init__(self) -> None:
        super().__init__(0)
        self.turns = 0

    def _process_events(self, event_list: list[Any]) -> None:
        self.turns += 1
        if self.turns > MOST_TURNS:
            raise Failed("it goes on for ever")
        super()._process_events(event_list)


class World:
    """Servers and clients under a virtual clock."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.loop = asyncio.get_running_loop()
        self.network = Network(random.Random(0))
        self.servers: list[rio.Server] = []
        self.hosts: dict[rio.Server, Host] = {}
        self.clients: list[rio.Client] = []
        self.outcomes: list[str] = []

    def client(self) -> rio.Client:
        client = rio.Client(
            plan.wrap(self.storage),
            timeout=TIMEOUT,
            clock=self.network.outside.clock,
            rng=random.Random(1),
        )
        self.clients.append(client)
        return client

    def server(self) -> rio.Server:
        host = Host(f"node-{len(self.servers)}")
        self.network.add(host)
        server = rio.Server(
            rio.Registry(Tally),
            storage=plan.wrap(self.storage),
            cluster="local",
            config=rio.ServerConfig(timeout=TIMEOUT, drain_timeout=3.0),
            rng=random.Random(len(self.servers)),
            address=f"{host.name}:0",
            insecure=True,
            clock=host.clock,
        )
        self.servers.append(server)
        self.hosts[server] = host
        return server

    async def on(self, server: rio.Server, method: Callable[[], Any]) -> Any:
        """Have a server do something on its own host."""
        return await self.hosts[server].run(method())

    async def attempt(
        self, what: str, work: Callable[[], Awaitable[Any]], *, must: bool = False
    ) -> Any:
        """Wait for something that may fail, and must end.

        :raises Failed: it does not end; or it fails, and ``must`` not.
        """
        task = asyncio.ensure_future(_shield(work))
        try:
            await asyncio.wait((task,), timeout=PATIENCE)
        except BaseException:
            task.cancel()
            raise
        if not task.done():
            stack = "".join(str(frame) for frame in task.get_stack())
            task.cancel()
            raise Failed(f"{what} does not end: {stack}")
        error, result = task.result()
        if error is not None:
            self.outcomes.append(f"{what}: {type(error).__name__}: {error}")
            if must:
                raise Failed(f"{what}: {error!r}") from error
        return result


async def _shield(work: Callable[[], Awaitable[Any]]) -> tuple[BaseException | None, Any]:
    """What came out. Nothing escapes: a task that ends by SystemExit ends the loop."""
    try:
        return None, await work()
    except (Exception, asyncio.CancelledError, SystemExit) as error:
        return error, None


# --- the life -------------------------------------------------------------------------------------


async def start(world: World) -> rio.Server:
    """Start a server; if the fault keeps one from starting, the next one starts."""
    for _ in range(3):
        server = world.server()
        with suppress(Failed):  # its storage does not answer: it can be stopped
            await world.attempt("start", partial(world.on, server, server.__aenter__))
        if server.ready:
            return server
        await world.attempt("stop", partial(world.on, server, server.stop), must=True)
    raise Failed("no server starts")


async def open_client(world: World) -> rio.Client:
    for _ in range(3):
        client = world.client()
        try:
            await client.start()
        except (Exception, asyncio.CancelledError, SystemExit) as error:
            world.outcomes.append(f"client: {error!r}")
            await world.attempt("close", client.close, must=True)
        else:
            return client
    raise Failed("no client starts")


async def read(events: rio.Subscription[Bumped], seen: list[int]) -> None:
    """Read events as a user does who goes on after each error."""
    while True:
        try:
            seen.append((await anext(events)).total)
        except StopAsyncIteration:
            return
        except (Exception, asyncio.CancelledError, SystemExit):
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            await asyncio.sleep(0.05)


async def live(world: World) -> None:
    """Pass each point, come what may; then everything must answer."""
    first, second = await start(world), await start(world)
    client = await open_client(world)
    events = client.subscribe(Tally, "a", Bumped)
    await world.attempt("subscribe", events.__aenter__)
    seen: list[int] = []
    reader = asyncio.ensure_future(read(events, seen))
    try:
        await use(world, first, second, client)
        plan.armed = False
        await everything_answers(world, client, seen)
    finally:
        plan.armed = False
        await events.close()
        reader.cancel()
        await asyncio.wait((reader,))
    await everything_ends(world)


async def use(world: World, first: rio.Server, second: rio.Server, client: rio.Client) -> None:
    attempt = world.attempt
    await asyncio.gather(
        *(attempt(f"bump {id}", lambda id=id: client.send(Tally, id, a_bump())) for id in "aabc")
    )
    await asyncio.gather(
        attempt("peek", lambda: client.send(Tally, "a", Peek())),
        attempt("forward", lambda: client.send(Tally, "b", Forward("c"))),
        attempt("own node", lambda: first.client.send(Tally, "d", a_bump())),
        attempt("other node", lambda: second.client.send(Tally, "d", a_bump())),
        attempt("work", lambda: client.send(Tally, "a", Work())),
    )
    await asyncio.sleep(0.3)
    await attempt("break", lambda: client.send(Tally, "c", Break()))
    await attempt("leave", lambda: client.admin(rio.AdminCommand.shutdown("Tally", "a")))
    await attempt("come back", lambda: client.send(Tally, "a", a_bump()))
    await attempt("stop", partial(world.on, second, second.stop), must=True)
    await attempt("move", lambda: client.send(Tally, "b", a_bump()))
    await asyncio.sleep(0.5)


async def everything_answers(world: World, client: rio.Client, seen: list[int]) -> None:
    await start(world)  # so that at least one runs
    running = [server for server in world.servers if not server.closed.done()]
    for sender in (client, *(server.client for server in running)):
        for id in "abcd":
            await must_answer(world, sender, id)
    await until(world, "an event", lambda: bool(seen) and seen[-1] == 0, sends=(client, seen))
    for server in running:
        await until(world, "in_flight", lambda server=server: server.statistics().in_flight == 0)


async def must_answer(world: World, sender: Any, id: str) -> int:
    """The total of an object, which may take until all that hangs has been given up."""
    end = world.loop.time() + PATIENCE
    while True:
        reply = await world.attempt(f"health {id}", lambda: sender.send(Tally, id, a_bump()))
        if reply is not None:
            return reply.total
        if world.loop.time() > end:
            raise Failed(f"{id} does not answer {sender!r}: {world.outcomes[-1]}")


async def until(
    world: World,
    what: str,
    condition: Callable[[], bool],
    sends: tuple[rio.Client, list[int]] | None = None,
) -> None:
    end = world.loop.time() + PATIENCE
    while True:
        if sends is not None:
            client, seen = sends
            total = await must_answer(world, client, "a")
            await asyncio.sleep(0.1)
            if total in seen:
                return
        elif condition():
            return
        else:
            await asyncio.sleep(0.05)
        if world.loop.time() > end:
            raise Failed(f"{what} did not come")


async def everything_ends(world: World) -> None:
    for client in world.clients:
        await world.attempt("close", client.close, must=True)
    for server in world.servers:
        await world.attempt("stop", partial(world.on, server, server.stop), must=True)
        counters = server.statistics()
        left = {
            name: getattr(counters, name)
            for name in ("live_objects", "in_flight", "connections", "subscriptions")
            if getattr(counters, name)
        }
        if left:
            raise Failed(f"{server!r} has left {left}")


async def play(reported: list[str]) -> list[str]:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(describe(context)))
    storage = open_storage("memory://")
    await storage.prepare()
    world = World(storage)
    with world.network.on(loop):
        await live(world)
        for _ in range(200):
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if not others:
                break
            await asyncio.sleep(0.05)
        else:
            raise Failed(f"left running: {others}")
    await storage.close()
    return world.outcomes


def describe(context: dict[str, Any]) -> str:
    whose = context.get("task") or context.get("future") or context.get("handle")
    return f"{context['message']}: {context.get('exception')!r} {whose!r}"


@contextmanager
def under(the_plan: Plan, reported: list[str]) -> Iterator[None]:
    """Let a plan see all that the scenario does, and note what nobody else is told."""
    global plan  # the messages and states of users have no other way to it
    root, log = logging.getLogger("rio"), Log(the_plan)

    def note(event: Any) -> None:
        reported.append(f"unraisable: {event.exc_value!r} in {event.object!r}")

    def activate(activation: Activation) -> Any:
        return the_plan.watch("activate", _activate(activation))

    level = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)  # not its attribute: each logger remembers what it lets through
    try:
        with pytest.MonkeyPatch.context() as patch:
            plan = the_plan
            patch.setattr(sys, "unraisablehook", note)
            patch.setattr(Activation, "activate", activate)
            patch.setattr(root, "propagate", False)
            yield
            gc.collect()
    finally:
        root.setLevel(level)
        root.removeHandler(log)


def run(the_plan: Plan) -> list[str]:
    """Play the scenario under a plan. Returns what came out of its calls.

    :raises Failed: the rule is broken.
    """
    reported: list[str] = []
    with under(the_plan, reported):
        try:
            with asyncio.Runner(loop_factory=Loop) as runner:
                runner.get_loop().set_task_factory(the_plan.make_task)
                outcomes = runner.run(play(reported))
        except Failed:
            raise
        except (Exception, asyncio.CancelledError, SystemExit) as error:
            raise Failed(f"{error!r} has ended the program") from error
    if reported:
        raise Failed("; ".join(reported))
    return outcomes
