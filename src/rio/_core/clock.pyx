# cython: language_level=3
"""The only clock of ``rio``: leases, deadlines and observers all count by it.

Nothing else in ``rio`` may take a protocol decision by a clock.
"""

from collections.abc import Callable

# Seconds since some fixed instant, never going back. Only the difference between two readings of
# the same clock means anything.
Clock = Callable[[], float]


def now():
    """Seconds since the machine started, time spent suspended included.

    A laptop or a virtual machine that was suspended wakes with its lease run out, because the other
    nodes saw it silent and have evicted it. A clock that stands still during the suspend would call
    the lease valid. It is ``CLOCK_BOOTTIME`` on Linux, ``CLOCK_MONOTONIC_RAW`` on macOS and
    ``QueryPerformanceCounter`` on Windows. A system without any of them has ``CLOCK_MONOTONIC``; if
    that stands still, the fencing token stops the late write, not the clock. The wall clock is
    never used, because people set it.
    """
    return system_clock()
