# cython: language_level=3
"""``latency="low"``: an event loop that stays awake while calls are under way.

A loop that waits for the network sleeps, and the system takes 5 to 30 µs to wake it: more than all
that ``rio`` does for a call. So after each write it looks again and again for what comes next, for
a while, and only then goes to sleep.
"""

from asyncio import get_running_loop
from contextvars import Context

cimport cython

from rio._core.clock cimport system_clock

cdef double SPIN = 100e-6       # seconds for which a loop stays awake after a write
SPIN_TIME = SPIN

cdef enum:
    LONGEST_PAUSE = 63      # writes that pass before a loop tries again to stay awake, at most


@cython.final
cdef class Spinner:
    """Keeps the loop of its owner, a client or a server, awake after a write, when an answer or the
    next call may be near: it has the loop call it in each turn, and so the loop has something to do
    and does not sleep. All else that is due has its turn too, timers and threads as well.

    It spins only while that pays. If nothing was read in time, because handlers or the network take
    longer, calls are rare, or the other side needs this very core, it lets some writes pass before
    it tries again: 1, then 3, 7 and so on up to 63. Each time that something was read in time, that
    becomes half as many.

    ``clock``: seconds, of the machine by default. The loop stays awake while it stands still.
    """

    def __cinit__(self, clock=None):
        self._clock = clock
        self._loop = self._handle = None
        self._context = Context()
        self._was_written = self._was_answered = False
        self._until = 0
        self._pause = self._writes_to_pass = 0

    @property
    def is_spinning(self):
        """Whether the loop is kept awake now."""
        return self._handle is not None

    def open(self):
        """Take note of what is written from now on, on the loop that runs.

        :raises RuntimeError: none runs.
        """
        self._loop = get_running_loop()

    def close(self):
        """Let the loop sleep, whatever happens. Idempotent; it can be opened again."""
        self._loop = None
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()

    cpdef int note_write(self) except -1:
        """Something was written: the other side may answer soon, or ask again."""
        self._was_written = True
        if self._handle is None and self._loop is not None:
            if self._writes_to_pass:
                self._writes_to_pass -= 1
            else:
                self._spin()
        return 0

    cpdef int note_read(self) except -1:
        """Something was read."""
        if self._handle is not None and not self._was_answered and self._now() < self._until:
            self._was_answered = True
            self._pause //= 2
        return 0

    def __call__(self):
        """A turn of the loop has come."""
        cdef double moment = self._now()
        if self._loop is None:
            return
        if self._was_written:
            self._was_written = self._was_answered = False
            self._until = moment + SPIN
        if moment < self._until:
            self._spin()
        else:
            self._handle = None
            if not self._was_answered:
                self._pause = min(2 * self._pause + 1, LONGEST_PAUSE)
            self._writes_to_pass = self._pause

    cdef int _spin(self) except -1:
        self._handle = self._loop.call_soon(self, context=self._context)
        return 0

    cdef double _now(self) except? -1:
        return system_clock() if self._clock is None else <double>self._clock()
