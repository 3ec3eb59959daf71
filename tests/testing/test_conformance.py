"""The conformance suites find what is wrong with a back end of somebody else, and show it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BACK_END = '''
from rio.contracts import Batch, StoredState
from rio.storage.local import LocalMembershipStorage, LocalObjectPlacement, LocalState


class ForgetfulMembership(LocalMembershipStorage):
    """Says of each renewal that it was refused."""

    async def renew(self, generation):
        await super().renew(generation)
        return None


class GenerousPlacement(LocalObjectPlacement):
    """Gives an object to whoever claims it."""

    async def claim(self, object_id, generation, *, supersede=None):
        owned = await self.lookup(object_id)
        return await super().claim(object_id, generation, supersede=owned and owned.token)


class RoundingState(LocalState):
    """Loses the last byte of what it saves."""

    async def commit(self, object_id, token, version, batch):
        states = {
            name: StoredState(data[:-1], schema) for name, (data, schema) in batch.states.items()
        }
        return await super().commit(object_id, token, version, Batch(states))
'''

TESTS = """
import pytest
from somebodys_storage import ForgetfulMembership, GenerousPlacement, RoundingState
from rio.testing.conformance import (
    MembershipStorageTests,
    ObjectPlacementTests,
    StateStorageTests,
)


class TestForgetfulMembership(MembershipStorageTests):
    @pytest.fixture
    async def membership(self):
        async with ForgetfulMembership() as membership:
            yield membership


class TestGenerousPlacement(ObjectPlacementTests):
    @pytest.fixture
    async def placement(self):
        async with GenerousPlacement() as placement:
            yield placement


class TestRoundingState(StateStorageTests):
    @pytest.fixture
    async def state(self):
        async with RoundingState() as state:
            yield state
"""


MUTANTS = """
import asyncio
import time

from rio.contracts import Batch, StoredObject, StoredState, Vote
from rio.storage.local import LocalMembershipStorage, LocalObjectPlacement, LocalState

BITS = (1 << 32) - 1


class NeverWakes(LocalMembershipStorage):
    async def wait_for_change(self, version, timeout):
        await asyncio.Event().wait()


class RaisesWhereItShouldWait(LocalMembershipStorage):
    async def wait_for_change(self, version, timeout):
        raise OSError("it cannot listen")


class RaisesAtTheTimeout(LocalMembershipStorage):
    async def wait_for_change(self, version, timeout):
        async with asyncio.timeout(timeout):
            await asyncio.Event().wait()


class ReturnsAtOnce(LocalMembershipStorage):
    async def wait_for_change(self, version, timeout):
        pass


class Spins(LocalMembershipStorage):
    async def wait_for_change(self, version, timeout):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            await asyncio.sleep(0)


class BlocksTheLoop(LocalMembershipStorage):
    async def wait_for_change(self, version, timeout):
        time.sleep(timeout)


class PurgesInSilence(LocalMembershipStorage):
    async def purge(self, generation):
        version = self._version
        purged = await super().purge(generation)
        self._version = version
        return purged


class LowersAddresses(LocalMembershipStorage):
    async def register(self, address, metadata=b"", manifest=b""):
        return await super().register(address.lower(), metadata, manifest)


class CutsGenerations(LocalMembershipStorage):
    def _known(self, generation):
        same = (known for known in self._members if known & BITS == generation & BITS)
        return next(same, generation)

    async def renew(self, generation):
        return await super().renew(self._known(generation))


class CutsGenerationsOfVoters(LocalMembershipStorage):
    async def vote(self, generation, vote):
        voter = CutsGenerations._known(self, vote.voter)
        return await super().vote(generation, Vote(voter, vote.at))


class CutsGenerationsAtPurge(LocalMembershipStorage):
    async def purge(self, generation):
        return await super().purge(CutsGenerations._known(self, generation))


class CutsOwners(LocalObjectPlacement):
    async def owned_by(self, generation):
        placements = self._placements.items()
        return [one for one, it in placements if it.generation & BITS == generation & BITS]


class CutsTokensOfPlacements(LocalObjectPlacement):
    async def release(self, object_id, token):
        held = self._placements.get(object_id)
        if held is not None and held.token & BITS == token & BITS:
            token = held.token
        return await super().release(object_id, token)


class CutsTokens(LocalState):
    async def load_object(self, object_id, token):
        return await super().load_object(object_id, token & BITS)

    async def commit(self, object_id, token, version, batch):
        return await super().commit(object_id, token & BITS, version, batch)


class CutsStates(LocalState):
    async def commit(self, object_id, token, version, batch):
        states = {
            name: StoredState(data[: 1 << 20], schema)
            for name, (data, schema) in batch.states.items()
        }
        return await super().commit(object_id, token, version, Batch(states))


class KeepsBuffers(LocalState):
    async def commit(self, object_id, token, version, batch):
        version = await super().commit(object_id, token, version, batch)
        fence, stored = self._objects[object_id]
        kept = {**stored.states, **batch.states}
        self._objects[object_id] = fence, StoredObject(version, kept)
        return version


class KeepsBatches(LocalState):
    async def commit(self, object_id, token, version, batch):
        version = await super().commit(object_id, token, version, batch)
        fence, _ = self._objects[object_id]
        self._objects[object_id] = fence, StoredObject(version, batch.states)
        return version
"""

ENDS_AT_TIMEOUT = "test_a_wait_for_changes_ends_at_its_timeout"
DOES_NOT_SPIN = "test_who_waits_for_changes_and_there_are_none_does_not_spin"
LEAVES_THE_LOOP = "test_who_waits_for_changes_leaves_the_event_loop_to_others"
PURGES = "test_only_a_member_that_is_gone_can_be_purged"
ADDRESS = "test_an_address_stays_as_it_was_given"
GENERATION = "test_a_generation_is_compared_in_all_its_bits"
PLACEMENT = "test_generations_and_tokens_are_compared_in_all_their_bits"
TOKENS = "test_tokens_are_compared_in_all_their_bits"
BYTES = "test_any_bytes_come_back_as_they_were"
BATCH = "test_what_the_caller_does_to_a_batch_afterwards_is_not_saved"
KILLED_BY = {
    "membership": {
        "LocalMembershipStorage": None,
        "NeverWakes": ENDS_AT_TIMEOUT,
        "RaisesWhereItShouldWait": ENDS_AT_TIMEOUT,
        "RaisesAtTheTimeout": ENDS_AT_TIMEOUT,
        "ReturnsAtOnce": DOES_NOT_SPIN,
        "Spins": DOES_NOT_SPIN,
        "BlocksTheLoop": LEAVES_THE_LOOP,
        "PurgesInSilence": PURGES,
        "LowersAddresses": ADDRESS,
        "CutsGenerations": GENERATION,
        "CutsGenerationsOfVoters": GENERATION,
        "CutsGenerationsAtPurge": GENERATION,
    },
    "placement": {
        "LocalObjectPlacement": None,
        "CutsOwners": PLACEMENT,
        "CutsTokensOfPlacements": PLACEMENT,
    },
    "state": {
        "LocalState": None,
        "CutsTokens": TOKENS,
        "CutsStates": BYTES,
        "KeepsBuffers": BATCH,
        "KeepsBatches": BATCH,
    },
}
"""The test that fails for each mutant of a role; none fails for what they are made from."""
SUITES = {
    "membership": "MembershipStorageTests",
    "placement": "ObjectPlacementTests",
    "state": "StateStorageTests",
}
TEST_OF_A_MUTANT = """
class Test{mutant}({suite}):
    patience = 1.0

    @pytest.fixture
    async def {role}(self):
        async with mutants.{mutant}() as {role}:
            yield {role}

"""


@pytest.fixture(scope="module")
def report_on_mutants(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest prints where each mutant meets the tests that are to kill one of its role."""
    project = tmp_path_factory.mktemp("mutants")
    (project / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    (project / "mutants.py").write_text(MUTANTS)
    tests = ["import mutants", "import pytest", "from rio.testing.conformance import *"]
    chosen = set()
    for role, mutants in KILLED_BY.items():
        for mutant, killer in mutants.items():
            fields = {"role": role, "mutant": mutant, "suite": SUITES[role]}
            tests.append(TEST_OF_A_MUTANT.format(**fields))
            killers = {killer} if killer else set(mutants.values()) - {None}
            chosen |= {f"test_mutants.py::Test{mutant}::{name}" for name in killers}
    (project / "test_mutants.py").write_text("\n".join(tests))
    return run_pytest(project, *sorted(chosen))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest prints in a project of its own, where three back ends are wrong."""
    project = tmp_path_factory.mktemp("somebodys_project")
    (project / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    (project / "somebodys_storage.py").write_text(BACK_END)
    (project / "test_somebodys_storage.py").write_text(TESTS)
    return run_pytest(project)


def run_pytest(project: Path, *tests: str) -> str:
    names = ("PYTHONPATH", "PYTEST_ADDOPTS")
    environ = {name: value for name, value in os.environ.items() if name not in names}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests],
        cwd=project,
        env={**environ, "COLUMNS": "200", "CI": "true"},  # there pytest shows whole values
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    return run.stdout


def failed(report: str, suite: str) -> set[str]:
    return set(re.findall(rf"^FAILED \S+::{suite}::(\w+)", report, re.MULTILINE))


def passed(report: str) -> int:
    found = re.search(r"(\d+) passed", report)
    return int(found[1]) if found else 0


def test_each_mistake_fails_the_tests_that_name_it(report: str) -> None:
    assert failed(report, "TestForgetfulMembership") >= {
        "test_only_a_member_that_may_serve_can_renew",
        "test_no_renewal_is_lost_among_many_at_once",
    }
    assert failed(report, "TestGenerousPlacement") >= {
        "test_a_claim_of_an_owned_object_is_refused_and_names_the_owner",
        "test_a_claim_that_names_an_older_token_is_refused",
    }
    assert failed(report, "TestRoundingState") >= {
        "test_what_was_saved_is_loaded",
        "test_any_bytes_come_back_as_they_were",
    }
    assert passed(report) > 50  # what the mistakes do not touch


@pytest.mark.parametrize(
    "values",
    [
        r"assert \(None is not None\) is \(<MemberStatus\.ACTIVE: 1> <= .*DRAINING: 2>\)",
        r"(?s)- Placement\(generation=1, token=\d+\).*\+ Placement\(generation=2, token=\d+\)",
        r"StoredState\(data=b'\\x00', .*\).* != .*StoredState\(data=b'\\x00\\xff', .*\)",
    ],
    ids=["membership", "placement", "state"],
)
def test_a_test_that_fails_in_another_project_shows_the_values_that_it_compared(
    report: str, values: str
) -> None:
    assert re.search(values, report)


@pytest.mark.parametrize(
    ("mutant", "killer"),
    [pair for mutants in KILLED_BY.values() for pair in mutants.items()],
)
def test_the_suites_kill_each_mutant(
    report_on_mutants: str, mutant: str, killer: str | None
) -> None:
    assert failed(report_on_mutants, f"Test{mutant}") == ({killer} if killer else set())
