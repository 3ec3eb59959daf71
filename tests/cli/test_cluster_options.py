"""The settings of a cluster on the command line: each field of the records is an option."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from rio import ClusterConfig, GossipConfig
from rio.cli import main
from rio.cli.cluster_options import HELP, given_settings, option_of, read_config
from rio.cli.program import parse
from rio.cli.supervisor import command_lines, environment_of_children
from rio.storage import open_storage

RUN = ["run", "m:r", "--storage", "s"]

EACH: dict[str, tuple[str, Any]] = {
    "renew_interval": ("0.7", 0.7),
    "lease_local": ("4.5", 4.5),
    "lease_evict": ("7", 7.0),
    "poll_interval": ("1.25", 1.25),
    "storage_timeout": ("1.5", 1.5),
    "limit_monitored_members": ("4", 4),
    "drop_inactive_after": ("never", math.inf),
    "require_durable_storage": ("off", False),
    "probe_interval": ("2", 2.0),
    "probe_timeout": ("0.4", 0.4),
    "indirect_probes": ("0", 0),
    "gossip_interval": ("0.3", 0.3),
    "fan_out": ("5", 5),
    "retransmit_multiplier": ("6", 6),
    "suspicion_multiplier": ("5", 5),
    "suspicion_max_multiplier": ("7", 7),
    "sync_interval": ("20", 20.0),
    "vote_lifetime": ("30", 30.0),
    "join_timeout": ("10", 10.0),
}
"""For each setting a text that differs from the default, and its value."""


def config_of(arguments: list[str], environ: dict[str, str] | None = None) -> ClusterConfig:
    parsed = parse([*RUN, *arguments], environ or {})
    return read_config(parsed.cluster, given_settings(parsed))


def value_of(config: ClusterConfig, name: str) -> Any:
    return getattr(config if name in ClusterConfig.__struct_fields__ else config.gossip, name)


def test_each_field_of_the_settings_is_an_option() -> None:
    fields = {*ClusterConfig.__struct_fields__, *GossipConfig.__struct_fields__}
    assert {*EACH, "gossip"} == fields == {*HELP}


@pytest.mark.parametrize("name", EACH)
def test_each_setting_can_be_given_alone_as_an_option_or_in_the_environment(name: str) -> None:
    text, value = EACH[name]
    assert value_of(ClusterConfig.strict(), name) != value
    variable = "RIO_" + name.upper()
    for config in (config_of([option_of(name), text]), config_of([], {variable: text})):
        assert value_of(config, name) == value
        assert value_of(config, "gossip") is not None
    assert value_of(config_of([option_of(name), text], {variable: "1"}), name) == value


def test_what_is_not_given_is_what_the_preset_says() -> None:
    for preset in ("strict", "fast", "local"):
        assert config_of(["--cluster", preset]) == ClusterConfig.named(preset)
    changed = config_of(["--cluster", "local", "--lease-evict", "3"])
    assert changed.lease_evict == 3.0
    assert changed.gossip == ClusterConfig.local().gossip
    assert config_of(["--limit-monitored-members", "all"]) == ClusterConfig.strict()


def test_gossip_can_be_switched_off_and_has_no_settings_then() -> None:
    assert config_of(["--gossip", "off"]).gossip is None
    assert config_of(["--gossip", "on"]) == ClusterConfig.strict()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--renew-interval", "2"],
            "--lease-local must be at least 3 * --renew-interval = 6 seconds, got 5",
        ),
        (
            ["--lease-local", "6"],
            "--lease-evict must be at least 1.222 * --lease-local = 7.33333 seconds, got 6.5",
        ),
        (["--lease-local", "never"], "--lease-local must be a finite number of seconds above 0"),
        (["--limit-monitored-members", "0"], "--limit-monitored-members must be at least 1, got 0"),
        (
            ["--probe-timeout", "0.6"],
            "--probe-interval must be at least 2 * --probe-timeout = 1.2 seconds, got 1",
        ),
        (
            ["--gossip", "off", "--fan-out", "2"],
            "--fan-out: these mean nothing when --gossip is off",
        ),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_settings_that_contradict_each_other_are_one_line_that_names_the_options(
    arguments: list[str],
    complaint: str,
    workers: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    assert main([*RUN, "--workers", workers, *arguments]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"rio: ConfigurationError: {complaint}")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "text", "complaint"),
    [
        ("--lease-local", "5s", "'5s' is not a number of seconds above 0"),
        ("--fan-out", "many", "'many' is not a whole number"),
        ("--limit-monitored-members", "-1", "'-1' is not a whole number"),
        ("--gossip", "yes", "'yes' is neither on nor off"),
    ],
)
def test_a_setting_that_cannot_be_read_is_wrong_usage(
    option: str, text: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        config_of([option, text])
    assert f"argument {option}: {complaint}" in capsys.readouterr().err


def test_the_help_has_each_setting_with_its_unit_and_the_values_of_the_presets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["run", "--help"], {})
    shown = " ".join(capsys.readouterr().out.split())
    for name, (_, value) in EACH.items():
        unit = {bool: "on|off", float: "SECONDS", int: "N"}[type(value)]
        assert f"{option_of(name)} {unit} {HELP[name]}; " in shown
    assert "; 5 with strict, 2.5 with fast, 1.5 with local [environment: RIO_LEASE_LOCAL]" in shown
    assert "; 3 by default [environment: RIO_FAN_OUT]" in shown


def test_workers_have_the_settings_that_are_given() -> None:
    given = [word for name, (text, _) in EACH.items() for word in (option_of(name), text)]
    parsed = parse([*RUN, "--workers", "2", *given], {})
    for command in command_lines(parsed):
        words = command[command.index("run") + 1 :]
        again = parse(["run", *words], environment_of_children(parsed))
        assert (
            given_settings(again) == given_settings(parsed) == {n: t for n, (t, _) in EACH.items()}
        )


def test_a_cluster_can_be_given_any_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/c.db"

    async def make_tables() -> None:
        async with open_storage(url):
            pass

    asyncio.run(make_tables())
    settings = ["settings", "set", "strict", "--storage", url]
    assert main([*settings, "--lease-local", "10", "--lease-evict", "13"]) == 0
    assert "lease_local 10, lease_evict 13, poll_interval 1" in capsys.readouterr().out
    assert main([*settings, "--lease-local", "10"]) == 1
    assert "--lease-evict must be at least 1.222 * --lease-local" in capsys.readouterr().err
