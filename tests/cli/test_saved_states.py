"""``rio state``: what newer code could not load is told, and what is of an older schema is
rewritten.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from rio.cli.program import main
from rio.contracts.state import Batch, StoredState
from rio.identity import ObjectId
from rio.storage import Keyring, open_storage
from rio.storage.sqlite import SqliteState

BANK = """
import rio

class Ledger(rio.State, schema=2):
    cents: int = 0

@rio.upcast(Ledger, 1)
def in_cents(old):
    old["cents"] = old.pop("euros") * 100
    return old

class Account(rio.ServiceObject):
    ledger: Ledger = rio.managed_state()

class Stateless(rio.ServiceObject):
    pass

registry = rio.Registry(Account, Stateless)
"""

GOOD = [StoredState(b"\x81\xa5euros\x02"), StoredState(b"\x81\xa5cents\x02", 2)]
BAD = [
    StoredState(b"\x81\xa5cents\xa12", 2),
    StoredState(b"\x80", 1),
    StoredState(b"\x80", 3),
]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "checked_bank.py").write_text(BANK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "checked_bank", raising=False)
    return f"sqlite:///{tmp_path}/bank.db"


async def save(url: str, states: list[StoredState]) -> list[int]:
    """Commit a state for each of some accounts. Returns the tokens of those that own them."""
    async with open_storage(url) as storage:

        async def commit(number: int, state: StoredState) -> int:
            token = (await storage.placement.claim(account(number), 1)).token
            await storage.state.commit(account(number), token, 0, Batch({"ledger": state}))
            return token

        return await asyncio.gather(*map(commit, range(len(states)), states))


async def save_again(url: str, tokens: list[int], state: StoredState) -> None:
    """Commit, as those who own the accounts still."""
    async with open_storage(url) as storage:
        for number, token in enumerate(tokens):
            await storage.state.commit(account(number), token, 1, Batch({"ledger": state}))


def account(number: int) -> ObjectId:
    return ObjectId("Account", f"a{number:04}")


def check(url: str, *options: str) -> int:
    return main(["state", "check", "checked_bank:registry", "--storage", url, *options])


def test_states_that_can_be_loaded_are_counted(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(save(url, GOOD * 600))
    assert check(url) == 0
    assert capsys.readouterr().out == "Account: 1200 objects, 0 cannot be loaded\n"


def test_states_that_cannot_be_loaded_are_told_by_problem_with_examples_and_left_alone(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = asyncio.run(save(url, [*GOOD, *BAD, BAD[0]]))
    assert check(url) == 1
    out = capsys.readouterr().out
    assert out.startswith("Account: 6 objects, 4 cannot be loaded\n")
    assert "  ledger: StateCorrupt: the payload does not decode into" in out
    assert "    2 objects, for example a0002, a0005\n" in out
    assert "from schema 1 failed: KeyError: 'euros'\n    1 objects, for example a0003\n" in out
    assert "StateTooNew: the state checked_bank.Ledger was saved under schema 3" in out
    asyncio.run(save_again(url, tokens, GOOD[0]))  # nothing was taken over
    assert check(url) == 0


def test_a_sample_looks_at_the_first_objects(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(save(url, [*GOOD, *BAD]))
    assert check(url, "--sample", "2") == 0
    assert capsys.readouterr().out == "Account: 2 objects, 0 cannot be loaded\n"


# --- migrate --------------------------------------------------------------------------------------


def migrate(url: str) -> int:
    return main(["state", "migrate", "checked_bank:registry", "--storage", url])


async def saved(url: str, count: int) -> list[StoredState]:
    """The states of the accounts."""
    async with open_storage(url) as storage:
        objects = [await storage.state.read_object(account(number)) for number in range(count)]
    return [stored.states["ledger"] for stored in objects]


def test_states_of_an_older_schema_are_rewritten_and_no_others(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = StoredState(b"\x82\xa5euros\x02\xa5owner\xa3ada")
    tokens = asyncio.run(save(url, [old, GOOD[1], BAD[0]]))
    assert migrate(url) == 1  # one cannot be loaded
    out = capsys.readouterr().out
    assert out.startswith("Account: 3 objects, 1 cannot be loaded\n")
    assert out.endswith("  1 rewritten\n")
    newer, untouched, bad = asyncio.run(saved(url, 3))
    assert newer.schema == 2
    assert msgspec.msgpack.decode(newer.data) == {"cents": 200, "owner": "ada"}
    assert (untouched, bad) == (GOOD[1], BAD[0])
    asyncio.run(save_again(url, tokens, GOOD[1]))  # their servers go on
    assert migrate(url) == 0
    assert capsys.readouterr().out == "Account: 3 objects, 0 cannot be loaded\n  0 rewritten\n"


def test_a_state_that_is_saved_meanwhile_is_looked_at_again(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = asyncio.run(save(url, GOOD[:1]))
    rewrite = SqliteState.rewrite_object

    async def late(state: SqliteState, object_id: ObjectId, version: int, batch: Batch) -> bool:
        if version == 1:
            await state.commit(object_id, tokens[0], 1, Batch({"ledger": GOOD[0]}))
        return await rewrite(state, object_id, version, batch)

    monkeypatch.setattr(SqliteState, "rewrite_object", late)
    assert migrate(url) == 0
    assert capsys.readouterr().out.endswith("  1 rewritten\n")
    assert asyncio.run(saved(url, 1)) == [GOOD[1]._replace(data=b"\x81\xa5cents\xcc\xc8")]


# --- encrypted ------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], str]:
    """Makes the file of a keyring with keys of these ids."""
    made: dict[str, str] = {}

    def write(ids: str) -> str:
        file = tmp_path / "keys"
        file.write_text("\n".join(made.setdefault(id, Keyring.generate(id)) for id in ids))
        file.chmod(0o600)
        return str(file)

    return write


def under(data: bytes) -> str:
    """The id of the key under which a state is stored, or that it is plain."""
    return data[3:4].decode() if data[:1] == b"\xc1" else "plain"


def state(action: str, url: str, *options: str) -> int:
    return main(["state", action, "checked_bank:registry", "--storage", url, *options])


def test_plain_states_and_those_of_older_keys_are_encrypted_anew(
    url: str, keys: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(save(url, GOOD))
    assert state("check", url, "--keyring", keys("a")) == 1
    assert "StateCorrupt: the state 'ledger' of Account/a0000 is not" in capsys.readouterr().out
    lenient = ("--keyring", keys("a"), "--plain-states", "accept")
    assert state("check", url, *lenient) == 0
    assert [under(each.data) for each in asyncio.run(saved(url, 2))] == ["plain", "plain"]
    for ids, rewritten in [("a", 2), ("a", 0), ("ba", 2), ("b", 0)]:
        keyring = ("--keyring", keys(ids))
        assert state("migrate", url, *(lenient if rewritten else keyring)) == 0
        assert capsys.readouterr().out.endswith(f"  {rewritten} rewritten\n")
        stored = asyncio.run(saved(url, 2))
        assert [(under(each.data), each.schema) for each in stored] == [(ids[0], 2)] * 2
    assert state("check", url) == 1
    assert "StateCorrupt: the state is encrypted: open its" in capsys.readouterr().out
    assert state("check", url, "--keyring", keys("c")) == 1
    assert "is encrypted under the key 'b', and the keyring has c" in capsys.readouterr().out
