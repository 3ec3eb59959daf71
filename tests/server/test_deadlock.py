"""A call that would wait for itself is answered at once, with the cycle."""

from __future__ import annotations

import asyncio

import pytest

import rio
from rio.errors import Deadlock, NotActivated
from tests.server.harness import Cluster, Probe, instance, until


class Walk(rio.Message[list[str]]):
    """Go on to the first object of ``path``, which goes on in turn.

    The answer lists the visited objects, the innermost first.
    """

    path: list[str]
    catch: bool = False


class Here(rio.Message[str]):
    pass


class Spawn(rio.Message[None]):
    """Start a task that outlives the turn. It calls ``to`` with ``path`` when the gate opens."""

    to: str
    path: list[str]
    wait_for_it: bool = False


class Walker(rio.ServiceObject):
    def __init__(self) -> None:
        self.result: asyncio.Task[list[str]] | None = None

    async def after_load(self) -> None:
        if self.id == "selfish":
            await self.send(Walker, "selfish", Here())
        if self.id.startswith("loads-from-"):
            await self.send(Walker, self.id.removeprefix("loads-from-"), Here())

    async def before_shutdown(self, app: rio.AppData) -> None:
        if self.id.startswith("leaves-by-"):
            try:
                await self.send(Walker, self.id.removeprefix("leaves-by-"), Walk([self.id]))
            except rio.RioError as error:
                app.get(Probe).note(f"{type(error).__name__}: {error.detail}")

    @rio.handler
    async def walk(self, message: Walk) -> list[str]:
        if not message.path:
            return [self.id]
        to, *path = message.path
        try:
            return [*await self.send(Walker, to, Walk(path, message.catch)), self.id]
        except Deadlock as error:
            if message.catch:
                return error.detail
            raise

    @rio.handler
    def here(self, message: Here) -> str:
        return str(self.address)

    @rio.handler
    async def spawn(self, message: Spawn, app: rio.AppData) -> None:
        probe = app.get(Probe)

        async def later() -> list[str]:
            probe.note("spawned")
            await probe.gate("go").wait()
            return await self.send(Walker, message.to, Walk(message.path))

        task = self.result = asyncio.create_task(later())
        task.add_done_callback(lambda _: probe.note("task done"))
        if message.wait_for_it:
            await asyncio.wait((task,))


async def on_nodes(cluster: Cluster, ids: list[str], nodes: int) -> rio.Client:
    """Activate each object on another node, round robin."""
    servers = await cluster.nodes(nodes, Walker)
    for place, id in enumerate(ids):
        server = servers[place % nodes]
        await server.client.send(Walker, id, Here())
        assert cluster.home(Walker, id) is server
    return await cluster.client()


@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize(
    "cycle", [["a"], ["a", "b"], ["a", "b", "c"]], ids=lambda cycle: "->".join([*cycle, "a"])
)
async def test_a_cycle_is_answered_with_the_cycle(
    cluster: Cluster, cycle: list[str], nodes: int
) -> None:
    client = await on_nodes(cluster, cycle, nodes)
    with pytest.raises(Deadlock) as caught:
        await client.send(Walker, "a", Walk([*cycle[1:], "a"]))
    assert caught.value.detail == [*(f"Walker/{id}.Walk" for id in cycle), "Walker/a.Walk"]
    assert " -> ".join(f"Walker/{id}.Walk" for id in [*cycle, "a"]) in str(caught.value)


async def test_a_cycle_through_objects_that_were_not_in_memory_is_found(cluster: Cluster) -> None:
    await cluster.nodes(2, Walker)
    client = await cluster.client()
    with pytest.raises(Deadlock):
        await client.send(Walker, "x", Walk(["y", "z", "x"]))


async def test_a_handler_may_catch_the_deadlock_and_go_on(cluster: Cluster) -> None:
    client = await on_nodes(cluster, ["a", "b"], 2)
    assert await client.send(Walker, "a", Walk(["b", "a"], catch=True)) == [
        "Walker/a.Walk",
        "Walker/b.Walk",
        "Walker/a.Walk",
        "a",
    ]


async def test_a_long_chain_without_a_cycle_is_no_deadlock(cluster: Cluster) -> None:
    await cluster.nodes(2, Walker)
    client = await cluster.client()
    path = [f"w{n}" for n in range(40)]
    assert await client.send(Walker, "start", Walk(path)) == [*reversed(path), "start"]


async def test_a_chain_that_does_not_end_is_cut_off(cluster: Cluster) -> None:
    await cluster.nodes(2, Walker)
    client = await cluster.client()
    with pytest.raises(Deadlock, match="a chain of 64 calls within calls does not end"):
        await client.send(Walker, "start", Walk([f"w{n}" for n in range(80)]))


async def test_visiting_an_object_twice_one_after_the_other_is_no_deadlock(
    cluster: Cluster,
) -> None:
    client = await on_nodes(cluster, ["a", "b"], 2)
    assert await client.send(Walker, "a", Walk(["b"])) == ["b", "a"]
    assert await client.send(Walker, "b", Walk(["a"])) == ["a", "b"]


async def test_a_task_that_outlives_its_turn_may_call_its_own_object(
    cluster: Cluster, probe: Probe
) -> None:
    client = await on_nodes(cluster, ["a"], 1)
    await client.send(Walker, "a", Spawn("a", []))
    await probe.noted("spawned")
    probe.gate("go").set()
    await probe.noted("task done")
    assert await client.send(Walker, "a", Walk([])) == ["a"]
    server = cluster.home(Walker, "a")
    assert server is not None
    assert instance(server, Walker, "a").result.result() == ["a"]


@pytest.mark.parametrize("nodes", [1, 2])
async def test_a_task_that_outlives_its_turn_may_come_back_through_others(
    cluster: Cluster, probe: Probe, nodes: int
) -> None:
    client = await on_nodes(cluster, ["a", "b"], nodes)
    await client.send(Walker, "a", Spawn("b", ["a"]))
    await probe.noted("spawned")
    probe.gate("go").set()
    await probe.noted("task done")
    server = cluster.home(Walker, "a")
    assert server is not None
    assert instance(server, Walker, "a").result.result() == ["a", "b"]
    assert await client.send(Walker, "a", Walk([])) == ["a"]


async def test_a_handler_that_waits_for_its_own_task_is_in_the_cycle(
    cluster: Cluster, probe: Probe
) -> None:
    client = await on_nodes(cluster, ["a", "b"], 2)
    probe.gate("go").set()
    await client.send(Walker, "a", Spawn("b", ["a"], wait_for_it=True))
    server = cluster.home(Walker, "a")
    assert server is not None
    assert isinstance(instance(server, Walker, "a").result.exception(), Deadlock)


async def test_a_hook_that_calls_its_own_object_fails_the_activation_with_the_cycle(
    cluster: Cluster,
) -> None:
    await cluster.server(Walker)
    client = await cluster.client()
    with pytest.raises(
        NotActivated,
        match=r"Deadlock: .*: Walker/selfish\.\(lifecycle\) -> Walker/selfish\.Here",
    ):
        await client.send(Walker, "selfish", Here())
    assert cluster.home(Walker, "selfish") is None


@pytest.mark.parametrize("nodes", [1, 2])
async def test_a_hook_that_calls_whoever_brought_the_object_to_life_is_a_deadlock(
    cluster: Cluster, nodes: int
) -> None:
    client = await on_nodes(cluster, ["a"], nodes)
    with pytest.raises(rio.RioError, match="would wait for itself") as caught:
        await client.send(Walker, "a", Walk(["loads-from-a"]))
    assert "Walker/a.Walk -> Walker/loads-from-a.(lifecycle) -> Walker/a.Here" in str(caught.value)
    assert cluster.home(Walker, "loads-from-a") is None


async def test_a_shutdown_hook_that_comes_back_to_its_object_is_a_deadlock_and_the_object_leaves(
    cluster: Cluster, probe: Probe
) -> None:
    client = await on_nodes(cluster, ["b", "leaves-by-b"], 2)
    await client.admin(rio.AdminCommand.shutdown(Walker, "leaves-by-b"))
    await until(lambda: cluster.home(Walker, "leaves-by-b") is None)
    assert probe.log == [
        "Deadlock: ['Walker/leaves-by-b.(lifecycle)', 'Walker/b.Walk', 'Walker/leaves-by-b.Walk']"
    ]
