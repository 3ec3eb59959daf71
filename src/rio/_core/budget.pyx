# cython: language_level=3
"""How many bytes a node holds for its peers, and how many of them may be one peer's."""

cimport cython

cdef enum:
    SHARE = 16


@cython.final
cdef class Budget:
    """Bytes that wait on a node: requests that do not run yet, and answers that are not taken.

    A peer may hold up to 16 times what is free. So one that is alone has nearly all, many that take
    nothing have equal shares, and there is always something left for a peer that comes next. An
    answer to a peer that has taken all earlier ones may lie above the limit, by a fifth at most: in
    most cases the peer takes it at once.
    """

    def __cinit__(self, Py_ssize_t limit):
        self.limit = limit
        self.used = 0

    @property
    def is_exceeded(self):
        """Whether more is held than should be."""
        return self.used > self.limit

    cpdef bint allows(self, Py_ssize_t own, Py_ssize_t more) noexcept:
        """Whether a peer that holds ``own`` bytes may hold so many more."""
        return own + more <= SHARE * (self.limit - self.used - more)
