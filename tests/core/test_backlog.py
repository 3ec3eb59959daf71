"""Requests that wait for the loop are served fairly, and each sender's in their order."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from rio._core.backlog import Backlog


class Twin:
    """What :class:`rio._core.backlog.Backlog` does, in as few words as possible."""

    def __init__(self) -> None:
        self.lines: dict[str, list[int]] = {}
        self.newcomers: list[str] = []
        self.others: list[str] = []
        self.favoured = 0

    def put(self, sender: str, request: int) -> None:
        if sender not in self.lines:
            self.newcomers.append(sender)
        self.lines.setdefault(sender, []).append(request)

    def turns_until(self, sender: str) -> int:
        return (len(self.lines.get(sender, ())) + 1) * len({*self.lines, sender})

    def take(self) -> int:
        if self.newcomers and not (self.favoured == 8 and self.others):
            sender = self.newcomers.pop(0)
            self.favoured = min(self.favoured + 1, 8)
        else:
            sender = self.others.pop(0)
            self.favoured = 0
        request = self.lines[sender].pop(0)
        if self.lines[sender]:
            self.others.append(sender)
        else:
            del self.lines[sender]
        return request


@given(st.lists(st.one_of(st.sampled_from("abcdefghijklmn"), st.none()), max_size=200))
def test_the_backlog_does_what_its_twin_does(steps: list[str | None]) -> None:
    """Each step is a sender who puts a request, or ``None`` to take one."""
    backlog, twin = Backlog(), Twin()
    for number, sender in enumerate(steps):
        if sender is not None:
            backlog.put(sender, number)
            twin.put(sender, number)
        elif backlog.size:
            assert backlog.take() == twin.take()
        assert backlog.size == sum(map(len, twin.lines.values()))
        assert backlog.senders == len(twin.lines)
        for each in "abc":
            assert backlog.turns_until(each) == twin.turns_until(each)


def test_who_sends_little_waits_little() -> None:
    backlog = Backlog()
    for number in range(1000):
        backlog.put(f"greedy {number % 50}", "theirs")
    for _ in range(60):
        backlog.take()
    backlog.put("modest", "mine")
    assert "mine" in (backlog.take(), backlog.take())


def test_who_waits_already_has_a_turn_among_ever_new_senders() -> None:
    backlog = Backlog()
    for _ in range(3):
        backlog.put("steady", "theirs")
    assert backlog.take() == "theirs"
    taken: deque[str] = deque()
    for number in range(20):
        backlog.put(f"new {number}", "new")
        taken.append(backlog.take())
    assert taken.count("theirs") == 2
