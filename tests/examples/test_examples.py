"""Each example, run as its README says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.processes import ROOT, Running, python


def storage(directory: Path) -> tuple[str, str]:
    return "--storage", f"sqlite:///{directory / 'example.db'}"


@pytest.mark.parametrize("example", ["ping_pong", "presence", "metric_aggregator"])
def test_the_client_prints_what_the_readme_shows(example: str, tmp_path: Path) -> None:
    arguments = ("run", f"examples.{example}.service:registry", *storage(tmp_path), "--cluster", "local", "--log-level", "warning")
    with Running(*arguments, cwd=ROOT, errors_in=tmp_path) as server:
        server.address()
        client = python("-m", f"examples.{example}.client", *storage(tmp_path), cwd=ROOT)
        assert client.stderr == ""
        assert server.errors() == ""
    assert f"```\n{client.stdout}```\n" in (ROOT / "examples" / example / "README.md").read_text()


def test_what_an_object_saved_outlives_its_server(tmp_path: Path) -> None:
    counts = []
    for _ in range(2):
        arguments = ("run", "examples.ping_pong.service:registry", *storage(tmp_path), "--cluster", "local")
        with Running(*arguments, cwd=ROOT, errors_in=tmp_path) as server:
            server.address()
            counts += python("-m", "examples.ping_pong.client", *storage(tmp_path), cwd=ROOT).stdout.split()[-1:]
    assert counts == ["2", "4"]


def test_the_demo_loses_nothing_when_a_server_is_killed() -> None:
    ended = python("-m", "examples.metric_aggregator.demo", "--seconds", "4", cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = dict(line.strip().split("   ", 1) for line in ended.stdout.splitlines() if line.startswith("  ") and "   " in line.strip())
    assert {name: value.strip() for name, value in rows.items()}["acknowledged increments lost"] == "0"
    assert "was killed with SIGKILL" in ended.stdout
    assert "nothing was lost, nothing was applied twice" in ended.stdout
