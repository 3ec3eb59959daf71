"""One server process, from its start to its drained end."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from rio._core.clock import now
from rio.backoff import backoff, make_rng
from rio.cli.options import Arguments
from rio.cluster.config import ClusterConfig
from rio.errors import StorageUnavailable
from rio.logs import Logger
from rio.objects.registry import Registry
from rio.server.config import ServerConfig
from rio.server.ending import take
from rio.server.server import Server
from rio.server.signals import stop_signals

logger = Logger("rio.cli")

EVICTED = 70
"""The exit code of a server that the cluster declared dead (``EX_SOFTWARE``)."""
REMOTE_STOP = 75
"""The exit code of a server that a client has stopped: to whoever watches the process it did not
end by itself (``EX_TEMPFAIL``).
"""
PARENT = "RIO_PARENT_PID"
"""The variable that tells a server process which process is its parent."""
STOP_TIMEOUT = 45.0
"""Seconds after which a server process that was asked to stop and has not ended is killed: longer
than it drains, and leaves a cluster whose storage is slow.
"""
RETRY_INTERVAL = 1.0
"""Seconds between two attempts to open a storage that is not up yet, at most."""
PR_SET_PDEATHSIG = 1
"""Of ``prctl``: the signal to send when the parent ends."""


async def serve(registry: Registry, cluster: ClusterConfig, arguments: Arguments) -> int:
    """Run a server until a signal, a client or the cluster ends it. Returns the exit code.

    :raises NodeEvicted: the cluster declared it dead.
    :raises asyncio.CancelledError: a signal came before the server was ready.
    """
    storage = arguments.open_storage(arguments.storage)
    server = Server(
        registry,
        storage=storage,
        address=arguments.address,
        advertise=arguments.advertise,
        http=arguments.http,
        cluster=cluster,
        version=arguments.version,
        labels=arguments.label,
        config=ServerConfig(
            idle_after=arguments.idle_after,
            max_objects=arguments.max_objects,
            socket_mode=arguments.socket_mode,
            max_memory=arguments.max_memory,
        ),
        security=arguments.security,
        insecure=arguments.insecure,
        latency=arguments.latency,
    )
    task = asyncio.current_task()
    assert task is not None
    serves = False

    def stop() -> None:
        if serves:
            server.request_stop()
        else:
            task.cancel()

    at_once = end_in_time if PARENT in os.environ else None
    with keep_exit_code() as note_end, stop_signals(stop, at_once):
        try:
            await _open_storages(server, arguments.wait)
            await server.bind()
            # What is in memory now stays until the end: the garbage collector need not look at it.
            gc.freeze()
            serves = True
            _announce(server)
            await server.run(handle_signals=False)
        finally:
            await server.stop()
            await take("closing the storages", storage.close)
            note_end()
    return REMOTE_STOP if server.was_stopped_remotely else 0


@contextmanager
def keep_exit_code() -> Iterator[Callable[[], None]]:
    """Let a SIGTERM that comes when all is done not end the process instead of its own exit code,
    which tells whoever watches it why it ended. Call what this yields when all is done.
    """
    is_done = False

    def take(number: int, frame: FrameType | None) -> None:
        if not is_done:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def note_end() -> None:
        nonlocal is_done
        is_done = True

    signal.signal(signal.SIGTERM, take)
    try:
        yield note_end
    finally:
        is_done = True


async def _open_storages(server: Server, patience: float) -> None:
    """Prepare the server, and wait so many seconds for a storage that does not answer yet."""
    end, failures, rng = now() + patience, 0, make_rng()
    while True:
        try:
            return await server.prepare()
        except StorageUnavailable as error:
            failures += 1
            pause = backoff(failures, 0.1, RETRY_INTERVAL, rng)
            if now() + pause > end:
                raise
            if failures == 1:
                logger.warning("waiting up to %g s for the storage: %s", patience, error)
        await asyncio.sleep(pause)


def end_in_time() -> None:
    """What a server does at once that a supervisor started, when it is asked to stop: it no longer
    follows its parent, and ends after :data:`STOP_TIMEOUT` even if its loop is blocked, with the
    stacks of its threads on stderr. A thread of the interpreter's own does that, without its lock.
    """
    _ask_for_the_end_of_the_parent(0)
    faulthandler.dump_traceback_later(STOP_TIMEOUT, exit=True, file=sys.__stderr__ or sys.stderr)


def follow_parent(environ: Mapping[str, str]) -> None:
    """If a supervisor started this process: drain and stop when the supervisor has ended, in
    whichever way. Only Linux tells a process that its parent has ended.
    """
    parent = environ.get(PARENT)
    if parent is None:
        return
    _ask_for_the_end_of_the_parent(signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("rio: the parent process has ended")


def _ask_for_the_end_of_the_parent(number: int) -> None:
    """Have the system send this signal when the parent has ended; none, if it is 0.

    It sends one for each thread of the parent: whoever takes the first has to refuse the others.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def _announce(server: Server) -> None:
    print(f"listening on {server.address} (member {server.generation})", flush=True)
    if server.http_url:
        print(f"showing the members on {server.http_url}/members", flush=True)
