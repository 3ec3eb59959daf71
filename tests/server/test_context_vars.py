"""The values of ``rio.ContextVar`` travel with calls, and from no turn into another."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import rio
from rio._core.dispatch import TurnCaller, current
from rio.errors import ConfigurationError
from rio.objects.context_var import MAX_BYTES, MAX_VALUE_BYTES, MAX_VALUES
from rio.transport.call_context import Context, read_context
from rio.transport.protocol import encode
from tests.server.harness import Cluster, Probe, activation


class Locale(msgspec.Struct, frozen=True):
    language: str
    zone: str = "UTC"


tenant = rio.ContextVar("tenant", str, default="nobody")
locale = rio.ContextVar("locale", Locale)
numbers = [rio.ContextVar(f"number {index}", int) for index in range(MAX_VALUES + 1)]
texts = [rio.ContextVar(f"text {index}", str) for index in range(5)]


class Plain(rio.Message[str]):
    """Answered with the tenant; then the handler sets another one."""


class Async(rio.Message[str]): ...


class Thread(rio.Message[str]): ...


class Far(rio.Message[list[str]]):
    """Answered with the tenants that the handler and the object ``id`` see."""

    id: str


class Change(rio.Message[list[str]]):
    """Answered with the tenants of calls that the handler makes as it sets others."""


class Remind(rio.Message[None]):
    repeat: bool


class Note(rio.Message[None]):
    what: str


class Spawn(rio.Message[None]): ...


class Tell(rio.Message[None]):
    id: str


def look_and_set() -> str:
    found = tenant.get()
    tenant.set("of an earlier turn")
    return found


class Desk(rio.ServiceObject):
    async def after_load(self, app: rio.AppData) -> None:
        app.get(Probe).note(f"hook {look_and_set()}")

    @rio.handler
    def plain(self, _: Plain) -> str:
        return look_and_set()

    @rio.handler
    async def waiting(self, _: Async) -> str:
        await asyncio.sleep(0)
        return look_and_set()

    @rio.handler(thread=True)
    def in_thread(self, _: Thread) -> str:
        return look_and_set()

    @rio.handler
    async def far(self, message: Far) -> list[str]:
        return [tenant.get(), await self.send(Desk, message.id, Plain())]

    @rio.handler
    async def change(self, _: Change) -> list[str]:
        first = await self.send(Desk, "next", Plain())
        token = tenant.set("of the handler")
        second = await self.send(Desk, "next", Async())
        tenant.reset(token)
        return [first, second, await self.send(Desk, "next", Plain())]

    @rio.handler
    def remind(self, message: Remind) -> None:
        set_timer = self.timers.every if message.repeat else self.timers.after
        set_timer("reminder", 0.01, Note("timer"))

    @rio.handler
    def note(self, message: Note, app: rio.AppData) -> None:
        app.get(Probe).note(f"{message.what} {tenant.get()}")

    @rio.handler
    async def spawn(self, _: Spawn) -> None:
        async def later() -> None:
            await self.send(Desk, self.id, Note("task"))

        self.tasks.create(later())

    @rio.handler
    def tell_other(self, message: Tell) -> None:
        self.tell(Desk, message.id, Note("told"))


@pytest.mark.parametrize("message", [Plain, Async, Thread])
async def test_a_handler_sees_what_its_caller_sees_and_nothing_of_another_turn(
    cluster: Cluster, message: type[Plain]
) -> None:
    server = await cluster.server(Desk)
    for client in (await cluster.client(), server.client):
        assert await client.send(Desk, "a", message()) == "nobody"
        token = tenant.set("acme")
        assert await client.send(Desk, "a", message()) == "acme"
        assert await client.send(Desk, "a", message()) == "acme"
        assert tenant.get() == "acme", "nothing flows back"
        tenant.reset(token)
        assert await client.send(Desk, "a", message()) == "nobody"


async def test_calls_at_the_same_time_carry_each_their_own(cluster: Cluster) -> None:
    await cluster.server(Desk)
    client = await cluster.client()

    async def ask(name: str) -> str:
        tenant.set(name)
        await asyncio.sleep(0)
        return await client.send(Desk, "a", Async())

    names = [f"tenant {number}" for number in range(20)]
    assert await asyncio.gather(*map(ask, names)) == names


async def test_values_travel_from_object_to_object_and_from_node_to_node(cluster: Cluster) -> None:
    first, second = await cluster.nodes(2, Desk)
    here = await cluster.activated_on(first, Desk, Plain())
    there = await cluster.activated_on(second, Desk, Plain())
    client = await cluster.client()
    tenant.set("acme")
    assert await client.send(Desk, here, Far(there)) == ["acme", "acme"]
    await client.send(Desk, here, Tell(there))
    await cluster.probe.noted("told acme")


async def test_a_handler_sets_values_for_the_calls_that_follow_in_its_turn(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Desk)
    tenant.set("acme")
    assert await server.client.send(Desk, "a", Change()) == ["acme", "of the handler", "acme"]
    assert await server.client.send(Desk, "a", Plain()) == "acme"


@pytest.mark.parametrize("repeat", [False, True])
async def test_the_message_of_a_timer_carries_what_was_seen_when_it_was_set(
    cluster: Cluster, repeat: bool
) -> None:
    server = await cluster.server(Desk)
    token = tenant.set("acme")
    await server.client.send(Desk, "a", Remind(repeat))
    tenant.reset(token)
    await cluster.probe.noted("timer acme", times=2 if repeat else 1)
    assert cluster.probe.count("timer nobody") == 0


async def test_tasks_of_an_object_keep_what_was_seen_when_they_began(cluster: Cluster) -> None:
    server = await cluster.server(Desk)
    tenant.set("acme")
    await server.client.send(Desk, "a", Spawn())
    await cluster.probe.noted("task acme")


async def test_hooks_see_no_values_as_an_object_lives_for_everybody(cluster: Cluster) -> None:
    tenant.set("of the program")
    server = await cluster.server(Desk)
    await server.client.send(Desk, "a", Plain())
    assert cluster.probe.log == ["hook nobody"]


async def test_what_hooks_call_carries_no_value_of_the_caller_who_woke_the_object(
    cluster: Cluster,
) -> None:
    class Eager(rio.ServiceObject):
        async def after_load(self, app: rio.AppData) -> None:
            await self.send(Desk, "of hooks", Note("hook has called"))

        @rio.handler
        def plain(self, _: Plain) -> str:
            return tenant.get()

    await cluster.server(Eager, Desk)
    client = await cluster.client()
    tenant.set("acme")
    assert await client.send(Eager, "a", Plain()) == "acme"
    assert "hook has called nobody" in cluster.probe.log


async def test_a_value_has_the_declared_type_on_the_other_side(cluster: Cluster) -> None:
    seen = []

    class Guest(rio.ServiceObject):
        @rio.handler
        def plain(self, _: Plain) -> str:
            seen.append(locale.get())
            return locale.get().language

    await cluster.server(Guest)
    client = await cluster.client()
    locale.set(Locale("fi", "Europe/Helsinki"))
    assert await client.send(Guest, "a", Plain()) == "fi"
    assert seen == [Locale("fi", "Europe/Helsinki")]


async def test_a_call_whose_value_is_of_another_type_is_refused_and_the_object_lives_on(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Desk)
    client = await cluster.client()
    await client.send(Desk, "a", Plain())
    before = activation(server, Desk, "a")
    assert await admit(server, {"tenant": 7}) == (
        "BadMessage: the value of rio.ContextVar 'tenant': the payload does not decode into"
        " str: Expected `str`, got `int`"
    )
    assert "BadMessage: a call came with more" in await admit(server, {"x": "x" * 1025})
    assert "BadMessage: a call came with more" in await admit(
        server, {f"{n}": n for n in range(17)}
    )
    assert await admit(server, {"unknown": [1]}) == "nobody"
    assert activation(server, Desk, "a") is before


class Answer(TurnCaller):
    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def reply(self, turn: object, payload: bytes) -> None:
        self.future.set_result(msgspec.msgpack.decode(payload))

    def fail(self, turn: object, error: BaseException) -> None:
        self.future.set_result(f"{type(error).__name__}: {error}")


async def admit(server: rio.Server, values: dict[str, object]) -> str:
    """How a call ends that comes with these values."""
    answer = Answer()
    raw = {name: msgspec.Raw(encode(value)) for name, value in values.items()}
    server._catalog.dispatcher.admit(
        answer, "Desk", "a", "Plain", encode({}), context=encode(Context(values=raw))
    )
    return str(await answer.future)


async def test_values_of_unknown_variables_travel_on(cluster: Cluster) -> None:
    class Relay(rio.ServiceObject):
        @rio.handler
        async def far(self, message: Far) -> list[str]:
            return [await self.send(Relay, message.id, Plain())]

        @rio.handler
        def plain(self, _: Plain) -> str:
            turn = current()
            assert turn is not None
            return ", ".join(read_context(turn.context).values)

    server = await cluster.server(Relay)
    answer = Answer()
    context = encode(Context(values={"unknown": msgspec.Raw(encode([1]))}))
    server._catalog.dispatcher.admit(
        answer, "Relay", "a", "Far", encode({"id": "b"}), context=context
    )
    assert await answer.future == ["unknown"]


# --- limits and types -----------------------------------------------------------------------------


async def test_what_cannot_travel_is_refused_where_it_is_set() -> None:
    with pytest.raises(TypeError, match="takes 1027 bytes, and may take 1024"):
        tenant.set("x" * MAX_VALUE_BYTES)
    with pytest.raises(TypeError, match="Expected `str`, got `int`"):
        tenant.set(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be encoded"):
        tenant.set(object())  # type: ignore[arg-type]
    assert tenant.get() == "nobody"


async def test_a_call_carries_no_more_than_16_values_and_4_kibibytes() -> None:
    for number in numbers[:MAX_VALUES]:
        number.set(1)
    with pytest.raises(TypeError, match=r"17 values of rio\.ContextVar, and a call carries 16"):
        numbers[-1].set(1)
    with pytest.raises(LookupError):
        numbers[-1].get()


async def test_large_values_are_counted_together() -> None:
    for text in texts[:3]:
        text.set("x" * 1000)
    texts[3].set("x" * 900)
    with pytest.raises(TypeError, match=f"a call carries {MAX_BYTES}"):
        texts[4].set("x" * 200)


async def test_a_variable_has_one_type() -> None:
    again = rio.ContextVar("tenant", str)
    again.set("acme")
    assert tenant.get() == "acme"
    with pytest.raises(ConfigurationError, match="'tenant' is there already, for str"):
        rio.ContextVar("tenant", int)
    with pytest.raises(TypeError, match="is not a type that MessagePack can carry"):
        rio.ContextVar("thread", asyncio.Task)


async def test_get_takes_a_default_and_a_token_serves_once() -> None:
    with pytest.raises(LookupError, match="'locale'> has no value here, and no default"):
        locale.get()
    assert locale.get(None) is None
    first = tenant.set("a")
    second = tenant.set("b")
    tenant.reset(second)
    assert tenant.get() == "a"
    tenant.reset(first)
    assert tenant.get() == "nobody"
    with pytest.raises(RuntimeError, match="used before"):
        tenant.reset(first)
    with pytest.raises(ValueError, match=r"that of <rio\.ContextVar 'tenant'>"):
        locale.reset(first)  # type: ignore[arg-type]


async def test_a_value_that_is_changed_later_travels_as_it_was_set() -> None:
    names = rio.ContextVar("names", list[str])
    given = ["ada"]
    names.set(given)
    given.append("bob")
    assert names.get() == ["ada"]
