# cython: language_level=3
"""The clock of the other compiled modules, without a call through Python."""

# Each of them goes on while the machine is suspended, and nobody can set it.
cdef extern from *:
    """
    #ifdef _WIN32
    #include <windows.h>
    static double rio_system_clock(void) {
        LARGE_INTEGER ticks, frequency;
        QueryPerformanceFrequency(&frequency);
        QueryPerformanceCounter(&ticks);
        return (double)ticks.QuadPart / (double)frequency.QuadPart;
    }
    #else
    #include <time.h>
    #if defined(__APPLE__)
    #define RIO_CLOCK CLOCK_MONOTONIC_RAW
    #elif defined(CLOCK_BOOTTIME)
    #define RIO_CLOCK CLOCK_BOOTTIME
    #else
    #define RIO_CLOCK CLOCK_MONOTONIC
    #endif
    static double rio_system_clock(void) {
        struct timespec now;
        clock_gettime(RIO_CLOCK, &now);
        return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    }
    #endif
    """
    double system_clock "rio_system_clock"() noexcept nogil
