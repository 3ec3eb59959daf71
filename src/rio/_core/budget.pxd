# cython: language_level=3
"""What the dispatcher needs of the node's budget of bytes, and of what each client uses."""

from rio._core cimport limits


cdef inline long long room(long long own, long long of_client, long long free) noexcept:
    # Above 0 while a connection with `own`, of a client with `of_client` in all, may have more. A
    # client may have up to 16 times what is free. So there are (16 * free - of_client) / 17 left
    # for it, and each of its connections may have up to 16 times that.
    return (
        limits.CLIENT_SHARE * (limits.CLIENT_SHARE * free - of_client)
        - (limits.CLIENT_SHARE + 1) * own
    )


cdef inline Py_ssize_t for_clients(Py_ssize_t limit) noexcept:
    # What clients may have of a limit, all together.
    return limit - limit // limits.NODE_RESERVE


cdef class Usage:
    cdef readonly Py_ssize_t calls      # its calls that wait or run
    cdef readonly Py_ssize_t held       # bytes of calls that wait, and of answers it has not taken
    cdef readonly Py_ssize_t arriving   # bytes of large frames that have begun
    # of the time of the loop: when it was read from last, how much longer that might have gone on
    # before others have their turn, and how many of its connections wait for theirs
    cdef double _read_at
    cdef double _credit
    cdef Py_ssize_t _put_off
    cdef public Py_ssize_t connections
    cdef public Py_ssize_t subscriptions


cdef class Budget:
    cdef public Py_ssize_t limit
    cdef readonly Py_ssize_t used
    # of that, what goes with the peers that were cut off last
    cdef public Py_ssize_t leaving

    cdef inline bint _is_scarce(self) noexcept:
        # Whether it is worth the time to look at each answer.
        return self.used > self.limit // 16

    cdef inline bint _allows_first(self, Py_ssize_t of_client, Py_ssize_t size) noexcept:
        # Whether a connection whose peer has taken everything may have one more answer. A client
        # with many connections cannot have it for all of them.
        return (
            of_client + size <= self.limit // 2
            and self.used + size <= self.limit + self.limit // 5
        )

    cpdef bint allows(self, Py_ssize_t own, Py_ssize_t of_client, Py_ssize_t more) noexcept
    cpdef bint allows_node(self, Py_ssize_t more) noexcept
