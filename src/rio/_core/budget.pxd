# cython: language_level=3
"""What the dispatcher needs of the node's budget of bytes."""


cdef class Budget:
    cdef public Py_ssize_t limit
    cdef readonly Py_ssize_t used

    cdef inline bint _is_scarce(self) noexcept:
        # Whether it is worth the time to look at each answer.
        return self.used > self.limit // 16

    cdef inline bint _allows_first(self, Py_ssize_t size) noexcept:
        # Whether a peer that has taken everything may have one more answer.
        return self.used + size <= self.limit + self.limit // 5

    cpdef bint allows(self, Py_ssize_t own, Py_ssize_t more) noexcept
