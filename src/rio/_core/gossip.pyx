# cython: language_level=3
"""The member table and its merge: a join-semilattice over what the storage said and what the
members say about each other.

A state is ``(snapshot, records)``. The snapshot is what the storage said at one version. A record
is what gossip says about one member: its incarnation, the status and the metadata that it gives
itself, and who suspects it. The join of two states is

* of two snapshots the one with the larger version (ties, which one storage never makes, by
  content);
* of two records of one member the one of the higher incarnation; of equal incarnations the larger
  pair (status, metadata) and the 8 smallest of all who suspect it;
* of these the records that the joined snapshot admits: its member is listed as ``CONDEMNED`` or
  less, or is newer than the snapshot.

On states of one storage's history it is commutative, associative, idempotent and inflationary, so
it does not matter in which order, how often or by which way the members hear of anything. Nothing
here can make a member dead: only a snapshot says so.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cimport rio._core.limits as limits
from rio._core.msgpack cimport (
    Cursor,
    put_array,
    put_bin,
    put_uint,
    take_array,
    take_bin_or_nil,
    take_uint,
)

from operator import index
from typing import NamedTuple

from rio.errors import ProtocolError


cdef enum Status:
    # What the table must know of rio.contracts.membership.MemberStatus; a test compares them.
    DRAINING = 2        # the last that a member may say of itself
    CONDEMNED = 3       # the last of which a record may stay
    DEAD = 5


cdef enum:
    BUCKETS = 64
    OF_STATE = 4        # fields
    OF_RECORD = 5
    STATE_HEAD = 1 + 9 + 9 + 5 + 5      # encoded, at most
    RECORD_SIZE = 1 + 9 + 5 + 1 + 2 + limits.MAX_METADATA + 1 + 9 * limits.MAX_SUSPECTS


cdef uint64_t LARGEST = 0x7fffffffffffffff    # what the storages can hold

MAX_MEMBERS = limits.MAX_MEMBERS
MAX_LISTED = limits.MAX_LISTED
MAX_NEWCOMERS = limits.MAX_NEWCOMERS
MAX_SUSPECTS = limits.MAX_SUSPECTS
MAX_STATE = limits.MAX_STATE
STATUSES = {"DRAINING": DRAINING, "CONDEMNED": CONDEMNED, "DEAD": DEAD}


class Record(NamedTuple):
    """What gossip says about one member."""

    generation: int
    incarnation: int
    status: int
    metadata: bytes
    suspects: tuple[int, ...]


cdef struct Entry:
    # One record.
    uint64_t generation
    uint32_t incarnation
    uint8_t status
    uint8_t size                  # of the metadata
    uint8_t suspects              # how many
    uint8_t metadata[limits.MAX_METADATA]
    uint64_t suspect[limits.MAX_SUSPECTS]    # ascending


cdef struct Snapshot:
    # What the storage said at one version. Version 0, which no storage gives, is what is below all
    # others.
    uint64_t version
    uint64_t generation_high
    Py_ssize_t count
    uint64_t* generations         # ascending; one block of memory with the statuses
    uint8_t* statuses


@cython.final
cdef class MemberTable:
    """One state, and what may be done to it: nothing but joins, so it only grows, but for
    :meth:`replace_snapshot`.

    Its wire form is ``[version, generation_high, [generation, status, ...], [[generation,
    incarnation, status, metadata, [suspect, ...]], ...]]`` in MessagePack, everything in ascending
    order. Bounds: 1,024 records, 64 of them of members newer than the snapshot, a snapshot of 2,048
    members, 256 KiB. What would exceed one is refused whole, as if it had been lost on the way, so
    that the laws hold.
    """

    cdef Snapshot _snapshot
    cdef Entry* _entries          # ascending by generation
    cdef Py_ssize_t _count
    cdef Py_ssize_t _capacity

    def __dealloc__(self):
        PyMem_Free(self._snapshot.generations)
        PyMem_Free(self._entries)

    # --- reading ----------------------------------------------------------------------------------

    def __len__(self):
        """How many records there are."""
        return self._count

    @property
    def version(self):
        """Of the snapshot; 0 while there is none."""
        return self._snapshot.version

    @property
    def generation_high(self):
        """Of the snapshot: members above it are newer."""
        return self._snapshot.generation_high

    @property
    def listed(self):
        """The snapshot's members, a list of (generation, status)."""
        cdef Py_ssize_t i
        return [
            (self._snapshot.generations[i], self._snapshot.statuses[i])
            for i in range(self._snapshot.count)
        ]

    def status_of(self, uint64_t generation):
        """What the snapshot says: a status, 5 (dead) for a member that was purged, ``None`` for one
        that is newer.
        """
        cdef Py_ssize_t at = seek_listed(&self._snapshot, 0, generation)
        if at < self._snapshot.count and self._snapshot.generations[at] == generation:
            return self._snapshot.statuses[at]
        return DEAD if generation <= self._snapshot.generation_high else None

    def record(self, uint64_t generation):
        """The :class:`Record` of a member, or ``None``."""
        cdef Py_ssize_t at = seek_entry(self._entries, self._count, 0, generation)
        if at == self._count or self._entries[at].generation != generation:
            return None
        return make_record(&self._entries[at])

    def records(self):
        """All records, a list."""
        return [make_record(&self._entries[i]) for i in range(self._count)]

    def newcomers(self):
        """The generations of the records whose members are newer than the snapshot."""
        return [self._entries[i].generation for i in range(self._first_newcomer(), self._count)]

    def digests(self):
        """A number for each of 64 buckets (generation modulo 64), the same in two tables whose
        records of that bucket are the same.
        """
        cdef uint64_t sums[BUCKETS]
        cdef Py_ssize_t i
        for i in range(BUCKETS):
            sums[i] = 0
        for i in range(self._count):
            sums[self._entries[i].generation % BUCKETS] += digest(&self._entries[i])
        return [sums[i] for i in range(BUCKETS)]

    def in_buckets(self, uint64_t mask):
        """The generations of the records in the buckets whose bits are set in ``mask``."""
        cdef Py_ssize_t i
        return [
            self._entries[i].generation
            for i in range(self._count)
            if mask >> (self._entries[i].generation % BUCKETS) & 1
        ]

    def encode(self, generations=None, bint snapshot=True):
        """The wire form, as ``bytes``: of all records or those of ``generations``, with the
        snapshot or without.
        """
        cdef list indices = self._indices(generations)
        cdef Py_ssize_t listed = self._snapshot.count if snapshot else 0
        cdef Py_ssize_t room = STATE_HEAD + 10 * listed + RECORD_SIZE * len(indices)
        cdef uint8_t* start = <uint8_t*>PyMem_Malloc(room)
        cdef uint8_t* at
        if start is NULL:
            raise MemoryError()
        try:
            at = put_array(start, OF_STATE)
            at = put_uint(at, self._snapshot.version if snapshot else 0)
            at = put_uint(at, self._snapshot.generation_high if snapshot else 0)
            at = put_array(at, 2 * listed)
            for i in range(listed):
                at = put_uint(at, self._snapshot.generations[i])
                at = put_uint(at, self._snapshot.statuses[i])
            at = put_array(at, len(indices))
            for i in indices:
                at = put_entry(at, &self._entries[<Py_ssize_t>i])
            return PyBytes_FromStringAndSize(<const char*>start, at - start)
        finally:
            PyMem_Free(start)

    cdef list _indices(self, generations):
        cdef list indices
        cdef Py_ssize_t at = 0
        if generations is None:
            return list(range(self._count))
        indices = []
        for generation in sorted({index(generation) for generation in generations}):
            at = seek_entry(self._entries, self._count, at, generation)
            if at < self._count and self._entries[at].generation == generation:
                indices.append(at)
        return indices

    # --- joining ----------------------------------------------------------------------------------

    def merge(self, bytes state not None, bint snapshot=True):
        """Join with a state in its wire form; ``snapshot=False``: with its records only. Returns
        the generations whose record changed.

        :raises ProtocolError: it is not well-formed, or a bound would be exceeded. Nothing was
        changed.
        """
        cdef MemberTable other = MemberTable.__new__(MemberTable)
        other._parse(state)
        if not snapshot:
            other._snapshot.version = other._snapshot.generation_high = 0
            other._snapshot.count = 0
        return self._join(other)

    def put(
        self,
        uint64_t generation,
        uint32_t incarnation,
        uint8_t status,
        bytes metadata not None=b"",
        suspects=(),
    ):
        """Join with one record. Returns whether that changed anything.

        :raises ProtocolError: a bound would be exceeded.
        """
        cdef MemberTable other = MemberTable.__new__(MemberTable)
        other._allot(1)
        fill_entry(
            &other._entries[0],
            generation,
            incarnation,
            status,
            metadata,
            sorted(set(suspects))[:limits.MAX_SUSPECTS],
        )
        other._count = 1
        return bool(self._join(other))

    def put_snapshot(self, uint64_t version, uint64_t generation_high, members):
        """Join with a snapshot of (generation, status) pairs. Returns whether it was the larger.

        :raises ProtocolError: a bound would be exceeded.
        """
        cdef MemberTable other = MemberTable.__new__(MemberTable)
        fill_snapshot(&other._snapshot, version, generation_high, sorted(members))
        cdef bint newer = compare_snapshots(&other._snapshot, &self._snapshot) > 0
        self._join(other)
        return newer

    def replace_snapshot(self, uint64_t version, uint64_t generation_high, members):
        """Take a snapshot in place of a larger one, which the storage has disowned. This is no
        join.

        :raises ProtocolError: a bound would be exceeded; the old one is gone nevertheless.
        """
        self._snapshot.version = self._snapshot.generation_high = 0
        self._snapshot.count = 0
        self.put_snapshot(version, generation_high, members)

    cdef list _join(self, MemberTable other):
        # `other` is used up.
        cdef bint newer = compare_snapshots(&other._snapshot, &self._snapshot) > 0
        cdef Snapshot* winner = &other._snapshot if newer else &self._snapshot
        cdef list changed = []
        other._filter(winner)
        if newer or self._lacks(other):
            self._rebuild(other, winner, changed)
        else:
            self._update(other, changed)
        if newer:
            self._snapshot, other._snapshot = other._snapshot, self._snapshot
        return changed

    cdef bint _lacks(self, MemberTable other) noexcept:
        # Whether `other` has a record of a member of which we have none.
        cdef Py_ssize_t i, at = 0
        for i in range(other._count):
            at = seek_entry(self._entries, self._count, at, other._entries[i].generation)
            if at == self._count or self._entries[at].generation != other._entries[i].generation:
                return True
        return False

    cdef int _update(self, MemberTable other, list changed) except -1:
        # Where we have a record for each of theirs, nothing moves.
        cdef Py_ssize_t i, at = 0
        for i in range(other._count):
            at = seek_entry(self._entries, self._count, at, other._entries[i].generation)
            if join_entry(&self._entries[at], &other._entries[i]):
                changed.append(self._entries[at].generation)
        return 0

    cdef int _rebuild(self, MemberTable other, Snapshot* winner, list changed) except -1:
        # All records of both, in a new place; it becomes ours once no bound is exceeded.
        cdef MemberTable joined = MemberTable.__new__(MemberTable)
        cdef Py_ssize_t i = 0, k = 0, listed = 0
        joined._allot(self._count + other._count)
        while i < self._count or k < other._count:
            if k == other._count or (
                i < self._count
                and self._entries[i].generation < other._entries[k].generation
            ):
                if not admits(winner, &listed, self._entries[i].generation):
                    i += 1
                    continue
                joined._entries[joined._count] = self._entries[i]
                i += 1
            elif i == self._count or other._entries[k].generation < self._entries[i].generation:
                # is admitted, as `other` was filtered
                joined._entries[joined._count] = other._entries[k]
                changed.append(other._entries[k].generation)
                k += 1
            else:
                joined._entries[joined._count] = self._entries[i]
                if join_entry(&joined._entries[joined._count], &other._entries[k]):
                    changed.append(other._entries[k].generation)
                i, k = i + 1, k + 1
            joined._count += 1
        joined._check_bounds(winner)
        self._swap(joined)
        return 0

    cdef int _filter(self, Snapshot* winner) noexcept:
        # Drop the records that the snapshot does not admit.
        cdef Py_ssize_t i, kept = 0, listed = 0
        for i in range(self._count):
            if admits(winner, &listed, self._entries[i].generation):
                if kept != i:
                    self._entries[kept] = self._entries[i]
                kept += 1
        self._count = kept
        return 0

    cdef int _check_bounds(self, Snapshot* snapshot) except -1:
        cdef uint64_t first = snapshot.generation_high + 1
        cdef Py_ssize_t newcomers = self._count - seek_entry(self._entries, self._count, 0, first)
        if self._count > limits.MAX_MEMBERS:
            raise ProtocolError(f"{self._count} records would be more than {limits.MAX_MEMBERS}")
        if newcomers > limits.MAX_NEWCOMERS:
            raise ProtocolError(
                f"{newcomers} records of members newer than the snapshot would be more than "
                f"{limits.MAX_NEWCOMERS}"
            )
        return 0

    cdef Py_ssize_t _first_newcomer(self) noexcept:
        return seek_entry(self._entries, self._count, 0, self._snapshot.generation_high + 1)

    cdef int _swap(self, MemberTable other) noexcept:
        self._entries, other._entries = other._entries, self._entries
        self._count, other._count = other._count, self._count
        self._capacity, other._capacity = other._capacity, self._capacity
        return 0

    cdef int _allot(self, Py_ssize_t capacity) except -1:
        # Of a table that is being made: room for so many records.
        self._entries = <Entry*>PyMem_Malloc(max(1, capacity) * sizeof(Entry))
        if self._entries is NULL:
            raise MemoryError()
        self._capacity = capacity
        return 0

    # --- parsing ----------------------------------------------------------------------------------

    cdef int _parse(self, bytes state) except -1:
        cdef Cursor body
        cdef uint32_t fields
        cdef Py_ssize_t size = PyBytes_GET_SIZE(state)
        body.at = <const uint8_t*>PyBytes_AS_STRING(state)
        body.end = body.at + size
        if size > limits.MAX_STATE:
            raise ProtocolError(f"a state of {size} bytes is larger than {limits.MAX_STATE}")
        if take_array(&body, &fields) or fields != OF_STATE:
            raise ProtocolError("a state must be an array of 4")
        self._parse_snapshot(&body)
        self._parse_entries(&body)
        if body.at != body.end:
            raise ProtocolError("bytes follow the state")
        return 0

    cdef int _parse_snapshot(self, Cursor* body) except -1:
        cdef uint64_t version, generation_high, status
        cdef uint32_t fields
        cdef Py_ssize_t i
        if (
            take_uint(body, &version)
            or take_uint(body, &generation_high)
            or take_array(body, &fields)
            or fields % 2
        ):
            raise ProtocolError("a state must begin with a snapshot")
        if (
            version > LARGEST
            or generation_high > LARGEST
            or fields > 2 * <uint32_t>limits.MAX_LISTED
        ):
            raise ProtocolError("a snapshot exceeds its bounds")
        allot_snapshot(&self._snapshot, fields // 2)
        for i in range(fields // 2):
            if (
                take_uint(body, &self._snapshot.generations[i])
                or take_uint(body, &status)
                or status > DEAD
            ):
                raise ProtocolError("a snapshot must hold pairs of a generation and a status")
            self._snapshot.statuses[i] = <uint8_t>status
        self._snapshot.version, self._snapshot.generation_high = version, generation_high
        self._snapshot.count = fields // 2
        return check_snapshot(&self._snapshot)

    cdef int _parse_entries(self, Cursor* body) except -1:
        cdef uint32_t fields
        cdef uint64_t last = 0
        cdef Py_ssize_t i
        if take_array(body, &fields) or fields > <uint32_t>limits.MAX_MEMBERS:
            raise ProtocolError(f"a state has at most {limits.MAX_MEMBERS} records")
        self._allot(fields)
        for i in range(fields):
            if take_entry(body, &self._entries[i]) or self._entries[i].generation <= last:
                raise ProtocolError("a record is not well-formed, or not in its place")
            last = self._entries[i].generation
        self._count = fields
        return 0


# --- snapshots ------------------------------------------------------------------------------------

cdef int allot_snapshot(Snapshot* snapshot, Py_ssize_t count) except -1:
    snapshot.generations = <uint64_t*>PyMem_Malloc(max(1, count) * (sizeof(uint64_t) + 1))
    if snapshot.generations is NULL:
        raise MemoryError()
    snapshot.statuses = <uint8_t*>(snapshot.generations + count)
    return 0


cdef int fill_snapshot(
    Snapshot* snapshot, uint64_t version, uint64_t generation_high, list members
) except -1:
    cdef Py_ssize_t i, count = len(members)
    if count > limits.MAX_LISTED:
        raise ProtocolError(f"a snapshot of {count} members is larger than {limits.MAX_LISTED}")
    allot_snapshot(snapshot, count)
    for i in range(count):
        snapshot.generations[i], snapshot.statuses[i] = members[i]
    snapshot.version, snapshot.generation_high = version, generation_high
    snapshot.count = count
    return check_snapshot(snapshot)


cdef int check_snapshot(Snapshot* snapshot) except -1:
    cdef uint64_t last = 0
    cdef Py_ssize_t i
    for i in range(snapshot.count):
        if snapshot.statuses[i] > DEAD:
            raise ProtocolError(f"{snapshot.statuses[i]} is no status")
        if snapshot.generations[i] <= last or snapshot.generations[i] > snapshot.generation_high:
            raise ProtocolError("the members of a snapshot are not in order, or newer than it")
        last = snapshot.generations[i]
    return 0


cdef int compare_snapshots(const Snapshot* one, const Snapshot* other) noexcept:
    # Negative, 0 or positive. By version; what follows decides nothing between snapshots of one
    # storage.
    cdef Py_ssize_t i
    if one.version != other.version:
        return 1 if one.version > other.version else -1
    if one.generation_high != other.generation_high:
        return 1 if one.generation_high > other.generation_high else -1
    for i in range(min(one.count, other.count)):
        if one.generations[i] != other.generations[i]:
            return 1 if one.generations[i] > other.generations[i] else -1
        if one.statuses[i] != other.statuses[i]:
            return 1 if one.statuses[i] > other.statuses[i] else -1
    return (one.count > other.count) - (one.count < other.count)


cdef bint admits(const Snapshot* snapshot, Py_ssize_t* at, uint64_t generation) noexcept:
    # Whether a record of this member may stay. `at` is where the search begins, for generations in
    # ascending order.
    at[0] = seek_listed(snapshot, at[0], generation)
    if at[0] < snapshot.count and snapshot.generations[at[0]] == generation:
        return snapshot.statuses[at[0]] <= CONDEMNED
    return generation > snapshot.generation_high


cdef Py_ssize_t seek_listed(
    const Snapshot* snapshot, Py_ssize_t start, uint64_t generation
) noexcept:
    # The first place from `start` on whose generation is not smaller: by doubling steps, then by
    # halving.
    cdef Py_ssize_t low = start, high = start, step = 1, middle
    while high < snapshot.count and snapshot.generations[high] < generation:
        low = high + 1
        high += step
        step *= 2
    high = min(high, snapshot.count)
    while low < high:
        middle = (low + high) // 2
        if snapshot.generations[middle] < generation:
            low = middle + 1
        else:
            high = middle
    return low


# --- records --------------------------------------------------------------------------------------

cdef Py_ssize_t seek_entry(
    const Entry* entries, Py_ssize_t count, Py_ssize_t start, uint64_t generation
) noexcept:
    # As seek_listed.
    cdef Py_ssize_t low = start, high = start, step = 1, middle
    while high < count and entries[high].generation < generation:
        low = high + 1
        high += step
        step *= 2
    high = min(high, count)
    while low < high:
        middle = (low + high) // 2
        if entries[middle].generation < generation:
            low = middle + 1
        else:
            high = middle
    return low


cdef bint join_entry(Entry* into, const Entry* other) noexcept:
    # Whether that changed anything.
    cdef bint changed
    if other.incarnation != into.incarnation:
        if other.incarnation > into.incarnation:
            into[0] = other[0]
            return True
        return False
    changed = says_more(other, into)
    if changed:
        into.status, into.size = other.status, other.size
        memcpy(into.metadata, other.metadata, other.size)
    return join_suspects(into, other) or changed


cdef bint says_more(const Entry* one, const Entry* other) noexcept:
    # Whether the pair (status, metadata) is larger.
    cdef int order
    if one.status != other.status:
        return one.status > other.status
    order = memcmp(one.metadata, other.metadata, min(one.size, other.size))
    return order > 0 or (order == 0 and one.size > other.size)


cdef bint join_suspects(Entry* into, const Entry* other) noexcept:
    # The smallest of the union. Whether that changed anything.
    cdef uint64_t union_[limits.MAX_SUSPECTS]
    cdef int i = 0, k = 0, count = 0
    if other.suspects == 0:
        return False
    while count < limits.MAX_SUSPECTS and (i < into.suspects or k < other.suspects):
        if k == other.suspects or (i < into.suspects and into.suspect[i] <= other.suspect[k]):
            if k < other.suspects and into.suspect[i] == other.suspect[k]:
                k += 1
            union_[count] = into.suspect[i]
            i += 1
        else:
            union_[count] = other.suspect[k]
            k += 1
        count += 1
    if count == into.suspects and memcmp(union_, into.suspect, count * sizeof(uint64_t)) == 0:
        return False
    into.suspects = count
    memcpy(into.suspect, union_, count * sizeof(uint64_t))
    return True


cdef uint64_t digest(const Entry* entry) noexcept:
    cdef uint64_t value = mix(mix(entry.generation, entry.incarnation), entry.status)
    cdef int i
    for i in range(entry.size):
        value = mix(value, entry.metadata[i])
    value = mix(value, entry.size)
    for i in range(entry.suspects):
        value = mix(value, entry.suspect[i])
    return value


cdef inline uint64_t mix(uint64_t value, uint64_t more) noexcept:
    # One round of splitmix64.
    value = (value ^ more) + <uint64_t>0x9e3779b97f4a7c15u
    value = (value ^ (value >> 30)) * <uint64_t>0xbf58476d1ce4e5b9u
    value = (value ^ (value >> 27)) * <uint64_t>0x94d049bb133111ebu
    return value ^ (value >> 31)


cdef int fill_entry(
    Entry* entry,
    uint64_t generation,
    uint32_t incarnation,
    uint8_t status,
    bytes metadata,
    list suspects,
) except -1:
    cdef Py_ssize_t i, size = PyBytes_GET_SIZE(metadata)
    if not 1 <= generation <= LARGEST or status > DRAINING or size > limits.MAX_METADATA:
        raise ProtocolError("a record exceeds its bounds")
    entry.generation, entry.incarnation, entry.status = generation, incarnation, status
    entry.size, entry.suspects = size, len(suspects)
    memcpy(entry.metadata, PyBytes_AS_STRING(metadata), size)
    for i in range(len(suspects)):
        entry.suspect[i] = suspects[i]
        if not 1 <= entry.suspect[i] <= LARGEST:
            raise ProtocolError(f"{suspects[i]} is no generation")
    return 0


cdef int take_entry(Cursor* body, Entry* entry) noexcept:
    # 0, or -1 where there is something else.
    cdef uint64_t incarnation, status
    cdef const uint8_t* metadata
    cdef Py_ssize_t size
    cdef uint32_t fields
    if take_array(body, &fields) or fields != OF_RECORD:
        return -1
    if (
        take_uint(body, &entry.generation)
        or take_uint(body, &incarnation)
        or take_uint(body, &status)
    ):
        return -1
    if entry.generation > LARGEST or incarnation > <uint64_t>0xffffffffu or status > DRAINING:
        return -1
    if take_bin_or_nil(body, &metadata, &size) or metadata is NULL or size > limits.MAX_METADATA:
        return -1
    entry.incarnation, entry.status = <uint32_t>incarnation, <uint8_t>status
    entry.size = <uint8_t>size
    memcpy(entry.metadata, metadata, size)
    return take_suspects(body, entry)


cdef int take_suspects(Cursor* body, Entry* entry) noexcept:
    cdef uint64_t last = 0
    cdef uint32_t count, i
    if take_array(body, &count) or count > limits.MAX_SUSPECTS:
        return -1
    for i in range(count):
        if (
            take_uint(body, &entry.suspect[i])
            or entry.suspect[i] <= last
            or entry.suspect[i] > LARGEST
        ):
            return -1
        last = entry.suspect[i]
    entry.suspects = count
    return 0


cdef uint8_t* put_entry(uint8_t* at, const Entry* entry) noexcept:
    cdef int i
    at = put_uint(put_array(at, OF_RECORD), entry.generation)
    at = put_uint(put_uint(at, entry.incarnation), entry.status)
    at = put_bin(at, <const char*>entry.metadata, entry.size)
    at = put_array(at, entry.suspects)
    for i in range(entry.suspects):
        at = put_uint(at, entry.suspect[i])
    return at


cdef object make_record(const Entry* entry):
    return Record(
        entry.generation,
        entry.incarnation,
        entry.status,
        PyBytes_FromStringAndSize(<const char*>entry.metadata, entry.size),
        tuple([entry.suspect[i] for i in range(entry.suspects)]),
    )
