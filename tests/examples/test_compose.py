"""What ``compose.yaml`` says is well formed, and what it runs works: the same commands with the
same environment, on this machine instead of in containers.

Each container has a name server, an address and a file system of its own. Here a command sees
another ``hostname``, which prints an address of the loopback network, and the hosts and folders in
its environment are those of this machine.
"""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML  # which check-jsonschema brings along

from rio import ServerConfig
from tests.cli.processes import ROOT, TIMEOUT, environment, until
from tests.servers import PostgresServer, RedisServer, Server, postgres_bin

COMPOSE = ROOT / "compose.yaml"
FILE: dict[str, Any] = YAML(typ="safe").load(COMPOSE)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVERS = 2
"""So many of the replicas run here."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has a whole network of loopback addresses"
)


def test_the_file_is_what_the_schema_of_compose_says() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, str(COMPOSE)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_each_service_has_a_profile_and_waits_for_others_that_can_be_healthy() -> None:
    for name, service in SERVICES.items():
        assert service["profiles"], name
        for other, wait in service.get("depends_on", {}).items():
            assert SERVICES[other]["profiles"] == service["profiles"]
            assert wait == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other]
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in FILE["volumes"]


def test_a_server_has_more_time_to_stop_than_it_takes_to_drain() -> None:
    for profile in ("sqlite", "postgres", "valkey"):
        seconds = SERVICES[f"server-{profile}"]["stop_grace_period"].removesuffix("s")
        assert float(seconds) > ServerConfig().drain_timeout


@pytest.mark.parametrize(
    "profile",
    [
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.servers),
        pytest.param("valkey", marks=pytest.mark.servers),
    ],
)
def test_what_a_profile_runs_works(profile: str, tmp_path: Path) -> None:
    with Machine(profile, tmp_path) as machine:
        for _ in range(SERVERS):
            machine.start(f"server-{profile}")
        machine.wait_for_servers()
        until(lambda: machine.is_healthy(f"server-{profile}"))
        assert "cpu.web-1: 3 points, mean 0.50" in machine.run(f"client-{profile}")
        machine.stop()


class Machine:
    """Runs the services of a profile as processes."""

    def __init__(self, profile: str, directory: Path) -> None:
        self.servers: dict[str, subprocess.Popen[str]] = {}
        """The processes, by the address of each."""
        self._profile = profile
        self._directory = directory
        self._database: Server | None = None
        self._network = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
        self._stack = ExitStack()

    def __enter__(self) -> Machine:
        (self._directory / "data").mkdir()
        tools = self._directory / "tools"
        tools.mkdir()
        commands = {
            "python": f'exec {shlex.quote(sys.executable)} "$@"',
            "rio": f'exec {shlex.quote(sys.executable)} -m rio "$@"',
            "hostname": '[ "$*" = -i ] && echo $HOST_ADDRESS',
        }
        for name, command in commands.items():
            (tools / name).write_text(f"#!/bin/sh\n{command}\n")
            (tools / name).chmod(0o755)
        if self._profile in SERVICES:
            self._database = self._stack.enter_context(database(SERVICES[self._profile]))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.servers.values():
            process.kill()
            process.communicate()
        self._stack.close()

    def wait_for_servers(self) -> None:
        for process in self.servers.values():
            printed = []
            assert process.stdout is not None
            for line in process.stdout:
                printed.append(line)
                if line.startswith("listening on"):
                    break
            else:
                pytest.fail("".join(printed))

    def start(self, name: str) -> None:
        address = f"{self._network}.{len(self.servers) + 1}"
        self.servers[address] = subprocess.Popen(
            command_of(SERVICES[name]),
            cwd=ROOT,
            env=self._environment(name, address),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def is_healthy(self, name: str) -> bool:
        check = SERVICES[name]["healthcheck"]["test"]
        return self._ask(check, name, next(iter(self.servers))).returncode == 0

    def run(self, name: str) -> str:
        """Run a service to its end, and return what it prints."""
        ended = self._ask(["CMD", *command_of(SERVICES[name])], name, f"{self._network}.254")
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def stop(self) -> None:
        """Stop the servers as Docker does."""
        for process in self.servers.values():
            process.terminate()
        for process in self.servers.values():
            assert process.wait(TIMEOUT) == 0, process.communicate()[0]

    def _ask(self, test: list[str], name: str, address: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            without_dollars(["sh", "-c", *test[1:]] if test[0] == "CMD-SHELL" else test[1:]),
            cwd=ROOT,
            env=self._environment(name, address),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    def _environment(self, name: str, address: str) -> Mapping[str, str]:
        path = f"{self._directory / 'tools'}:{os.environ['PATH']}"
        return environment(
            {key: self._here(value) for key, value in SERVICES[name]["environment"].items()}
            | {"PATH": path, "HOST_ADDRESS": address}
        )

    def _here(self, value: str) -> str:
        """A value with the hosts and folders of this machine."""
        if self._database is not None:
            value = re.sub(rf"\b{self._profile}/", f"127.0.0.1:{self._database.port}/", value)
        return value.replace("//data/", f"/{self._directory}/data/")


def command_of(service: Mapping[str, Any]) -> list[str]:
    """The command of a service; without one, that of the image."""
    image: list[str] = json.loads(re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[-1])
    return without_dollars(service["command"]) if "command" in service else image


def without_dollars(words: list[str]) -> list[str]:
    """What Compose makes of ``$$``."""
    return [word.replace("$$", "$") for word in words]


@contextmanager
def database(service: Mapping[str, Any]) -> Iterator[Server]:
    """A real server with the settings that a service gives it."""
    if "command" in service:
        program, *words = command_of(service)
        assert program == "valkey-server"
        names = [word.removeprefix("--") for word in words[::2]]
        options = dict(zip(names, words[1::2], strict=True))
        with RedisServer(**options) as valkey:
            yield valkey
    else:
        with PostgresServer() as postgres:
            wanted = service["environment"]
            assert wanted["POSTGRES_USER"] == postgres.ask("SELECT current_user")
            postgres.ask(f"CREATE DATABASE {wanted['POSTGRES_DB']}")
            _, program, *arguments = service["healthcheck"]["test"]
            check = [str(postgres_bin() / program), *arguments, "--port", str(postgres.port)]
            subprocess.run(check, check=True, stdout=subprocess.DEVNULL)
            yield postgres
