"""The settings of the cluster on a command line: a preset, and one option for each field of
:class:`rio.ClusterConfig` and :class:`rio.GossipConfig` that takes the place of the preset's value.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from rio.cli.options import NEVER, Arguments, CommandParser, read_preset, read_seconds
from rio.cluster.config import PRESETS, ClusterConfig, GossipConfig
from rio.errors import ConfigurationError

ALL = "all"
SWITCH = {"on": True, "off": False}

HELP = {
    "renew_interval": "how often a server renews its lease",
    "lease_local": "how long a server may serve after it sent a renewal that succeeded",
    "lease_evict": "how long a server must be silent before the others declare it dead",
    "poll_interval": "how often a server reads who the members are",
    "storage_timeout": "how long one call of the storage of the members may take",
    "limit_monitored_members": f"how many others each server watches; {ALL}: no limit",
    "drop_inactive_after": f"when a server that ended is forgotten; {NEVER}: it stays in the list",
    "gossip": "whether the servers talk to each other",
    "require_durable_storage": "whether to refuse a storage that may forget what it acknowledged",
    "probe_interval": "how often a server pings another one",
    "probe_timeout": "how long it waits for the answer before it asks others to try",
    "indirect_probes": "how many others it asks to try",
    "gossip_interval": "how often a server that has news passes it on",
    "fan_out": "how many others it passes news on to, each time",
    "retransmit_multiplier": "how often it passes on one piece of news: this times log10(n + 1)",
    "suspicion_multiplier": "how long a suspicion stands that others share: this times log10(n)"
    " times the probe interval",
    "suspicion_max_multiplier": "how many times as long it stands if nobody shares it",
    "sync_interval": "how often a server compares all that it knows with another one",
    "vote_lifetime": "how long a vote against a server counts",
    "join_timeout": "how long a new server tries to exchange pings with a majority",
}
"""What each setting is, for the help text."""


class _Kind(NamedTuple):
    """How the values of a type are written."""

    metavar: str
    read: Callable[[str], Any]
    """Raises :exc:`argparse.ArgumentTypeError` for what is none. Which values are good together is
    for the record to say.
    """


def _read_seconds(text: str) -> float:
    return math.inf if text == NEVER else read_seconds(text)


def _read_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _read_limit(text: str) -> int | None:
    return None if text == ALL else _read_number(text)


def _read_switch(text: str) -> bool:
    if text not in SWITCH:
        raise argparse.ArgumentTypeError(f"{text!r} is neither on nor off")
    return SWITCH[text]


_SWITCH = _Kind("on|off", _read_switch)
_KINDS: dict[Any, _Kind] = {
    float: _Kind("SECONDS", _read_seconds),
    int: _Kind("N", _read_number),
    int | None: _Kind("N", _read_limit),
    bool: _SWITCH,
    GossipConfig | None: _SWITCH,
}


def _kinds_of(record: type[msgspec.Struct]) -> dict[str, _Kind]:
    return {field.name: _KINDS[field.type] for field in msgspec.structs.fields(record)}


CLUSTER = _kinds_of(ClusterConfig)
GOSSIP = _kinds_of(GossipConfig)
KINDS = CLUSTER | GOSSIP
"""How each setting is written. No field of one record has the name of a field of the other."""

LEASE = ("renew_interval", "lease_local", "lease_evict", "poll_interval", "storage_timeout")
"""The settings that a running cluster takes from another one, and those that must fit to them."""


def option_of(name: str) -> str:
    """The option of a setting: ``--lease-local`` of ``lease_local``."""
    return "--" + name.replace("_", "-")


def add_cluster(parser: CommandParser) -> None:
    """Add the preset, and all settings."""
    parser.add_option(
        "--cluster",
        metavar="PRESET",
        default="strict",
        type=read_preset,
        help="strict, fast or local: how soon the cluster notices a dead server",
    )
    add_settings(parser, KINDS)


def add_settings(parser: CommandParser, names: Iterable[str]) -> None:
    """Add options for some settings."""
    group = parser.add_argument_group(
        "settings of the cluster",
        "Each takes the place of what the preset says. Give all servers of a cluster the same.",
    )
    for name in names:
        kind = KINDS[name]
        parser.add_option(
            option_of(name),
            group=group,
            metavar=kind.metavar,
            type=_Text(kind.read),
            help=f"{HELP[name]}; {_by_preset(name)}",
        )


def _by_preset(name: str) -> str:
    """What the presets say: one value for all, or ``5 with strict, 2.5 with fast, ...``."""
    shown = {preset: _as_text(_value(ClusterConfig.named(preset), name)) for preset in PRESETS}
    if len({*shown.values()}) == 1:
        return f"{shown[PRESETS[0]]} by default"
    return ", ".join(f"{text} with {preset}" for preset, text in shown.items())


def _value(config: ClusterConfig, name: str) -> object:
    return getattr(config if name in CLUSTER else config.gossip, name)


def _as_text(value: object) -> str:
    if value is None:
        return ALL
    if isinstance(value, float):
        return NEVER if value == math.inf else f"{value:g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return "on" if value else "off"


class _Text:
    """Checks that a text can be read, and keeps it as it is: a worker gets it like this too."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        self._read = read

    def __call__(self, text: str) -> str:
        self._read(text)
        return text


def given_settings(arguments: Arguments) -> dict[str, str]:
    """The settings that a command line, or the environment, changes; as texts."""
    texts = {name: getattr(arguments, name, None) for name in KINDS}
    return {name: text for name, text in texts.items() if text is not None}


def read_config(preset: str, given: Mapping[str, str]) -> ClusterConfig:
    """The settings of a preset, with those that were given in their place.

    :raises ConfigurationError: they contradict each other. The text names the options.
    """
    values = {name: KINDS[name].read(text) for name, text in given.items()}
    config = ClusterConfig.named(preset)
    changed = {name: value for name, value in values.items() if name in CLUSTER}
    try:
        return replace(config, **changed | {"gossip": _read_gossip(config, values)})
    except ConfigurationError as error:
        raise ConfigurationError(_with_options(error.message)) from None


def _read_gossip(config: ClusterConfig, values: Mapping[str, Any]) -> GossipConfig | None:
    changed = {name: value for name, value in values.items() if name in GOSSIP}
    if values.get("gossip", True):
        return replace(config.gossip or GossipConfig(), **changed)
    if changed:
        raise ConfigurationError(f"{', '.join(changed)}: these mean nothing when gossip is off")
    return None


def _with_options(text: str) -> str:
    names = "|".join(sorted(KINDS, key=len, reverse=True))
    return re.sub(rf"\b(?:{names})\b", lambda match: option_of(match[0]), text)
