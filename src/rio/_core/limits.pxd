# cython: language_level=3
"""Every limit of the core. Sizes are in bytes where nothing else is said.

A module that shows one of them to Python says so under its own name, for example
``rio._core.wire.MAX_ID``.
"""

cdef enum:
    # --- names, as UTF-8
    MAX_TYPE_NAME = 128             # of an object's type, or of a message
    MAX_ID = 512                    # of an object

    # --- frames
    FRAME_HEADER = 4                # the size of the body that follows
    DEFAULT_FRAME_LIMIT = 4 * 1024 * 1024
    HARD_FRAME_LIMIT = 64 * 1024 * 1024
    REQUEST_HEAD = 64               # a REQUEST without its names, context and payload takes less
    RESPONSE_HEAD = 32              # a RESPONSE without its payload takes less

    # --- buffers
    ROOMY = 256 * 1024              # how much room a read is offered
    LEAST_ROOM = 4 * 1024           # a read is never offered less
    LEAST_WRITER = 1024             # the first buffer of a writer
    LARGE_PAYLOAD = 32 * 1024       # from here on a payload is sent as it is, and not copied
    UNSENT_LIMIT = 64 * 1024 * 1024  # unsent, from which on a client sends a server no more calls
    HIGH_WATER = 1024 * 1024        # unsent, from which on a server runs no more calls of a client
    UNCOUNTED = 16 * 1024           # written, after which a server counts what of it is unsent
    HELD_LIMIT = 64 * 1024 * 1024   # that a node holds for all its peers
    SMALL_REPLY = 1024              # which an error in its place would not make smaller
    LARGE_FRAME = 64 * 1024         # from here on there must be room for it before it is read

    # --- shares
    CLIENT_SHARE = 16               # times what is free of something, that a client may have of it
    NODE_RESERVE = 16               # one of so many parts of a limit is for nodes only

    # --- calls and turns
    DEFAULT_TIMEOUT = 30            # seconds, of a call that says nothing else
    MAX_TIMEOUT = 300               # seconds, of a call that says more
    WAITING_LIMIT = 1024            # turns that wait for one object
    IN_FLIGHT_LIMIT = 8192          # turns that wait or run on one node
    ROUTE_LIMIT = 200_000           # objects whose place a client remembers
    # Answers that wait for the rest of a read: the client works on the first ones while the server
    # goes on (bench/test_ping.py).
    FLUSH_EVERY = 16
    # Calls that a server in this process is given at once, before the loop has its turn.
    HANDED_OVER = 32

    # --- the member table
    MAX_MEMBERS = 1024              # records
    MAX_LISTED = 2048               # members in a snapshot, those that have ended included
    MAX_NEWCOMERS = 64              # records of members that are newer than the snapshot
    MAX_SUSPECTS = 8                # of one member
    MAX_METADATA = 128              # that a member may tell about itself
    MAX_STATE = 256 * 1024          # a whole state, encoded
