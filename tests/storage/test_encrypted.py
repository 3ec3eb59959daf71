"""States that their database cannot read: they keep the contract, and nobody can forge one."""

from __future__ import annotations

import base64
import pickle
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import rio
from rio.contracts.state import Batch, StateStorage, StoredObject, StoredState
from rio.errors import ConfigurationError, NotActivated, StateCorrupt, UnknownKey
from rio.identity import ObjectId
from rio.storage import EncryptedState, Keyring, Storage, open_storage, read_schemas
from rio.storage._urls import open_roles
from rio.testing.conformance import FirstCommitTests, StateStorageTests
from tests.storage.steps import ADA

OLD, NEW = b"o" * 32, b"n" * 32
KEYRING = Keyring({"new": NEW, "old": OLD})
BOB = ObjectId("Account", "bob")


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.servers),
        pytest.param("redis", marks=pytest.mark.servers),
    ]
)
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty storage of each kind."""
    if request.param == "memory":
        return "memory://"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def storage(url: str) -> AsyncIterator[Storage]:
    """The storage, prepared, and with nothing encrypted."""
    async with open_storage(url) as storage:
        yield storage


@pytest.fixture
async def inner(url: str) -> AsyncIterator[StateStorage]:
    """Its states alone, without a placement beside them."""
    state: StateStorage = open_roles(url)["state"]
    async with state:
        yield state


class TestEncryptedState(StateStorageTests):
    rounds: ClassVar[int] = 5

    @pytest.fixture
    def state(self, inner: StateStorage) -> StateStorage:
        return EncryptedState(inner, KEYRING)


class TestFirstCommitOfEncryptedStates(FirstCommitTests):
    rounds: ClassVar[int] = 5

    @pytest.fixture
    def storage(self, storage: Storage) -> Storage:
        return Storage(
            storage.membership, storage.placement, EncryptedState(storage.state, KEYRING)
        )


# --- what is stored -------------------------------------------------------------------------------


async def save(state: StateStorage, data: bytes, version: int = 0, id: ObjectId = ADA) -> bytes:
    """Commit one state, and return the bytes that the inner storage has of it."""
    await state.commit(id, 1, version, Batch({"s": StoredState(data, 3)}))
    inner = state.inner if isinstance(state, EncryptedState) else state
    return (await inner.read_object(id)).states["s"].data


async def put(inner: StateStorage, data: bytes, schema: int = 3, name: str = "s") -> None:
    """Change what is stored of Ada behind the back of rio."""
    version = (await inner.read_object(ADA)).version
    assert await inner.rewrite_object(ADA, version, Batch({name: StoredState(data, schema)}))


async def test_the_same_state_is_never_stored_as_the_same_bytes(inner: StateStorage) -> None:
    state = EncryptedState(inner, KEYRING)
    stored = [await save(state, b"secret " * 9, version) for version in range(3)]
    assert len(set(stored)) == 3
    assert not any(b"secret" in data for data in stored)
    assert all(data.startswith(b"\xc1\x01\x03new") for data in stored)


@pytest.mark.parametrize("kept", [{"new": OLD}, {"new": NEW[:-1] + b"x"}])
async def test_another_key_of_the_same_id_reads_nothing(
    inner: StateStorage, kept: dict[str, bytes]
) -> None:
    await save(EncryptedState(inner, KEYRING), b"secret")
    with pytest.raises(StateCorrupt, match="the key is another one of the same id"):
        await EncryptedState(inner, Keyring(kept)).load_object(ADA, 1)


async def test_no_byte_can_be_changed(inner: StateStorage) -> None:
    state = EncryptedState(inner, KEYRING)
    good = await save(state, b"secret")
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        await put(inner, bytes(changed))
        with pytest.raises((StateCorrupt, UnknownKey)):
            await state.load_object(ADA, 1)
    for length in range(len(good)):
        await put(inner, good[:length])
        with pytest.raises((StateCorrupt, UnknownKey)):
            await state.load_object(ADA, 1)
    await put(inner, good)
    assert (await state.load_object(ADA, 1)).states["s"] == StoredState(b"secret", 3)


async def test_the_state_of_another_object_is_refused(inner: StateStorage) -> None:
    state = EncryptedState(inner, KEYRING)
    await save(state, b"poor")
    await put(inner, await save(state, b"rich", id=BOB))
    with pytest.raises(StateCorrupt, match=r"'s' of Account/ada .* come from elsewhere"):
        await state.load_object(ADA, 1)
    with pytest.raises(StateCorrupt):
        await state.read_object(ADA)


@pytest.mark.parametrize(("name", "schema"), [("t", 3), ("s", 2), ("s", 0)])
async def test_a_state_under_another_name_or_schema_is_refused(
    inner: StateStorage, name: str, schema: int
) -> None:
    state = EncryptedState(inner, KEYRING)
    both = {"s": StoredState(b"s", 3), "t": StoredState(b"t", 3)}
    await state.commit(ADA, 1, 0, Batch(both))
    stored = (await inner.read_object(ADA)).states["s"].data
    await put(inner, stored, schema, name)
    with pytest.raises(StateCorrupt, match="is not what was saved there"):
        await state.load_object(ADA, 1)


async def test_an_older_state_in_place_of_the_last_one_is_refused(inner: StateStorage) -> None:
    state = EncryptedState(inner, KEYRING)
    rich = await save(state, b"rich")
    await save(state, b"poor", 1)
    await put(inner, rich)
    with pytest.raises(StateCorrupt, match=r"has version 2, .* with version 1: somebody has put"):
        await state.load_object(ADA, 1)
    place = len(b"\xc1\x01\x03new")
    await put(inner, rich[:place] + (2).to_bytes(8, "big") + rich[place + 8 :])
    with pytest.raises(StateCorrupt, match="is not what was saved there"):
        await state.load_object(ADA, 1)


async def test_states_that_were_saved_at_different_times_are_read(inner: StateStorage) -> None:
    state = EncryptedState(inner, KEYRING)
    states = {name: StoredState(name.encode()) for name in "abc"}
    await state.commit(ADA, 1, 0, Batch(states))
    for version, name in enumerate("bab", 1):
        await state.commit(ADA, 1, version, Batch({name: states[name]}))
    assert await state.load_object(ADA, 2) == StoredObject(4, states)


# --- keys that come and go ------------------------------------------------------------------------


async def test_the_first_key_writes_and_all_keys_read(inner: StateStorage) -> None:
    old, both = EncryptedState(inner, Keyring({"old": OLD})), EncryptedState(inner, KEYRING)
    assert b"old" in await save(old, b"one")
    assert (await both.load_object(ADA, 1)).states["s"].data == b"one"
    assert b"new" in await save(both, b"two", 1)
    with pytest.raises(UnknownKey, match="under the key 'new', and the keyring has old: add that"):
        await old.load_object(ADA, 1)
    assert await inner.load_object(ADA, 1) == await inner.read_object(ADA)


async def test_states_are_encrypted_anew_so_that_a_key_can_go(inner: StateStorage) -> None:
    old, both = EncryptedState(inner, Keyring({"old": OLD})), EncryptedState(inner, KEYRING)
    new = EncryptedState(inner, Keyring({"new": NEW}))
    await old.commit(ADA, 1, 0, Batch({"s": StoredState(b"1"), "t": StoredState(b"2", 7)}))
    await both.commit(ADA, 1, 1, Batch({"s": StoredState(b"3")}))
    with pytest.raises(UnknownKey, match=r"'t'.*'old'"):
        await new.encrypt_anew(ADA)
    assert await both.encrypt_anew(ADA)
    assert not await both.encrypt_anew(ADA)
    expected = StoredObject(2, {"s": StoredState(b"3"), "t": StoredState(b"2", 7)})
    assert await new.read_object(ADA) == expected
    assert await new.commit(ADA, 1, 2, Batch({"t": StoredState(b"4")})) == 3  # it is owned still


async def test_what_is_saved_while_it_is_encrypted_anew_stays(
    inner: StateStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = EncryptedState(inner, KEYRING)
    old = EncryptedState(inner, Keyring({"old": OLD}))
    await save(old, b"one")
    rewrite = both.rewrite_object

    async def save_first(*arguments: Any) -> bool:
        monkeypatch.setattr(both, "rewrite_object", rewrite)
        await save(old, b"two", 1)
        return await rewrite(*arguments)

    monkeypatch.setattr(both, "rewrite_object", save_first)
    assert await both.encrypt_anew(ADA)
    assert (await both.read_object(ADA)).states["s"].data == b"two"


async def test_a_forged_state_is_not_encrypted_anew(inner: StateStorage) -> None:
    old, both = EncryptedState(inner, Keyring({"old": OLD})), EncryptedState(inner, KEYRING)
    rich = await save(old, b"rich")
    await save(old, b"poor", 1)
    await put(inner, rich)
    with pytest.raises(StateCorrupt):
        await both.encrypt_anew(ADA)


async def test_plain_states_are_read_where_that_is_asked_for_and_nowhere_else(
    inner: StateStorage,
) -> None:
    await save(inner, b"\x80plain")
    strict = EncryptedState(inner, KEYRING)
    with pytest.raises(StateCorrupt, match=r"is not encrypted\. .* accept_plain=True"):
        await strict.load_object(ADA, 1)
    lenient = EncryptedState(inner, KEYRING, accept_plain=True)
    await lenient.load_object(ADA, 1)
    await lenient.commit(ADA, 1, 1, Batch({"t": StoredState(b"new")}))
    expected = StoredObject(2, {"s": StoredState(b"\x80plain", 3), "t": StoredState(b"new")})
    assert await lenient.load_object(ADA, 1) == expected
    assert await lenient.encrypt_anew(ADA)
    assert await strict.load_object(ADA, 1) == expected


# --- with objects ---------------------------------------------------------------------------------


class Diary(rio.State):
    pages: list[str] = []  # noqa: RUF012


class WritePage(rio.Message[int]):
    text: str


class Writer(rio.ServiceObject):
    diary: Diary = rio.managed_state()
    mood: Diary = rio.managed_state()

    @rio.handler
    async def write(self, message: WritePage) -> int:
        self.diary.pages.append(message.text)
        await self.save_state("diary")
        return len(self.diary.pages)


registry = rio.Registry(Writer)


async def write(storage: Storage, state: StateStorage) -> int:
    """What a new server answers."""
    async with rio.Server(registry, storage=storage, state=state) as server:
        return await server.client.send(Writer, "w", WritePage("secret"))


async def test_objects_live_on_over_a_change_of_keys(storage: Storage) -> None:
    for number, keys in enumerate(
        [{"old": OLD}, {"old": OLD, "new": NEW}, {"new": NEW, "old": OLD}]
    ):
        assert await write(storage, EncryptedState(storage.state, Keyring(keys))) == number + 1
    stored = (await storage.state.read_object(ObjectId("Writer", "w"))).states["diary"]
    assert b"secret" not in stored.data
    with pytest.raises(NotActivated, match=r"the state is encrypted: open its storage as rio\."):
        await write(storage, storage.state)
    lost = EncryptedState(storage.state, Keyring({"other": OLD}))
    with pytest.raises(NotActivated, match="under the key 'new', and the keyring has other"):
        await write(storage, lost)


# --- keyrings -------------------------------------------------------------------------------------


def key_file(path: Path, text: str, mode: int = 0o600) -> Path:
    file = path / "keys"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_a_file_and_the_environment_hold_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Keyring.generate("2026-11"), Keyring.generate()
    assert first != Keyring.generate("2026-11")
    file = key_file(tmp_path, f"# the keys, in turn\n\n{first}\n  {second}\n")
    monkeypatch.setenv("RIO_KEYS", f"{first},{second}")
    rings = [Keyring.from_file(file), Keyring.from_environment()]
    assert rings[0]._keys == rings[1]._keys
    assert rings[0].ids == ["2026-11", second.partition(":")[0]]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no modes of files")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o777])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = key_file(tmp_path, Keyring.generate(), mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {file}"):
        Keyring.from_file(file)
    file.chmod(0o400)
    Keyring.from_file(file)


SECRET = base64.b64encode(NEW).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        SECRET,
        f"id with spaces:{SECRET}",
        f":{SECRET}",
        f"a:{SECRET[:-8]}",
        f"a:{SECRET}{SECRET}",
        f"a:!{SECRET}",
        f"a:{SECRET}\na:{SECRET}",
        f"a:{SECRET} b:{SECRET}",
    ],
)
def test_what_is_no_keyring_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Keyring.from_file(key_file(tmp_path, text))
    assert SECRET[:8] not in repr(refused.getrepr(chain=True))
    assert refused.value.__cause__ is None


def test_keys_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read: No such file"):
        Keyring.from_file(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff" * 32)
    with pytest.raises(ConfigurationError, match="it is no text"):
        Keyring.from_file(tmp_path / "binary")
    with pytest.raises(ConfigurationError, match="the environment has no RIO_KEYS"):
        Keyring.from_environment()


def test_nothing_shows_a_key() -> None:
    assert repr(KEYRING) == str(KEYRING) == "Keyring(new, old)"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(KEYRING)
    with pytest.raises(ConfigurationError) as refused:
        Keyring({"short": b"secret"})
    assert "secret" not in str(refused.value)


def test_a_program_without_the_package_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'rio-actors\[crypto\]'"):
        EncryptedState(open_storage("memory://").state, KEYRING)


async def test_the_database_of_encrypted_states_is_migrated_with_the_others(
    sqlite_url: str, tmp_path: Path
) -> None:
    states = open_storage(f"sqlite:///{tmp_path / 'states.db'}").state
    members = open_storage(sqlite_url)
    storage = Storage(members.membership, members.placement, EncryptedState(states, KEYRING))
    async with storage:
        pass
    assert len(await read_schemas(storage)) == 2
