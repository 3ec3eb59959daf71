"""When an end of a connection asks the other one whether it lives, and when it gives it up."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from rio.transport.pulse import (
    ASK_AFTER,
    CLIENT_PATIENCE,
    LOOK_INTERVAL,
    SERVER_PATIENCE,
    Pulse,
    Verdict,
)


def looks(pulse: Pulse, heard: Callable[[float], int], until: float) -> dict[float, Verdict]:
    """What is done about a peer of which so much was heard at each moment."""
    done: dict[float, Verdict] = {}
    now = 0.0
    while now < until:
        now += LOOK_INTERVAL
        verdict = pulse.look(heard(now), now)
        if verdict is not Verdict.ALIVE:
            done[now] = verdict
        if verdict is Verdict.DEAD:
            break
    return done


def test_a_peer_that_goes_on_talking_is_never_asked() -> None:
    assert looks(Pulse(CLIENT_PATIENCE), int, 300.0) == {}


@pytest.mark.parametrize("last", [0.1, 1.0, 2.4, 7.3, 99.9])
def test_a_client_gives_up_a_silent_server_within_twenty_seconds(last: float) -> None:
    done = looks(Pulse(CLIENT_PATIENCE), lambda now: int(10 * min(now, last)), 300.0)
    *_, (moment, verdict) = done.items()
    assert verdict is Verdict.DEAD
    assert ASK_AFTER + CLIENT_PATIENCE <= moment - last <= 20.0


def test_a_peer_that_answers_is_asked_again_only_after_another_silence() -> None:
    asked: list[float] = []

    def heard(now: float) -> int:
        return len([moment for moment in asked if moment < now])

    pulse = Pulse(CLIENT_PATIENCE)
    for step in range(1, 40):
        now = step * LOOK_INTERVAL
        verdict = pulse.look(heard(now), now)
        assert verdict is not Verdict.DEAD
        if verdict is Verdict.ASK:
            asked.append(now)
    gaps = [after - before for before, after in pairwise(asked)]
    assert gaps
    assert min(gaps) >= ASK_AFTER


def test_a_server_asks_again_and_again_and_is_patient() -> None:
    done = looks(Pulse(SERVER_PATIENCE), lambda _: 0, 300.0)
    *asked, (dead, _) = done.items()
    assert len(asked) == SERVER_PATIENCE / ASK_AFTER
    assert dead == LOOK_INTERVAL + ASK_AFTER + SERVER_PATIENCE


def test_whoever_stood_still_itself_begins_anew() -> None:
    pulse = Pulse(CLIENT_PATIENCE)
    assert pulse.look(1, 1.0) is Verdict.ALIVE
    assert pulse.look(1, 100.0) is Verdict.ALIVE, "what came meanwhile is not read yet"
    assert pulse.ask(100.1) is Verdict.ASK
    assert pulse.look(1, 102.5) is Verdict.ALIVE
    assert pulse.look(1, 110.0) is Verdict.ALIVE
    assert pulse.look(2, 111.0) is Verdict.ALIVE
