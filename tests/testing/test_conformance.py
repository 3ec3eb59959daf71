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


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest prints in a project of its own, where three back ends are wrong."""
    project = tmp_path_factory.mktemp("somebodys_project")
    (project / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    (project / "somebodys_storage.py").write_text(BACK_END)
    (project / "test_somebodys_storage.py").write_text(TESTS)
    return run_pytest(project)


def run_pytest(project: Path) -> str:
    names = ("PYTHONPATH", "PYTEST_ADDOPTS")
    environ = {name: value for name, value in os.environ.items() if name not in names}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
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
