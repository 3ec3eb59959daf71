"""The rules that every run must keep, whatever was killed in it.

They look at what callers saw and what servers logged. Each rule returns what breaks it.
``test_history.py`` plants one breach of each kind.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import msgspec

Outcome = Literal["acknowledged", "not executed", "unknown"]
Kind = Literal["lost", "doubled", "stale", "overlap", "order", "unexpected"]
"""The kinds of findings.

``lost``: an acknowledged write is gone. ``doubled``: a write counts twice, or counts although it
was not executed. ``stale``: an answer shows less than earlier answers had shown. ``overlap``: an
object was active twice. ``order``: messages changed places.
"""


class Finding(NamedTuple):
    """One breach of a rule."""

    kind: Kind
    text: str


class Call(msgspec.Struct, kw_only=True):
    """One call as its caller saw it. Times are seconds of one clock."""

    kind: Literal["add", "get", "put", "read"]
    object: str
    began: float
    ended: float
    outcome: Outcome
    value: Any = None
    """The counter's value, the element that was put, or the elements that were read."""
    caller: str = ""
    newer: int = 0
    """For an addition by newer code: how many of them there were, the field that older code has to
    keep.
    """


class Turn(msgspec.Struct, kw_only=True):
    """One turn as its server saw it."""

    object: str
    generation: int
    """The server's generation."""
    token: int
    """The activation's token."""
    began: float
    ended: float
    caller: str = ""
    number: int = 0
    """The caller's number of the message. The numbers ascend."""


def counter(calls: Iterable[Call], final: int) -> list[Finding]:
    """H1: every acknowledged addition counts once, and later answers include earlier ones.

    ``calls``: the ``add`` and ``get`` calls to one object. ``final``: its value afterwards.
    """
    calls = list(calls)
    adds = [call for call in calls if call.kind == "add"]
    acknowledged = [call for call in adds if call.outcome == "acknowledged"]
    unknown = sum(call.outcome == "unknown" for call in adds)
    answered = Counter(call.value for call in acknowledged)
    found = [
        Finding("lost", f"value {value} was answered {times} times")
        for value, times in answered.items()
        if times > 1
    ]
    if not len(acknowledged) <= final <= len(acknowledged) + unknown:
        text = (
            f"{len(acknowledged)} additions were acknowledged and {unknown} are unknown, but the"
            f" counter stands at {final}"
        )
        found.append(Finding("lost" if final < len(acknowledged) else "doubled", text))
    high = [call.value for call in acknowledged if call.value > final]
    found += [
        Finding("lost", f"value {value} was answered, but the counter stands at {final}")
        for value in high
    ]
    found += _stale_answers(call for call in calls if call.outcome == "acknowledged")
    return found + _lost_fields(call for call in acknowledged if call.newer)


def _lost_fields(additions: Iterable[Call]) -> list[Finding]:
    """Older code keeps the fields that only newer code knows, so that newer code counts on."""
    counts = [msgspec.structs.replace(call, value=call.newer) for call in additions]
    return [Finding("lost", f"a field of newer code: {text}") for _, text in _stale_answers(counts)]


def _stale_answers(calls: Iterable[Call]) -> list[Finding]:
    """If one call was answered before another began, the later one sees what the earlier one saw.

    If the later call is an addition, it sees more.
    """
    calls = list(calls)
    found: list[Finding] = []
    highest = 0
    answered = iter(sorted(calls, key=lambda call: call.ended))
    earlier = next(answered, None)
    for call in sorted(calls, key=lambda call: call.began):
        while earlier is not None and earlier.ended < call.began:
            highest = max(highest, earlier.value)
            earlier = next(answered, None)
        if call.value < highest + (call.kind == "add"):
            text = (
                f"a call ({call.kind}) that began after {highest} had been answered was answered"
                f" with {call.value}"
            )
            found.append(Finding("stale", text))
    return found


def set_full(calls: Iterable[Call]) -> list[Finding]:
    """H3: every acknowledged or once read element is in every later ``read``, once.

    ``calls``: the ``put`` and ``read`` calls to one object.
    """
    calls = list(calls)
    reads = sorted(
        (call for call in calls if call.kind == "read" and call.outcome == "acknowledged"),
        key=lambda call: call.began,
    )
    puts = {call.value: call for call in calls if call.kind == "put"}
    known: dict[int, float] = {
        element: put.ended for element, put in puts.items() if put.outcome == "acknowledged"
    }
    found: list[Finding] = []
    for read in reads:
        elements = set(read.value)
        lost = [
            element
            for element, since in known.items()
            if since < read.began and element not in elements
        ]
        twice = [element for element, times in Counter(read.value).items() if times > 1]
        found += [
            Finding("doubled", f"element {element} was read twice in one read") for element in twice
        ]
        found += [
            Finding("lost", f"element {element} is missing in a later read") for element in lost
        ]
        found += [
            finding
            for element in elements
            if (finding := _unexpected(element, puts.get(element), read))
        ]
        for element in elements:
            known[element] = min(known.get(element, read.ended), read.ended)
    return found


def _unexpected(element: int, put: Call | None, read: Call) -> Finding | None:
    if put is None:
        return Finding("unexpected", f"element {element} was read: nobody put it")
    if put.outcome == "not executed":
        return Finding(
            "doubled", f"element {element} was read: its caller was told that it was not executed"
        )
    return (
        Finding("unexpected", f"element {element} was read: it had not been put yet")
        if put.began > read.ended
        else None
    )


def single_activation(turns: Iterable[Turn]) -> list[Finding]:
    """H4: no two turns of an object overlap, and tokens ascend in the order of turns.

    This holds for turns on one server and on two.
    """
    found: list[Finding] = []
    for name, of_object in _by_object(turns).items():
        latest = of_object[0]
        for turn in of_object[1:]:
            found += [
                Finding("overlap", f"{name}: {problem}")
                for problem in _activated_twice(latest, turn)
            ]
            latest = turn if turn.ended >= latest.ended else latest
    return found


def _activated_twice(latest: Turn, turn: Turn) -> Iterable[str]:
    if turn.began < latest.ended:
        yield f"a turn under token {turn.token} began while one under token {latest.token} ran"
    if turn.token < latest.token:
        yield f"a turn under token {turn.token} began after one under token {latest.token}"
    if turn.token == latest.token and turn.generation != latest.generation:
        members = f"members {latest.generation} and {turn.generation}"
        yield f"{members} both ran turns under token {turn.token}"


def fifo(turns: Iterable[Turn]) -> list[Finding]:
    """H5: an object handles the messages of one caller once each, in the order of sending."""
    found: list[Finding] = []
    for name, of_object in _by_object(turns).items():
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        for turn in of_object:
            if turn.caller:
                numbers[turn.caller].append(turn.number)
        for caller, handled in numbers.items():
            disorder = [(first, later) for first, later in pairwise(handled) if later <= first]
            for first, later in disorder:
                found.append(
                    Finding(
                        "order",
                        f"{name}: number {later} of {caller} was handled after number {first}",
                    )
                )
    return found


def _by_object(turns: Iterable[Turn]) -> dict[str, Sequence[Turn]]:
    """The turns of each object, in the order in which they began."""
    objects: defaultdict[str, list[Turn]] = defaultdict(list)
    for turn in sorted(turns, key=lambda turn: turn.began):
        objects[turn.object].append(turn)
    return dict(objects)
