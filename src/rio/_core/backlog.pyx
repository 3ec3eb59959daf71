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

    Senders of one group have one turn together, and share it in the same way: a client does not
    have more of the loop because it has more connections.

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
        """How many senders have requests here; a group counts as one."""
        return len(self._lines)

    cpdef Py_ssize_t turns_until(self, sender, group=None):
        """About how many requests will have run once a further one of this sender has."""
        line = self._lines.get(sender if group is None else group)
        if line is None:
            return len(self._lines) + 1
        own = len(line) + 1 if group is None else (<Backlog?>line).turns_until(sender)
        return own * len(self._lines)

    cpdef put(self, sender, request, group=None):
        """Add a request at the end of its sender's line."""
        owner = sender if group is None else group
        line = self._lines.get(owner)
        if line is None:
            line = self._lines[owner] = deque() if group is None else Backlog()
            self._newcomers.append(owner)
        if group is None:
            line.append(request)
        else:
            (<Backlog?>line).put(sender, request)
        self.size += 1

    cpdef take(self):
        """Take out the request that is next; there must be one."""
        if self._newcomers and (self._favoured < FAVOURS or not self._others):
            owner = self._newcomers.popleft()
            self._favoured += 1
        else:
            owner = self._others.popleft()
            self._favoured = 0
        line = self._lines[owner]
        if isinstance(line, Backlog):
            request = (<Backlog>line).take()
            is_left = (<Backlog>line).size != 0
        else:
            request = line.popleft()
            is_left = len(line) != 0
        self.size -= 1
        if is_left:
            self._others.append(owner)
        else:
            del self._lines[owner]
        return request
