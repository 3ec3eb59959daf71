"""rio-rs: the same with membership and placement on an SQLite file."""

from __future__ import annotations

from functools import partial

from bench.peers import rio_rs
from bench.peers.worker import KINDS_OF_WORK

TITLE = "rio-rs 0.7.2, storages on SQLite"
LEFT_OUT = rio_rs.LEFT_OUT
WORKS = KINDS_OF_WORK

serve = partial(rio_rs.serve, storages="sqlite")
drive = partial(rio_rs.drive, storages="sqlite")
