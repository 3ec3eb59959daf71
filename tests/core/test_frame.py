"""Frames: the same however the bytes are split, at every size, from every peer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from random import Random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rio._core.calls import ClientHalf
from rio._core.frame import (
    DEFAULT_FRAME_LIMIT,
    HARD_FRAME_LIMIT,
    FrameReader,
    FrameWriter,
    ReceiveBuffer,
)
from rio.errors import FrameTooLarge
from tests.core import twin
from tests.core.node import frames
from tests.effort import examples

LIMIT = 70_000
ROOMY, LARGE = 256 * 1024, 32 * 1024  # as in limits.pxd
SIZES = [
    0,
    1,
    2,
    15,
    16,
    31,
    32,
    127,
    128,
    255,
    256,
    4095,
    4096,
    16_379,
    16_380,
    16_384,
    65_535,
    65_536,
    LIMIT - 1,
    LIMIT,
]

some_examples = settings(max_examples=examples(80), deadline=None)
bodies = st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(SIZES).map(bytes)), max_size=12)


def pieces(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut the stream at these places."""
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


def through_the_buffer(reader: FrameReader, data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """Write into the reader's own room, at most so many bytes at a time, as a transport does."""
    found, wanted = [], iter(sizes)
    while data:
        room = memoryview(reader)
        taken = min(len(room), len(data), next(wanted, len(data)))
        room[:taken] = data[:taken]
        room.release()
        reader.advance(taken)
        found += list(reader)
        data = data[taken:]
    return found


@given(bodies, st.lists(st.integers(0, 2**20), max_size=20))
@some_examples
def test_any_split_yields_the_same_frames(bodies: list[bytes], cuts: list[int]) -> None:
    reader, plain = FrameReader(LIMIT), twin.FrameReader(LIMIT)
    found = []
    for piece in pieces(frames(*bodies), cuts):
        complete = reader.feed(piece)
        assert complete == plain.feed(piece)
        assert reader.buffered == plain.buffered
        found += complete
    assert found == bodies


@given(bodies, st.lists(st.integers(1, 9000), max_size=20))
@some_examples
def test_any_sizes_of_reads_into_the_readers_own_buffer_yield_the_same_frames(
    bodies: list[bytes], sizes: list[int]
) -> None:
    reader = FrameReader(LIMIT)
    assert through_the_buffer(reader, frames(*bodies), sizes) == bodies
    assert reader.buffered == 0


def test_one_byte_at_a_time() -> None:
    reader = FrameReader(LIMIT)
    wanted = [bytes([size % 251]) * size for size in (0, 1, 5, 300, 17_000)]
    stream = frames(*wanted)
    assert [
        body for at in range(len(stream)) for body in reader.feed(stream[at : at + 1])
    ] == wanted


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_any_size_up_to_the_limit_is_taken(size: int) -> None:
    body = bytes(at % 256 for at in range(size))
    assert FrameReader(LIMIT).feed(frames(body, b"next")) == [body, b"next"]


@pytest.mark.parametrize("split", [1, 3, 4, 5])
@pytest.mark.parametrize("size", [LIMIT + 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_header_that_announces_more_than_the_limit_is_refused_before_its_body(
    size: int, split: int
) -> None:
    reader = FrameReader(LIMIT)
    stream = frames(b"first") + size.to_bytes(4, "big") + b"x" * 100
    start = len(frames(b"first")) + split
    with pytest.raises(FrameTooLarge, match=f"{size} bytes"):
        assert reader.feed(stream[:start]) + reader.feed(stream[start:]) == []
    with pytest.raises(FrameTooLarge):
        next(reader)
    assert reader.capacity <= ROOMY


def test_what_a_header_announces_takes_no_memory_until_it_comes() -> None:
    reader = FrameReader(HARD_FRAME_LIMIT)
    assert reader.feed(HARD_FRAME_LIMIT.to_bytes(4, "big") + b"x") == []
    assert len(memoryview(reader)) > 0
    assert reader.capacity <= 2 * ROOMY


def test_a_frame_that_the_shared_buffer_can_hold_takes_no_other_memory() -> None:
    reader, body = FrameReader(DEFAULT_FRAME_LIMIT), bytes(ROOMY // 2)
    for piece in pieces(frames(*[body] * 5), range(0, 4 * ROOMY, 30_000)):
        assert set(through_the_buffer(reader, piece, [])) <= {body}
        assert reader.capacity == 0


@pytest.mark.parametrize("size", [300_000, 3_000_000])
def test_memory_is_given_back_after_a_large_frame(size: int) -> None:
    reader = FrameReader(DEFAULT_FRAME_LIMIT)
    for piece in pieces(frames(bytes(size)), range(0, size, 65_536)):
        reader.feed(piece)
        assert reader.capacity <= max(2 * ROOMY, 2 * size)
    reader.relax()
    assert len(memoryview(reader)) > 0
    assert reader.capacity >= size, "it was needed a moment ago"
    reader.relax()
    assert reader.capacity == 0
    assert len(memoryview(reader)) == ROOMY
    assert reader.capacity == 0


streams = st.lists(
    st.tuples(bodies, st.lists(st.integers(1, 200_000), max_size=10)), min_size=2, max_size=4
)


@given(
    streams,
    st.lists(st.sampled_from(["read", "relax", "end"]), max_size=60),
    st.randoms(use_true_random=False),
)
@some_examples
def test_readers_that_share_a_buffer_do_not_mix_their_streams(
    streams: list[tuple[list[bytes], list[int]]], steps: list[str], random: Random
) -> None:
    shared = ReceiveBuffer()
    readers = [FrameReader(LIMIT, shared) for _ in streams]
    left = [frames(*bodies) for bodies, _ in streams]
    found: list[list[bytes]] = [[] for _ in streams]

    def read(number: int, size: int) -> None:
        found[number] += through_the_buffer(readers[number], left[number][:size], [])
        left[number] = left[number][size:]

    for step in steps:
        number = random.randrange(len(streams))
        if step == "read":
            read(number, random.choice(streams[number][1] or [1]))
        elif step == "relax":
            readers[number].relax()
        else:  # a connection breaks, and another takes its place
            readers[number] = FrameReader(LIMIT, shared)
            left[number], found[number] = frames(*streams[number][0]), []
    for number, (bodies, _) in enumerate(streams):
        read(number, len(left[number]))
        assert found[number] == bodies
        assert readers[number].buffered == 0


def test_frames_that_were_read_and_not_taken_outlive_the_next_reader() -> None:
    shared = ReceiveBuffer()
    first, second = FrameReader(LIMIT, shared), FrameReader(LIMIT, shared)
    stream = frames(b"one", b"two", b"three")
    room = memoryview(first)
    room[: len(stream)] = stream
    room.release()
    first.advance(len(stream))
    assert next(first) == b"one"
    assert through_the_buffer(second, frames(b"four"), []) == [b"four"]
    assert first.capacity == len(frames(b"two", b"three"))
    assert list(first) == [b"two", b"three"]


def test_bytes_that_are_fed_leave_the_shared_buffer_alone() -> None:
    shared = ReceiveBuffer()
    first, second = FrameReader(LIMIT, shared), FrameReader(LIMIT, shared)
    stream = frames(b"one", b"two")
    room = memoryview(first)
    room[: len(stream)] = stream
    room.release()
    first.advance(len(stream))
    assert second.feed(frames(b"three")) == [b"three"]
    assert first.capacity == 0
    assert list(first) == [b"one", b"two"]


def test_a_view_that_is_kept_shows_memory_that_lives_and_is_not_the_readers_any_more() -> None:
    reader, body = FrameReader(DEFAULT_FRAME_LIMIT), bytes(range(256)) * 2000
    views = []
    for piece in pieces(frames(body, body), range(0, 2 * len(body), 50_000)):
        views.append(memoryview(reader))
        assert set(reader.feed(piece)) <= {body}
    left_behind = [view for view in views if view.obj is not memoryview(reader).obj]
    assert left_behind
    del reader
    for view in left_behind:
        view[:] = bytes(len(view))


def test_a_reader_may_be_fed_its_own_room() -> None:
    reader = FrameReader(LIMIT)
    room = memoryview(reader)
    room[:9] = frames(b"first")
    assert reader.feed(room[:9]) == [b"first"]


def test_what_has_begun_to_arrive_is_kept_however_long_the_rest_takes() -> None:
    reader, body = FrameReader(DEFAULT_FRAME_LIMIT), bytes(range(256)) * 1000
    assert reader.feed(frames(body)[:200_000]) == []
    for _ in range(3):
        reader.relax()
    assert reader.feed(frames(body)[200_000:]) == [body]


@given(bodies, st.lists(st.integers(1, 200_000), max_size=30))
@some_examples
def test_memory_stays_bounded_by_the_limit_whatever_comes(
    bodies: list[bytes], sizes: list[int]
) -> None:
    reader = FrameReader(LIMIT)
    data = frames(*bodies) * 3
    for size in [*sizes, len(data)]:
        through_the_buffer(reader, data[:size], [])
        data = data[size:]
        assert reader.capacity <= 2 * ROOMY


@given(bodies, st.integers(1, 2**20))
@some_examples
def test_a_truncated_frame_is_kept_until_its_rest_comes(bodies: list[bytes], cut: int) -> None:
    stream = frames(*bodies, b"last one")
    missing = 1 + cut % len(frames(b"last one"))
    reader = FrameReader(LIMIT)
    assert reader.feed(stream[:-missing]) == bodies
    assert reader.buffered == len(frames(b"last one")) - missing
    assert reader.feed(stream[-missing:]) == [b"last one"]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
@settings(max_examples=examples(300), deadline=None)
def test_garbage_is_frames_or_too_large_and_never_anything_else(
    garbage: bytes, cuts: list[int]
) -> None:
    found: list[list[object]] = []
    for reader in FrameReader(LIMIT), twin.FrameReader(LIMIT):
        outcome: list[object] = []
        for piece in pieces(garbage, cuts):
            try:
                outcome += reader.feed(piece)
            except FrameTooLarge as error:
                outcome.append(error.message)
                break
        found.append(outcome)
    compiled, plain = found
    assert compiled[-1:] == plain[-1:]


@pytest.mark.parametrize(
    "data",
    [b"\x00\x00\x00\x01x", bytearray(b"\x00\x00\x00\x01x"), memoryview(b"\x00\x00\x00\x01x")],
)
def test_anything_with_bytes_in_a_row_can_be_fed(data: bytes) -> None:
    assert FrameReader().feed(data) == [b"x"]


def test_what_is_no_row_of_bytes_is_refused() -> None:
    with pytest.raises((TypeError, BufferError)):
        FrameReader().feed("text")  # type: ignore[arg-type]
    with pytest.raises((TypeError, BufferError)):
        FrameReader().feed(memoryview(b"abcd")[::2])


@pytest.mark.parametrize("limit", [0, -1, HARD_FRAME_LIMIT + 1])
def test_a_limit_that_cannot_be_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="frame limit"):
        FrameReader(limit)


@pytest.mark.parametrize("size", [-1, 10**9])
def test_bytes_that_cannot_have_been_written_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="cannot have been written"):
        FrameReader().advance(size)


def test_a_frame_may_be_as_large_as_the_hard_limit() -> None:
    reader = FrameReader(HARD_FRAME_LIMIT)
    body = bytes(HARD_FRAME_LIMIT)
    [found] = through_the_buffer(reader, frames(body), [])
    assert found == body


# --- writing --------------------------------------------------------------------------------------

large = st.sampled_from([LARGE - 20, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE]).map(bytes)
values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**64 - 1),
    st.text(max_size=300),
    st.binary(max_size=300),
    large,
)
responses = st.tuples(st.just(2), st.integers(0, 2**64 - 1), values)


@given(st.lists(st.one_of(st.binary(max_size=100), st.sampled_from(SIZES).map(bytes), responses)))
@some_examples
def test_frames_leave_in_one_piece_and_the_twin_writes_the_same(
    wanted: list[bytes | tuple[int, int, object]],
) -> None:
    writers = FrameWriter(), twin.FrameWriter()
    for frame in wanted:
        for writer in writers:
            if isinstance(frame, bytes):
                writer.put(frame)
            else:
                writer.put_response(frame[1], msgpack.packb(frame[2]))
    sizes = [len(writer) for writer in writers]
    compiled, plain = (writer.take() for writer in writers)
    assert compiled == plain
    assert sizes == [len(compiled)] * 2
    assert (len(writers[0]), writers[0].take()) == (0, b"")
    found = FrameReader().feed(compiled)
    assert [
        body if isinstance(frame, bytes) else tuple(msgpack.unpackb(body))
        for frame, body in zip(wanted, found, strict=True)
    ] == wanted


class Pieces:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)


async def test_a_large_reply_is_not_copied_and_leaves_in_its_turn() -> None:
    connection = ClientHalf(asyncio.get_running_loop())
    connection.transport = wire = Pieces()
    payload = msgpack.packb(bytes(LARGE))
    for each in (msgpack.packb(1), payload, msgpack.packb(2)):
        connection.writer.put_response(7, each)
    connection.flush()
    assert any(piece is payload for piece in wire.pieces)
    assert [msgpack.unpackb(body)[2] for body in FrameReader().feed(b"".join(wire.pieces))] == [
        1,
        bytes(LARGE),
        2,
    ]
    assert len(connection.writer) == 0


@pytest.mark.parametrize("id", [-1, 2**64])
def test_an_id_that_fits_in_no_64_bits_is_refused(id: int) -> None:
    with pytest.raises(OverflowError):
        FrameWriter().put_response(id, b"")
