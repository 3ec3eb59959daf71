# cython: language_level=3
"""Requests that have arrived and wait until the loop has time for them, fair between those who sent
them.
"""

from collections import deque

cimport cython

cdef enum:
    FAVOURS = 8     # requests of newcomers that go before one of the others


@cython.final
cdef class Backlog:
    """A line of requests for each sender. The senders take turns, a request at a time.

    Whoever had no request here goes before those whose requests wait already, so that one who sends
    little waits little; yet after some newcomers one of the others has its turn.
    """

    def __cinit__(self):
        self.size = 0
        self._lines = {}
        self._newcomers = deque()
        self._others = deque()
        self._favoured = 0

    @property
    def senders(self):
        """How many senders have requests here."""
        return len(self._lines)

    cpdef Py_ssize_t waiting_of(self, sender):
        """How many requests of a sender wait."""
        line = self._lines.get(sender)
        return 0 if line is None else len(line)

    cpdef put(self, sender, request):
        """Add a request at the end of its sender's line."""
        line = self._lines.get(sender)
        if line is None:
            line = self._lines[sender] = deque()
            self._newcomers.append(sender)
        line.append(request)
        self.size += 1

    cpdef take(self):
        """Take out the request that is next; there must be one."""
        if self._newcomers and (self._favoured < FAVOURS or not self._others):
            sender = self._newcomers.popleft()
            self._favoured += 1
        else:
            sender = self._others.popleft()
            self._favoured = 0
        line = self._lines[sender]
        request = line.popleft()
        self.size -= 1
        if line:
            self._others.append(sender)
        else:
            del self._lines[sender]
        return request
