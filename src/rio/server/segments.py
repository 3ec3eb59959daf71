"""Which of the objects in memory leaves first when there are too many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

PROBATION_SHARE = 0.2
"""The share of the objects that were used once, above which these leave first."""
MAX_LOOKS = 256
"""Objects that are looked at to find one that can leave, in each segment."""


class Segmented(Protocol):
    """An object in memory."""

    used_at: float

    @property
    def used_again(self) -> bool:
        """Whether it was used more than once."""
        ...


class Segments:
    """The objects in memory in two segments, each in the order in which they would leave.

    An object begins on *probation*. It is *protected* once it was used again. As long as more than
    20 % of the objects are on probation, those leave first: so a caller that asks for a million
    objects once each drives out only the objects of its own kind, and not those in steady use.

    A call costs nothing here. An object that would be next to leave is looked at, and moves to the
    end if it was used meanwhile.
    """

    def __init__(self) -> None:
        self._probation: OrderedDict[Segmented, float] = OrderedDict()
        self._protected: OrderedDict[Segmented, float] = OrderedDict()
        """For each object when it was last used as it took its place."""

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def add(self, activation: Segmented) -> None:
        self._probation[activation] = 0.0

    def remove(self, activation: Segmented) -> None:
        self._probation.pop(activation, None)
        self._protected.pop(activation, None)

    def next_to_leave(self, can_leave: Callable[[Segmented], bool]) -> Segmented | None:
        """The object that leaves next, or ``None`` if all that were looked at must stay.

        It goes to the end, so another call finds another object.
        """
        for segment in self._in_order():
            for _ in range(min(MAX_LOOKS, len(segment))):
                activation = next(iter(segment), None)
                if activation is None:
                    break
                if self._was_used(activation, segment):
                    del segment[activation]
                    self._protected[activation] = activation.used_at
                    continue
                segment.move_to_end(activation)
                if can_leave(activation):
                    return activation
        return None

    def _in_order(self) -> tuple[OrderedDict[Segmented, float], ...]:
        crowded = len(self._probation) > PROBATION_SHARE * len(self)
        segments = self._probation, self._protected
        return segments if crowded else segments[::-1]

    def _was_used(self, activation: Segmented, segment: OrderedDict[Segmented, float]) -> bool:
        """Whether it was used since it took its place."""
        if segment is self._probation:
            return activation.used_again
        return activation.used_at > segment[activation]
