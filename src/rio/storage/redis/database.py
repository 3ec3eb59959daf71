"""One database of a Redis server, for roles to share."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlencode

from rio.contracts.roles import ROLES
from rio.errors import ConfigurationError, StorageClosed
from rio.logs import Logger
from rio.storage._migrations import SchemaStatus
from rio.storage._shared import SharedDatabase
from rio.storage._url_form import show_url, split_url
from rio.storage.redis._dialer import RedisDialer
from rio.storage.redis._lane import RedisLane
from rio.storage.redis._schema import migrate, prepare_schema, read_status
from rio.storage.redis._scripts import TELL_SETTINGS

logger = Logger("rio.storage")

_RIGHT = "redis://user:password@host:port/0"
RECHECK_INTERVAL = 30.0
"""Seconds after which a server's settings are looked at again."""
LEASE_LANE = "lease"
"""The lane of renewals. Every other lane has the name of the role that it serves."""


class RedisStatistics(NamedTuple):
    """What a database has done since it was opened."""

    rows: int
    """Operations that went to the server."""
    commands: int
    """The commands in which they went: fewer than ``rows`` if they were gathered."""


class RedisDatabase(SharedDatabase):
    """One database of a Redis server, for roles to share.

    ``url``: ``redis://user:password@host:port/0``, or ``rediss://`` for TLS, with options of
    redis-py. ``namespace``: the beginning of all keys; clusters that share a server need one each.
    ``durable``: whether to refuse a server without an append-only file, which forgets everything
    when it is restarted, and one that removes keys when its memory is full; with ``None``,
    ``require_durable_storage`` of the cluster decides.

    The first of its roles that is prepared opens it, the last that is closed closes it. A write and
    its answers may take 2 seconds.

    :raises ConfigurationError: the URL is none of Redis, or the namespace is empty or has braces.
    """

    _lanes: dict[str, RedisLane] | None = None
    _checked_at = 0.0
    """When the settings of the server were looked at, by the clock of the event loop."""
    why_not_durable = ""
    """Why the server may forget what it has acknowledged; known when the database is open."""

    def __init__(self, url: str, /, *, namespace: str = "rio", durable: bool | None = None) -> None:
        super().__init__()
        parts = split_url(url, _RIGHT)
        if parts.scheme not in ("redis", "rediss"):
            raise ConfigurationError(f"{show_url(url)!r} is no URL of Redis: write {_RIGHT}")
        if not re.fullmatch(r"/?|/\d+", parts.path, re.ASCII):
            raise ConfigurationError(
                f"{show_url(url)!r}: the databases of Redis are numbers, not {parts.path!r}:"
                f" write {_RIGHT}; to keep clusters apart give each a ?namespace="
            )
        if not namespace or set(namespace) & set("{}"):
            raise ConfigurationError(
                f"the namespace {namespace!r} must not be empty and have no braces"
            )
        self.namespace = namespace
        """The beginning of all keys."""
        self._durable = durable
        self._dialer = RedisDialer(url)

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """The database that a URL names. ``?namespace=`` and ``?durable=yes`` or ``no`` stand for
        the keywords; all other options are those of redis-py that concern the connection.

        :raises ConfigurationError: the URL is none of Redis, or an option is not known.
        """
        parts = split_url(url, _RIGHT)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        namespace, durable = options.pop("namespace", "rio"), options.pop("durable", None)
        if durable not in ("yes", "no", None):
            raise ConfigurationError(f"durable must be yes or no, got {durable!r}")
        return cls(
            f"{url.partition('?')[0]}?{urlencode(options)}",
            namespace=namespace,
            durable=None if durable is None else durable == "yes",
        )

    @property
    def _history(self) -> str:
        return self._dialer.history

    def __repr__(self) -> str:
        return f"RedisDatabase({self._dialer.server!r}, namespace={self.namespace!r})"

    def statistics(self) -> RedisStatistics:
        """What the database has done since it was opened.

        :raises StorageClosed: the database is not open.
        """
        lanes = self._require_lanes().values()
        return RedisStatistics(
            sum(lane.rows for lane in lanes), sum(lane.commands for lane in lanes)
        )

    def _require_lanes(self) -> dict[str, RedisLane]:
        """The connections, by their names.

        :raises StorageClosed: the database is not open.
        """
        if self._lanes is None:
            raise StorageClosed(f"{self!r} is not open: call prepare() on a role that uses it")
        return self._lanes

    def _make_ready(self, lane: str) -> None:
        """Have a lane connect, so that its first operation need not wait for that."""
        if self._lanes is not None:  # else it was closed meanwhile
            self._lanes[lane].make_ready()

    async def _open(self) -> None:
        names = [LEASE_LANE, *(role.name for role in ROLES)]
        lanes = {name: RedisLane(self._dialer) for name in names}
        lane = lanes["membership"]
        try:
            await self._check_durability(lane)
            await prepare_schema(lane.ask, self._dialer.server, self.namespace)
        except BaseException:
            await lane.close()
            raise
        self._lanes = lanes

    async def _check_durability(self, lane: RedisLane) -> None:
        told = await lane.ask(b"INFO", b"persistence") + await lane.ask(b"INFO", b"memory")
        self.why_not_durable = self._find_reason(told)
        self._checked_at = asyncio.get_running_loop().time()
        if self._durable and self.why_not_durable:
            raise ConfigurationError(self.why_not_durable)

    def _check_durability_again(self) -> None:
        """Have the settings of the server looked at if that was long ago: they can be changed while
        it runs.
        """
        now = asyncio.get_running_loop().time()
        if now - self._checked_at > RECHECK_INTERVAL:
            self._checked_at = now
            told = self._require_lanes()["membership"].submit(TELL_SETTINGS, (), ())
            told.add_done_callback(self._take_note)

    def _take_note(self, told: asyncio.Future[Any]) -> None:
        if told.cancelled() or told.exception() is not None:
            return  # the renewal that came with it failed too, and says so
        before, self.why_not_durable = self.why_not_durable, self._find_reason(told.result())
        if self.why_not_durable and not before:
            logger.error("%s (the setting was changed)", self.why_not_durable)

    def _find_reason(self, told: bytes) -> str:
        """Why the server may forget what it has acknowledged, or an empty string. ``told``: what
        INFO says of its persistence and its memory.
        """
        server = self._dialer.server
        if self._durable is False:
            return ""
        if b"aof_enabled:0" in told:
            return (
                f"{server} keeps nothing over a restart:"
                " objects would forget what they had saved."
                " Set 'appendonly yes' (and consider 'appendfsync always'),"
                " or accept it with ?durable=no in the URL"
            )
        if b"maxmemory_policy:allkeys" in told:
            return (
                f"{server} removes keys when its memory is full:"
                " objects would forget what they had saved."
                " Set 'maxmemory-policy noeviction', or accept it with ?durable=no in the URL"
            )
        return ""

    async def _read_schema_status(self) -> SchemaStatus:
        async with self._alone() as lane:
            return await read_status(lane.ask, self._dialer.server, self.namespace)

    async def _migrate(self) -> None:
        async with self._alone() as lane:
            await migrate(lane.ask, self._dialer.server, self.namespace)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[RedisLane]:
        """A connection for commands that are no scripts."""
        lane = RedisLane(self._dialer)
        try:
            yield lane
        finally:
            await lane.close()

    async def _close(self) -> None:
        lanes, self._lanes = self._require_lanes(), None
        await asyncio.gather(*(lane.close() for lane in lanes.values()))

    def __del__(self) -> None:
        if self._lanes is not None:
            warnings.warn(
                f"{self!r} was not closed: use 'async with', or call close()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )
