# cython: language_level=3
"""What the two halves of a connection share: bytes come in and become frames, and frames leave
together.

This module knows no socket and no event loop. :class:`rio._core.dispatch.ServerHalf` and
:class:`rio._core.calls.ClientHalf` say what a frame means.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from rio._core.frame cimport FrameReader, FrameWriter, ReceiveBuffer
from rio._core.msgpack cimport bytes_of
from rio._core.spin cimport Spinner
from rio._core.wire cimport Frame, take_head


cdef class Connection:
    """One half of a connection.

    Its owner (a subclass in Python) sets ``transport``, and ``spinner`` if the loop is to stay
    awake for what comes next: it is told of each write and read. The owner's
    ``frame_received(kind, id, body)`` gets every frame that the half does not handle itself; its
    ``break_off(error)`` ends the connection to a peer that does not speak the protocol, and one on
    which something of ours has failed.
    """

    def __init__(self, Py_ssize_t frame_limit, ReceiveBuffer receive_buffer):
        self.reader = FrameReader(frame_limit, receive_buffer)
        self.writer = FrameWriter()
        self.send_limit = frame_limit
        self.transport = None
        self.spinner = None
        self.held = self.is_encrypted = self._is_put_off = False
        self._flush_is_due = False
        self._is_receiving = False
        self._received = None

    def get_buffer(self, Py_ssize_t sizehint):
        """Where the transport may write: the reader's free room."""
        # asyncio's TLS writes into slices of it
        return memoryview(self.reader) if self.is_encrypted else self.reader

    def buffer_updated(self, Py_ssize_t nbytes):
        """Handle all whole frames that have arrived."""
        self._note_arrived(nbytes)
        self._read()

    def receive(self, bytes data not None):
        """Handle these bytes, as if the transport had read them. What comes while others are
        handled waits until those are.
        """
        if self._is_receiving:
            if self._received is None:
                self._received = []
            self._received.append(data)
            return
        self._is_receiving = True
        try:
            self._take_in(data)
            while self._received is not None:
                received, self._received = self._received, None
                for data in received:
                    self._take_in(data)
        finally:
            self._is_receiving = False

    cdef int _take_in(self, bytes data) except -1:
        cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), taken = 0
        while taken < size and self.transport is not None:
            taken += self.reader._copy(start + taken, size - taken)
            self._read()
        return 0

    def put(self, bytes body not None):
        """Write one frame. It leaves with the others of this turn of the loop."""
        self.writer.put(body)
        self._flush_soon()

    def flush(self):
        """Give what is written to the transport now."""
        self._flush()

    def relax(self):
        """Give back the memory that was not needed since the last call. Call it now and then."""
        self.reader.relax()
        self.writer.relax()

    cdef int _read(self) except -1:
        cdef Frame frame
        try:
            while not self.held and not self._is_put_off and self.reader._next(&frame.whole):
                take_head(&frame)
                self._frame(&frame)
        except Exception as error:
            # What is left of these bytes cannot be read, whatever the reason.
            self.break_off(error)
        return 0

    cdef int _frame(self, Frame* frame) except -1:
        # One frame has arrived whole. Its bytes may move as soon as any Python code runs, because
        # that code may read on.
        raise NotImplementedError

    cdef int _leave_to_owner(self, const Frame* frame) except -1:
        self.frame_received(frame.kind, frame.id, bytes_of(&frame.whole))
        return 0

    cdef int _flush_soon(self) except -1:
        # Something is in the writer: see to it that _flush is called soon.
        raise NotImplementedError

    cdef int _flush(self) except -1:
        cdef Spinner spinner
        self._flush_is_due = False
        if self.writer._waits() and self.transport is not None:
            self.written += self.writer._count()
            self.writer._send_to(self.transport)
            if self.spinner is not None:
                spinner = self.spinner  # which the loop might take from this connection
                spinner.note_write()
        return 0
