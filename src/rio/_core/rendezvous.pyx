# cython: language_level=3
"""Rendezvous hashing: in which order servers are asked for an object that lives nowhere yet.

Each server has a score for each object, and the highest comes first. So a server that comes takes
its share of the objects from all others, a server that goes leaves its share to all others, and no
other object moves.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint32_t, uint64_t

cimport cython

from zlib import crc32


cdef inline uint64_t score_of(uint64_t address, uint64_t name) noexcept nogil:
    # The output function of splitmix64. CRC-32 alone is linear: it would give three servers very
    # different shares.
    cdef uint64_t mixed = (address << 32 | name) + <uint64_t>0x9E3779B97F4A7C15
    mixed = (mixed ^ mixed >> 30) * <uint64_t>0xBF58476D1CE4E5B9
    mixed = (mixed ^ mixed >> 27) * <uint64_t>0x94D049BB133111EB
    return mixed ^ mixed >> 31


@cython.final
cdef class Ranking:
    """Ranks servers for any object. ``addresses``: those of the servers, ``host:port``."""

    cdef uint32_t* _hashes
    cdef Py_ssize_t _count

    def __cinit__(self, addresses not None):
        cdef Py_ssize_t index
        cdef list known = list(addresses)    # as long as it says
        self._count = len(known)
        self._hashes = <uint32_t*>PyMem_Malloc(max(self._count, 1) * sizeof(uint32_t))
        if self._hashes is NULL:
            raise MemoryError
        for index in range(self._count):
            self._hashes[index] = crc32(known[index].encode())

    def __dealloc__(self):
        PyMem_Free(self._hashes)

    def __len__(self):
        return self._count

    def choose(self, str name not None, Py_ssize_t attempt):
        """The index of the server that the ``attempt``-th attempt asks, from 0 on, for the object
        ``name``, ``TYPE/ID``. After the last server the first is asked again.

        :raises IndexError: there is no server.
        """
        cdef uint64_t hashed = crc32(name.encode())
        cdef Py_ssize_t best
        if self._count == 0:
            raise IndexError("there is no server")
        best = self._next(hashed, -1)
        for _ in range(attempt % self._count):
            best = self._next(hashed, best)
        return best

    cdef Py_ssize_t _next(self, uint64_t name, Py_ssize_t before) noexcept:
        # The server that comes after `before`; of equal scores, the first in the list comes first.
        cdef Py_ssize_t best = -1
        cdef Py_ssize_t index
        cdef uint64_t score
        cdef uint64_t best_score = 0
        cdef uint64_t limit = 0 if before < 0 else score_of(self._hashes[before], name)
        for index in range(self._count):
            score = score_of(self._hashes[index], name)
            if before >= 0 and (score > limit or (score == limit and index <= before)):
                continue
            if best < 0 or score > best_score:
                best, best_score = index, score
        return best
