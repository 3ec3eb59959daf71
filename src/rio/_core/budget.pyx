# cython: language_level=3
"""How many bytes a node holds for its peers, and what each of them uses of the node."""

cimport cython

from rio._core cimport limits

from rio.errors import Overloaded

CLIENT_SHARE = limits.CLIENT_SHARE


cdef class Usage:
    """What one client uses of a node, over all of its connections."""

    def refuse(self, str limit not None, str text not None, detail=None):
        """The error for what would be too much. ``limit``: the name of the limit, for the log."""
        return Overloaded(text, detail)


@cython.final
cdef class Budget:
    """Bytes that wait on a node: requests that do not run yet, and answers that are not taken.

    A client may hold up to 16 times what is free, and each of its connections up to 16 times what
    is left for the client. So a client that is alone has nearly all, many that take nothing have
    equal shares, and there is always something left for a client, and for a connection, that comes
    next. A sixteenth is for nodes only. An answer to a peer that has taken all earlier ones may lie
    above the limit, by a fifth at most: in most cases the peer takes it at once.
    """

    def __cinit__(self, Py_ssize_t limit):
        self.limit = limit
        self.used = self.leaving = 0

    @property
    def is_half_used(self):
        """Whether so much is held that a peer which takes nothing should go soon."""
        return self.used - self.leaving > self.limit // 2

    cpdef bint allows(self, Py_ssize_t own, Py_ssize_t of_client, Py_ssize_t more) noexcept:
        """Whether a connection that holds ``own`` bytes, of a client that holds ``of_client``, may
        hold so many more.
        """
        cdef Py_ssize_t free = for_clients(self.limit) - self.used - more
        return room(own + more, of_client + more, free) >= 0

    cpdef bint allows_node(self, Py_ssize_t more) noexcept:
        """Whether so many bytes more may be held for a node."""
        return self.used + more <= self.limit
