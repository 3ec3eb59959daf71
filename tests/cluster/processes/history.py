"""What must be true of a run, whatever was killed in it: the rules, over what callers saw and what servers logged.

Each rule returns what breaks it, as sentences. ``test_history.py`` plants one of each kind.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec

Outcome = Literal["acknowledged", "not executed", "unknown"]


class Call(msgspec.Struct, kw_only=True):
    """One call as its caller saw it. Times are seconds of one clock."""

    kind: Literal["add", "get", "put", "read"]
    object: str
    began: float
    ended: float
    outcome: Outcome
    value: Any = None
    """The counter's value; the element that was put; the elements that were read."""
    caller: str = ""


class Turn(msgspec.Struct, kw_only=True):
    """One turn as the server that ran it saw it."""

    object: str
    generation: int
    """Of the server."""
    token: int
    """Of the activation."""
    began: float
    ended: float
    caller: str = ""
    number: int = 0
    """The caller's number of the message; they ascend."""


def counter(calls: Iterable[Call], final: int) -> list[str]:
    """H1: every acknowledged addition counts, none counts twice, and who begins after an answer sees it.

    ``calls``: the ``add`` and ``get`` calls to one object; ``final``: its value afterwards.
    """
    calls = list(calls)
    adds = [call for call in calls if call.kind == "add"]
    acknowledged = [call for call in adds if call.outcome == "acknowledged"]
    unknown = sum(call.outcome == "unknown" for call in adds)
    found = [
        f"value {value} was answered {times} times" for value, times in Counter(call.value for call in acknowledged).items() if times > 1
    ]
    if not len(acknowledged) <= final <= len(acknowledged) + unknown:
        found.append(f"{len(acknowledged)} additions were acknowledged and {unknown} are unknown, but the counter stands at {final}")
    found += [f"value {call.value} was answered, but the counter stands at {final}" for call in acknowledged if call.value > final]
    return found + _stale_answers(call for call in calls if call.outcome == "acknowledged")


def _stale_answers(calls: Iterable[Call]) -> list[str]:
    """Of two calls, one answered before the other began, the later sees what the earlier saw, and an addition more than that."""
    calls = list(calls)
    found, highest = [], 0
    answered = iter(sorted(calls, key=lambda call: call.ended))
    earlier = next(answered, None)
    for call in sorted(calls, key=lambda call: call.began):
        while earlier is not None and earlier.ended < call.began:
            highest = max(highest, earlier.value)
            earlier = next(answered, None)
        if call.value < highest + (call.kind == "add"):
            found.append(f"a call ({call.kind}) that began after {highest} had been answered was answered with {call.value}")
    return found


def set_full(calls: Iterable[Call]) -> list[str]:
    """H3: every element whose ``put`` was acknowledged, and every element that was read once, is in every later ``read``, once.

    ``calls``: the ``put`` and ``read`` calls to one object.
    """
    calls = list(calls)
    reads = sorted((call for call in calls if call.kind == "read" and call.outcome == "acknowledged"), key=lambda call: call.began)
    puts = {call.value: call for call in calls if call.kind == "put"}
    known: dict[int, float] = {element: put.ended for element, put in puts.items() if put.outcome == "acknowledged"}
    found = []
    for read in reads:
        elements = set(read.value)
        lost = [element for element, since in known.items() if since < read.began and element not in elements]
        found += [f"element {element} was read twice in one read" for element, times in Counter(read.value).items() if times > 1]
        found += [f"element {element} is missing in a later read" for element in lost]
        found += [f"element {element} was read: {problem}" for element in elements if (problem := _unexpected(puts.get(element), read))]
        for element in elements:
            known[element] = min(known.get(element, read.ended), read.ended)
    return found


def _unexpected(put: Call | None, read: Call) -> str | None:
    if put is None:
        return "nobody put it"
    if put.outcome == "not executed":
        return "its caller was told that it was not executed"
    return "it had not been put yet" if put.began > read.ended else None


def single_activation(turns: Iterable[Turn]) -> list[str]:
    """H4: no two turns of an object overlap, on one server or on two, and tokens ascend in the order of turns."""
    found = []
    for name, of_object in _by_object(turns).items():
        latest: Turn | None = None
        for turn in of_object:
            if latest is not None and turn.began < latest.ended:
                found.append(f"{name}: a turn under token {turn.token} began while one under token {latest.token} ran")
            if latest is not None and turn.token < latest.token:
                found.append(f"{name}: a turn under token {turn.token} began after one under token {latest.token}")
            if latest is not None and turn.token == latest.token and turn.generation != latest.generation:
                found.append(f"{name}: members {latest.generation} and {turn.generation} both ran turns under token {turn.token}")
            latest = turn if latest is None or turn.ended >= latest.ended else latest
    return found


def fifo(turns: Iterable[Turn]) -> list[str]:
    """H5: an object handles what one caller sends in the order in which it was sent, each message once."""
    found = []
    for name, of_object in _by_object(turns).items():
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for turn in of_object:
            if turn.caller:
                numbers[turn.caller].append(turn.number)
        for caller, handled in numbers.items():
            disorder = [(first, later) for first, later in pairwise(handled) if later <= first]
            found += [f"{name}: number {later} of {caller} was handled after number {first}" for first, later in disorder]
    return found


def _by_object(turns: Iterable[Turn]) -> dict[str, Sequence[Turn]]:
    """The turns of each object, in the order in which they began."""
    objects: defaultdict[str, list[Turn]] = defaultdict(list)
    for turn in sorted(turns, key=lambda turn: turn.began):
        objects[turn.object].append(turn)
    return dict(objects)
