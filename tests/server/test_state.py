"""A saved state survives everything, and a state of unknown outcome is not kept in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from msgspec.structs import replace

import rio
from rio.contracts.state import Batch, StateStorage, StoredObject, StoredState
from rio.errors import (
    BadState,
    HandlerFailed,
    NotActivated,
    OutcomeUnknown,
    StateCorrupt,
    StateTooLarge,
    StorageUnavailable,
    Superseded,
)
from rio.identity import ObjectId
from rio.storage.local import LocalState
from tests.server.harness import NO_ANSWER, Cluster, Probe, activation, instance, until


class Get(rio.Message[int], readonly=True):
    pass


class Add(rio.Message[int]):
    """``swallow``: the handler hides a failed save. ``save``: the states to save."""

    amount: int
    swallow: bool = False
    save: str = ""


class SaveTo(rio.Message[None]):
    """Save as in a framework where a state does not know its storage."""


class AddLater(rio.Message[None]):
    """Save from a task that outlives the turn."""

    amount: int


class Reload(rio.Message[int]):
    swallow: bool = False


class CatchAll(rio.Message[str]):
    """Add and save; the reply is the name of the error, which is caught whatever it is."""

    amount: int


class Assign(rio.Message[str]):
    """Set the total to something wrong, or the label to that many letters, and save both. The reply
    is the error, if it was caught."""

    what: str
    catch: bool = True


class Both(rio.Message[tuple[int, str]]):
    pass


class Rename(rio.Message[None]):
    name: str


class Total(rio.State):
    value: int = 0


class Label(rio.State):
    text: str = "unnamed"


class Keeper(rio.ServiceObject):
    total: Total = rio.managed_state()
    label: Label = rio.managed_state(name="the.label")

    def __init__(self) -> None:
        self.background: list[asyncio.Task[None]] = []

    @rio.handler
    async def save_to(self, message: SaveTo, app: rio.AppData) -> None:
        await self.save_state(app)  # type: ignore[arg-type]

    async def before_load(self, app: rio.AppData) -> None:
        app.get(Probe).note("before_load")

    async def after_load(self) -> None:
        if self.id.startswith("saves"):
            try:
                self.total.value += 1
                await self.save_state()
            except rio.RioError:
                if self.id == "saves and swallows":
                    return
                raise

    @rio.handler
    def get(self, message: Get) -> int:
        return self.total.value

    @rio.handler
    async def add(self, message: Add) -> int:
        self.total.value += message.amount
        try:
            await self.save_state(*message.save.split())
        except rio.RioError:
            if not message.swallow:
                raise
        return self.total.value

    @rio.handler
    async def catch_all(self, message: CatchAll) -> str:
        self.total.value += message.amount
        try:
            await self.save_state()
        except BaseException as error:
            return type(error).__name__
        return ""

    @rio.handler
    def add_later(self, message: AddLater, app: rio.AppData) -> None:
        probe = app.get(Probe)

        async def later() -> None:
            await probe.gate("save").wait()
            self.total.value += message.amount
            await self.save_state()

        task = asyncio.create_task(later())
        self.background.append(task)
        task.add_done_callback(lambda task: probe.note(f"saved: {task.exception()!r}"))

    @rio.handler
    async def reload(self, message: Reload) -> int:
        try:
            await self.load_state()
        except rio.RioError:
            if not message.swallow:
                raise
        return self.total.value

    @rio.handler
    async def assign(self, message: Assign) -> str:
        if message.what.isdigit():
            self.label.text = "x" * int(message.what)
        else:
            WRONG[message.what](self)
        try:
            await self.save_state()
        except (BadState, StateTooLarge) as error:
            if not message.catch:
                raise
            return str(error)
        return ""

    @rio.handler
    async def both(self, message: Both) -> tuple[int, str]:
        return self.total.value, self.label.text

    @rio.handler
    async def rename(self, message: Rename) -> None:
        self.label.text = message.name
        await self.save_state("label")


class OtherTotal(rio.State):
    """It has no field of a total, which would be loaded as 0."""


class GrandTotal(Total):
    share: int = 0


WRONG: dict[str, Callable[[Keeper], None]] = {
    "total.value: Expected `int`, got `float`": lambda keeper: setattr(keeper.total, "value", 2.5),
    "total.value: Expected `int`, got `bool`": lambda keeper: setattr(keeper.total, "value", True),
    "total.value: Expected `int`, got `str`": lambda keeper: setattr(keeper.total, "value", "5"),
    "total.value: TypeError: Encoding objects of type object": lambda keeper: setattr(
        keeper.total, "value", object()
    ),
    "total: it is a NoneType": lambda keeper: setattr(keeper, "total", None),
    "total: it is a OtherTotal": lambda keeper: setattr(keeper, "total", OtherTotal()),
    "total: it is a GrandTotal": lambda keeper: setattr(keeper, "total", GrandTotal(1, 2)),
}


class FlakyState(LocalState):
    """A storage that fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_load: BaseException | None = None
        self.fail_save: BaseException | None = None
        self.save_then_fail = False
        self.hold: asyncio.Event | None = None
        self.loads: list[ObjectId] = []
        self.saves: list[tuple[str, int]] = []
        """The names of the states of each commit, and its version."""

    async def load_object(self, object_id: ObjectId, token: int) -> StoredObject:
        self.loads.append(object_id)
        if self.fail_load is not None:
            raise self.fail_load
        return await super().load_object(object_id, token)

    async def commit(self, object_id: ObjectId, token: int, version: int, batch: Batch) -> int:
        if self.hold is not None:
            await self.hold.wait()
        if self.fail_save is not None and not self.save_then_fail:
            raise self.fail_save
        saved = await super().commit(object_id, token, version, batch)
        self.saves.append((" ".join(batch.states), saved))
        if self.fail_save is not None:
            raise self.fail_save
        return saved

    def stored(self, id: str) -> StoredObject:
        return self._objects[ObjectId("Keeper", id)][1]


@pytest.fixture
async def state(cluster: Cluster) -> AsyncIterator[FlakyState]:
    """The state storage of the cluster."""
    async with FlakyState() as state:
        cluster.storage = replace(cluster.storage, state=state)
        yield state


@pytest.fixture
async def server(cluster: Cluster, state: FlakyState) -> rio.Server:
    return await cluster.server(Keeper)


@pytest.fixture
async def client(cluster: Cluster, server: rio.Server) -> rio.Client:
    return await cluster.client()


async def placed_on(cluster: Cluster, id: str) -> int | None:
    placement = await cluster.storage.placement.lookup(ObjectId("Keeper", id))
    return None if placement is None else placement.generation


async def test_an_object_that_was_never_saved_starts_with_its_defaults(client: rio.Client) -> None:
    assert await client.send(Keeper, "a", Both()) == (0, "unnamed")


async def test_several_states_are_saved_and_loaded_each_under_its_name(
    client: rio.Client, cluster: Cluster, state: FlakyState
) -> None:
    await client.send(Keeper, "a", Rename("ada"))
    await client.send(Keeper, "a", Add(5))
    await client.admin(rio.AdminCommand.shutdown(Keeper, "a"))
    await until(lambda: cluster.home(Keeper, "a") is None)
    assert await client.send(Keeper, "a", Both()) == (5, "ada")
    assert state.saves == [("the.label", 1), ("total the.label", 2)]
    assert len(state.loads) == 2


async def test_each_save_raises_the_version_by_one(client: rio.Client, state: FlakyState) -> None:
    for _ in range(5):
        await client.send(Keeper, "a", Add(1, save="total"))
    assert state.saves == [("total", version) for version in range(1, 6)]


async def test_saving_a_state_that_does_not_exist_names_those_that_do(client: rio.Client) -> None:
    with pytest.raises(
        HandlerFailed, match="Keeper has no managed state totla; it has: total, label"
    ):
        await client.send(Keeper, "a", Add(1, save="totla"))


async def test_saving_to_a_storage_by_hand_says_that_a_field_knows_its_own(
    client: rio.Client,
) -> None:
    with pytest.raises(HandlerFailed, match=r"it has: total, label. Name the fields, or none for"):
        await client.send(Keeper, "a", SaveTo())


async def test_state_survives_all_servers_on_one_file(sqlite_url: str) -> None:
    for expected in (1, 2, 3):
        async with rio.Server(
            rio.Registry(Keeper), storage=sqlite_url, cluster="local", app_data=_with_probe()
        ) as server:
            assert await server.client.send(Keeper, "a", Add(1)) == expected


def _with_probe() -> rio.AppData:
    data = rio.AppData()
    data.set(Probe())
    return data


# --- a state that cannot be saved as it is --------------------------------------------------------


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_state_that_would_not_be_loaded_as_it_is_is_not_saved_and_the_object_lives_on(
    client: rio.Client, state: FlakyState, probe: Probe, wrong: str
) -> None:
    await client.send(Keeper, "a", Add(5))
    stored = state.stored("a")
    name, _, problem = wrong.partition(": ")
    text = await client.send(Keeper, "a", Assign(wrong))
    assert text.startswith(f"{name} was not saved: {problem}")
    assert state.stored("a") == stored
    assert await client.send(Keeper, "a", Reload()) == 5
    assert await client.send(Keeper, "a", Add(1)) == 6
    assert probe.count("before_load") == 1


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_state_that_is_refused_without_the_handler_looking_is_loaded_again(
    client: rio.Client, state: FlakyState, probe: Probe, wrong: str
) -> None:
    await client.send(Keeper, "a", Add(5))
    stored = state.stored("a")
    with pytest.raises(HandlerFailed, match=r"BadState: total\S* was not saved"):
        await client.send(Keeper, "a", Assign(wrong, catch=False))
    assert state.stored("a") == stored
    assert await client.send(Keeper, "a", Get()) == 5
    assert probe.count("before_load") == 2


async def test_a_state_above_the_limit_of_the_server_is_not_saved_and_the_object_lives_on(
    cluster: Cluster, state: FlakyState, probe: Probe
) -> None:
    await cluster.server(Keeper, config=rio.ServerConfig(state_limit=2048))
    client = await cluster.client()
    assert await client.send(Keeper, "a", Assign("2000")) == ""
    stored = state.stored("a")
    text = await client.send(Keeper, "a", Assign("2048"))
    assert text.startswith("label was not saved: it takes 2057 bytes, and the state_limit")
    assert state.stored("a") == stored
    assert await client.send(Keeper, "a", Assign("1999")) == ""
    assert probe.count("before_load") == 1


# --- a storage that fails -------------------------------------------------------------------------


async def test_a_storage_that_does_not_answer_never_makes_an_object_start_with_defaults(
    client: rio.Client, cluster: Cluster, state: FlakyState, server: rio.Server
) -> None:
    await client.send(Keeper, "a", Add(5))
    await client.admin(rio.AdminCommand.shutdown(Keeper, "a"))
    await until(lambda: cluster.home(Keeper, "a") is None)
    stored = state.stored("a")
    state.fail_load = StorageUnavailable("the disk is on fire")
    call = asyncio.ensure_future(client.send(Keeper, "a", Add(1)))
    before = len(state.loads)
    await until(lambda: len(state.loads) > before + 2)
    assert not call.done(), "the client tries again until its deadline"
    assert state.stored("a") == stored
    state.fail_load = None
    assert await call == 6


async def test_a_call_that_ends_while_the_storage_is_away_says_so_and_did_not_run(
    client: rio.Client, cluster: Cluster, state: FlakyState, server: rio.Server
) -> None:
    state.fail_load = StorageUnavailable("the disk is on fire")
    call = asyncio.ensure_future(client.send(Keeper, "a", Add(1), timeout=0.5))
    await until(
        lambda: any(
            "the disk is on fire" in str(waiting.last_error) for waiting in client._router.waiting
        )
    )
    with pytest.raises(NO_ANSWER):
        await call
    await until(lambda: server.statistics().live_objects == 0)
    assert await placed_on(cluster, "a") is None
    assert state.saves == []


async def test_a_state_that_does_not_decode_fails_the_activation_at_once_and_is_left_as_it_is(
    client: rio.Client,
    cluster: Cluster,
    state: FlakyState,
    server: rio.Server,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await client.send(Keeper, "a", Add(5))
    await client.admin(rio.AdminCommand.shutdown(Keeper, "a"))
    await until(lambda: cluster.home(Keeper, "a") is None)
    token, stored = state._objects[ObjectId("Keeper", "a")]
    bad = StoredState(b"\x81\xa5value\xa3abc")
    corrupt = StoredObject(stored.version, {**stored.states, "total": bad})
    state._objects[ObjectId("Keeper", "a")] = token, corrupt
    with pytest.raises(NotActivated, match=r"StateCorrupt.*\$\.value"):
        await client.send(Keeper, "a", Add(1))
    assert state.stored("a") == corrupt
    assert await placed_on(cluster, "a") is None
    assert server.statistics().live_objects == 0
    assert "Keeper/a could not be activated" in caplog.text
    state._objects[ObjectId("Keeper", "a")] = token, stored
    assert await client.send(Keeper, "a", Get()) == 5


@pytest.mark.parametrize(
    "error",
    [StateCorrupt("rotten"), RuntimeError("a driver's own")],
    ids=lambda error: type(error).__name__,
)
async def test_a_load_that_cannot_be_helped_by_waiting_is_told_at_once(
    client: rio.Client, state: FlakyState, error: Exception
) -> None:
    state.fail_load = error
    with pytest.raises(NotActivated, match=f"{type(error).__name__}: {error}"):
        await client.send(Keeper, "a", Get())
    assert len(state.loads) == 1


@pytest.mark.parametrize("written", [False, True], ids=["not written", "written, answer lost"])
@pytest.mark.parametrize("swallow", [False, True], ids=["told", "swallowed by the handler"])
async def test_a_save_that_fails_costs_the_object_its_memory(
    client: rio.Client,
    cluster: Cluster,
    state: FlakyState,
    probe: Probe,
    written: bool,
    swallow: bool,
) -> None:
    assert await client.send(Keeper, "a", Add(1)) == 1
    state.fail_save, state.save_then_fail = StorageUnavailable("the answer was lost"), written
    if swallow:
        assert await client.send(Keeper, "a", Add(10, swallow=True)) == 11
    else:
        with pytest.raises(
            OutcomeUnknown,
            match="Keeper/a may not have saved its state: StorageUnavailable: the answer was lost",
        ):
            await client.send(Keeper, "a", Add(10))
    state.fail_save = None
    assert await client.send(Keeper, "a", Get()) == (11 if written else 1), (
        "loaded again: memory is what is stored"
    )
    assert probe.count("before_load") == 2


@pytest.mark.parametrize("written", [False, True], ids=["not written", "written, then failed"])
@pytest.mark.parametrize(
    "error", [TypeError, KeyError, SystemExit], ids=lambda error: error.__name__
)
async def test_a_storage_with_a_mistake_costs_the_object_its_memory(
    client: rio.Client,
    state: FlakyState,
    probe: Probe,
    written: bool,
    error: type[BaseException],
) -> None:
    assert await client.send(Keeper, "a", Add(1)) == 1
    state.fail_save, state.save_then_fail = error("a mistake of a third party"), written
    with pytest.raises(OutcomeUnknown if error is not SystemExit else HandlerFailed):
        await client.send(Keeper, "a", Add(10))
    assert await client.send(Keeper, "b", CatchAll(10)) == error.__name__
    state.fail_save = None
    saved = 10 if written else 0
    assert await client.send(Keeper, "a", Add(100)) == 1 + saved + 100, "it saves as before"
    assert await client.send(Keeper, "b", Add(100)) == saved + 100, "also if nobody told"
    assert probe.count("before_load") == 4


async def test_a_save_that_is_cancelled_costs_the_object_its_memory(
    client: rio.Client, state: FlakyState, probe: Probe
) -> None:
    await client.send(Keeper, "a", Add(1))
    state.hold = asyncio.Event()
    call = asyncio.ensure_future(client.send(Keeper, "a", Add(10)))
    await until(lambda: state.hold is not None and bool(state.hold._waiters))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    state.hold = None
    assert await client.send(Keeper, "a", Get()) == 1
    assert probe.count("before_load") == 2


async def test_a_failed_save_of_a_task_outside_of_any_turn_drops_the_object_at_once(
    client: rio.Client, cluster: Cluster, state: FlakyState, probe: Probe
) -> None:
    await client.send(Keeper, "a", Add(1))
    await client.send(Keeper, "a", AddLater(10))
    state.fail_save = StorageUnavailable("away")
    probe.gate("save").set()
    await probe.noted("saved: StorageUnavailable('away')")
    await until(lambda: cluster.home(Keeper, "a") is None)
    state.fail_save = None
    assert await client.send(Keeper, "a", Get()) == 1


async def test_calls_behind_a_failed_save_see_what_is_stored(
    client: rio.Client, server: rio.Server, state: FlakyState
) -> None:
    await client.send(Keeper, "a", Add(1))
    state.hold = asyncio.Event()
    state.fail_save = StorageUnavailable("away")
    calls = [
        asyncio.ensure_future(client.send(Keeper, "a", message))
        for message in (Add(10), Get(), Get())
    ]
    await until(lambda: server.statistics().in_flight == 3)
    state.hold.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], OutcomeUnknown)
    assert outcomes[1:] == [1, 1]


async def test_a_hook_that_cannot_save_fails_the_activation_even_if_it_swallows_that(
    client: rio.Client, cluster: Cluster, state: FlakyState, server: rio.Server
) -> None:
    for id in ("saves", "saves and swallows"):
        state.fail_save, before = StorageUnavailable("away"), len(state.loads)
        call = asyncio.ensure_future(client.send(Keeper, id, Get()))
        await until(lambda: len(state.loads) >= before + 3)  # noqa: B023  # it is activated again and again
        assert not call.done()
        state.fail_save = None
        assert await call == 1


# --- another activation ---------------------------------------------------------------------------


async def supersede(cluster: Cluster, state: StateStorage, id: str) -> int:
    """Have another owner take the object over and fence its state. Returns the owner's token."""
    object_id = ObjectId("Keeper", id)
    placement = await cluster.storage.placement.lookup(object_id)
    assert placement is not None
    taken = await cluster.storage.placement.claim(object_id, 4711, supersede=placement.token)
    await LocalState.load_object(state, object_id, taken.token)  # type: ignore[arg-type]
    return taken.token


@pytest.mark.parametrize("swallow", [False, True], ids=["told", "swallowed by the handler"])
async def test_a_stale_activation_saves_nothing_and_is_dropped(
    client: rio.Client, cluster: Cluster, state: FlakyState, server: rio.Server, swallow: bool
) -> None:
    await client.send(Keeper, "a", Add(1))
    token = await supersede(cluster, state, "a")
    if swallow:
        await client.send(Keeper, "a", Add(10, swallow=True))
    else:
        with pytest.raises(Superseded, match="Keeper/a"):
            await client.send(Keeper, "a", Add(10))
    await until(lambda: cluster.home(Keeper, "a") is None)
    assert state.stored("a").version == 1
    placement = await cluster.storage.placement.lookup(ObjectId("Keeper", "a"))
    assert placement == (4711, token), "the claim of the other is left alone"


@pytest.mark.parametrize("swallow", [False, True], ids=["told", "swallowed by the handler"])
async def test_a_stale_activation_that_reloads_is_dropped(
    client: rio.Client, cluster: Cluster, state: FlakyState, swallow: bool
) -> None:
    await client.send(Keeper, "a", Add(1))
    await supersede(cluster, state, "a")
    if swallow:
        await client.send(Keeper, "a", Reload(swallow=True))
    else:
        with pytest.raises(Superseded):
            await client.send(Keeper, "a", Reload())
    await until(lambda: cluster.home(Keeper, "a") is None)


async def test_a_save_under_a_version_that_is_not_stored_any_more_is_superseded(
    client: rio.Client, cluster: Cluster, state: FlakyState, server: rio.Server
) -> None:
    await client.send(Keeper, "a", Add(1))
    activation(server, Keeper, "a").versions[state] = 7
    with pytest.raises(Superseded):
        await client.send(Keeper, "a", Add(10))
    assert state.stored("a").version == 1


async def test_each_activation_has_a_larger_token(
    client: rio.Client, cluster: Cluster, server: rio.Server
) -> None:
    tokens = []
    for _ in range(4):
        await client.send(Keeper, "a", Get())
        tokens.append(instance(server, Keeper, "a").token)
        await client.admin(rio.AdminCommand.shutdown(Keeper, "a"))
        await until(lambda: cluster.home(Keeper, "a") is None)
    assert tokens == sorted(set(tokens))


async def test_saves_of_one_object_never_overlap(
    client: rio.Client, server: rio.Server, state: FlakyState, probe: Probe
) -> None:
    await client.send(Keeper, "a", AddLater(1))
    await client.send(Keeper, "a", AddLater(1))
    state.hold = asyncio.Event()
    probe.gate("save").set()
    call = asyncio.ensure_future(client.send(Keeper, "a", Add(1)))
    await until(lambda: bool(state.hold and state.hold._waiters))
    await until(lambda: activation(server, Keeper, "a").turn is not None)
    assert len(state.hold._waiters) == 1
    state.hold.set()
    assert await call == 3
    await probe.noted("saved: None", 2)
    assert [version for _, version in state.saves] == [1, 2, 3]


class Careless(rio.ServiceObject):
    total: Total = rio.managed_state()

    async def load(self) -> None:
        self.total = Total()

    @rio.handler
    async def get(self, message: Get) -> int:
        await self.save_state()
        return self.total.value


async def test_a_state_that_was_never_loaded_is_not_saved(
    cluster: Cluster, state: FlakyState
) -> None:
    await cluster.server(Careless)
    client = await cluster.client()
    with pytest.raises(HandlerFailed, match=r"Careless\.total was not loaded"):
        await client.send(Careless, "a", Get())
    assert state.saves == []


class Forgetful(rio.ServiceObject):
    total: Total = rio.managed_state()

    async def load(self) -> None:
        """Loads nothing."""

    @rio.handler
    def get(self, message: Get) -> int:
        return self.total.value


class Stateless(rio.ServiceObject):
    @rio.handler
    async def get(self, message: Get) -> int:
        await self.save_state()
        return 1


async def test_a_load_that_forgets_the_states_is_told_what_to_write(cluster: Cluster) -> None:
    await cluster.server(Forgetful)
    client = await cluster.client()
    with pytest.raises(HandlerFailed, match=r"Forgetful\.total .* await self\.load_state\(\)"):
        await client.send(Forgetful, "a", Get())


async def test_saving_an_object_without_states_is_an_error(cluster: Cluster) -> None:
    await cluster.server(Stateless)
    client = await cluster.client()
    with pytest.raises(HandlerFailed, match=r"Stateless has no managed state"):
        await client.send(Stateless, "a", Get())
