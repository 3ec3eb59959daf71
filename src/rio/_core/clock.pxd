# cython: language_level=3
"""The clock of the other compiled modules, without a call through Python."""

cdef extern from "<time.h>" nogil:
    """
    #include <time.h>
    #ifndef CLOCK_BOOTTIME
    #define CLOCK_BOOTTIME CLOCK_MONOTONIC
    #endif
    """
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int CLOCK_BOOTTIME
    int clock_gettime(int clock, timespec* result)


cdef inline double system_clock() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9
