"""A network in memory, between the hosts of one event loop: with latency, connections that break,
partitions and silence.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from rio.testing.virtual_time import Host, call_at_true_time, current_host, true_time

KERNEL_BUFFER = 256 * 1024
"""Bytes that are on their way before the sender is told that they wait."""

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Network:
    """Carries what the hosts of one event loop send each other, through ``loop.create_server`` and
    ``loop.create_connection``.

    ::

        network = Network(random.Random(1), latency=0.001)
        with network.on(loop):                       # addresses of its hosts lead here, all others where they led before
            network.cut("a", "b")                    # what a sends to b does not arrive; a hears b
            network.partition(["a"], ["b", "c"])     # neither side hears the other
            network.heal()                           # what was sent meanwhile arrives, on connections that still stand
            network.break_connections("a", "b")      # both ends find their connections reset

    A host is known by its name from :meth:`add` on; code that runs on no host of its own runs on
    :attr:`outside`, which is called ``client``. As with TCP nothing is lost or overtaken within a
    connection: it arrives, or the connection breaks. ``latency``: seconds from one end to the
    other, or what to call for each message. ``rng``: decides which messages break their connection.
    """

    def __init__(
        self, rng: random.Random | None = None, *, latency: float | Callable[[], float] = 0.0
    ) -> None:
        self.latency = latency
        self.loss = 0.0
        """The probability with which a message is lost, and its connection broken."""
        self.outside = Host("client")
        self._rng = rng or random.Random()
        self._hosts: dict[str, Host] = {self.outside.name: self.outside}
        self._listeners: dict[tuple[str, int], _Listener] = {}
        self._pairs: dict[_Pair, None] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._healed = asyncio.Event()
        self._ports = itertools.count(49152)

    # --- who is there -----------------------------------------------------------------------------

    def add(self, host: Host) -> Host:
        """Let a host take part. One that is :attr:`Host.down` makes room for another of its name.

        :raises ValueError: the name is taken.
        """
        known = self._hosts.get(host.name)
        if known is not None and known is not host and not known.down:
            raise ValueError(f"there is a host called {host.name} already")
        self._hosts[host.name] = host
        return host

    def take_down(self, host: Host) -> None:
        """A host's process is gone: its connections are reset, nothing listens there any more.

        What it has sent still arrives.
        """
        host.down = True
        for address in [
            address for address, listener in self._listeners.items() if listener.host is host
        ]:
            del self._listeners[address]
        for pair in [pair for pair in self._pairs if host in pair.hosts]:
            pair.end_of(host)

    # --- what goes wrong --------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Let nothing that ``source`` sends arrive at ``target``, until :meth:`heal`."""
        self._cuts.add((source, target))

    def partition(self, *groups: Iterable[str]) -> None:
        """Let no two hosts of different groups hear each other.

        Hosts that are in no group go on hearing everyone.
        """
        for one, other in itertools.permutations([list(group) for group in groups], 2):
            self._cuts.update(itertools.product(one, other))

    def heal(self, source: str | None = None, target: str | None = None) -> None:
        """Undo every :meth:`cut` and :meth:`partition`, or those from ``source`` or to ``target``;
        what was held back arrives.
        """
        self._cuts = {
            (one, other)
            for one, other in self._cuts
            if (source is not None and one != source) or (target is not None and other != target)
        }
        healed, self._healed = self._healed, asyncio.Event()
        healed.set()
        for pair in list(self._pairs):
            pair.wake()

    def break_connections(self, one: str | None = None, other: str | None = None) -> int:
        """Reset the connections between two hosts, of one host, or all. What is on its way is lost.

        Returns how many broke.
        """
        wanted = {name for name in (one, other) if name is not None}
        broken = [pair for pair in self._pairs if wanted <= {host.name for host in pair.hosts}]
        for pair in broken:
            pair.reset()
        return len(broken)

    def is_cut(self, source: Host, target: Host) -> bool:
        """Whether nothing that ``source`` sends arrives at ``target``."""
        return (source.name, target.name) in self._cuts

    def delay(self) -> float:
        """Seconds that one message takes."""
        return self.latency() if callable(self.latency) else self.latency

    def loses_one(self) -> bool:
        return self.loss > 0 and self._rng.random() < self.loss

    # --- what an event loop does ------------------------------------------------------------------

    @contextmanager
    def on(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Have a loop listen and connect here where an address names a host of this network.

        :raises RuntimeError: it has one already.
        """
        if "create_server" in vars(loop):
            raise RuntimeError("this event loop has a network already: one at a time")
        known_server, known_connection = loop.create_server, loop.create_connection

        async def create_server(
            factory: ProtocolFactory, host: Any = None, port: Any = None, **options: Any
        ) -> Any:
            if host not in self._hosts:
                return await known_server(factory, host, port, **options)
            return self.listen(factory, host, port)

        async def create_connection(
            factory: ProtocolFactory, host: Any = None, port: Any = None, **options: Any
        ) -> Any:
            if host not in self._hosts:
                return await known_connection(factory, host, port, **options)
            return await self.connect(factory, host, port)

        vars(loop).update(create_server=create_server, create_connection=create_connection)
        try:
            yield
        finally:
            for name in ("create_server", "create_connection"):
                delattr(loop, name)

    def listen(self, factory: ProtocolFactory, host: str, port: int) -> asyncio.Server:
        """:raises OSError: the port is in use, or ``host`` is another one than that on which this
        runs.
        """
        here = current_host() or self.outside
        if here.name != host or here.down:
            raise OSError(f"{host} is not an address of {here.name}")
        address = (host, port or next(self._ports))
        if address in self._listeners:
            raise OSError(f"{host}:{port} is in use")
        listener = self._listeners[address] = _Listener(self, here, address, factory)
        return cast(asyncio.Server, listener)  # by its methods

    async def connect(
        self, factory: ProtocolFactory, host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """:raises ConnectionRefusedError: nothing listens there.

        While nothing gets through this waits.
        """
        here, there = current_host() or self.outside, self._hosts[host]
        await self._cross(here, there)
        listener = self._listeners.get((host, port))
        if listener is None or here.down:
            raise ConnectionRefusedError(f"nothing listens on {host}:{port}")
        pair = _Pair(
            self,
            (here, contextvars.copy_context()),
            (listener.host, listener.host.context()),
            listener.address,
        )
        pair.accept(listener.factory)
        try:
            await self._cross(listener.host, here)
        except BaseException:
            pair.reset()
            raise
        return pair.established(factory)

    async def _cross(self, source: Host, target: Host) -> None:
        """The time that one message takes, as long as none gets through."""
        await asyncio.sleep(self.delay())
        while self.is_cut(source, target):
            await self._healed.wait()

    def closed(self, listener: _Listener) -> None:
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    def began(self, pair: _Pair) -> None:
        self._pairs[pair] = None

    def ended(self, pair: _Pair) -> None:
        self._pairs.pop(pair, None)


class _Listener:
    """What ``create_server`` returns."""

    def __init__(
        self, network: Network, host: Host, address: tuple[str, int], factory: ProtocolFactory
    ) -> None:
        self.host = host
        self.address = address
        self.factory = factory
        self.sockets = (self,)
        self._network = network

    def getsockname(self) -> tuple[str, int]:
        return self.address

    def is_serving(self) -> bool:
        return bool(self.sockets)

    def close(self) -> None:
        self.sockets = ()  # type: ignore[assignment]  # asyncio declares a tuple of sockets, and here are none of the system
        self._network.closed(self)

    async def wait_closed(self) -> None: ...


class _Pair:
    """One connection: its two ends."""

    def __init__(
        self,
        network: Network,
        one: tuple[Host, contextvars.Context],
        other: tuple[Host, contextvars.Context],
        address: tuple[str, int],
    ) -> None:
        self.network = network
        self.loop = asyncio.get_running_loop()
        self.client = _End(self, *one, address)
        self.server = _End(self, *other, (one[0].name, 0))
        self.client.peer, self.server.peer = self.server, self.client
        network.began(self)

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.client.host, self.server.host

    def accept(self, factory: ProtocolFactory) -> None:
        self.server.start(factory)

    def established(
        self, factory: ProtocolFactory
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """:raises ConnectionResetError: it was closed at once."""
        if self.client.is_closing():
            raise ConnectionResetError(f"{self.server.host.name} closed the connection at once")
        protocol = factory()
        self.client.attach(protocol)
        self.wake()
        return self.client, protocol

    def wake(self) -> None:
        """Something may get through again."""
        self.client.look()
        self.server.look()

    def reset(self) -> None:
        for end in (self.client, self.server):
            end.finish(ConnectionResetError("the connection was reset"))

    def end_of(self, host: Host) -> None:
        """A host's process is gone."""
        for end in (self.client, self.server):
            if end.host is host:
                end.vanish()

    def finished(self) -> None:
        if self.client.is_finished and self.server.is_finished:
            self.network.ended(self)


class _End(asyncio.Transport):
    """One end of a connection: a transport for its protocol, and what is on its way to it."""

    def __init__(
        self, pair: _Pair, host: Host, context: contextvars.Context, peername: tuple[str, int]
    ) -> None:
        super().__init__({"peername": peername, "sockname": (host.name, 0)})
        self.host = host
        self.peer: _End = self
        self.is_finished = False
        """Nothing arrives any more; its protocol has been told, or will be at once."""
        self._pair = pair
        self._context = context
        self._protocol: asyncio.BaseProtocol | None = None
        self._arriving: deque[tuple[float, bytes | Exception | None]] = deque()
        self._due = 0.0
        self._timer: asyncio.Handle | None = None
        self._on_its_way = 0
        self._closing = False
        self._paused = False
        self._full = False
        self._high = 64 * 1024

    # --- its protocol -----------------------------------------------------------------------------

    def start(self, factory: ProtocolFactory) -> None:
        """Make the protocol, on the host and by the host's own loop, as a listening socket does."""
        self._pair.loop.call_soon(self._accept, factory, context=self._context)

    def _accept(self, factory: ProtocolFactory) -> None:
        if not self.is_finished:
            self.attach(factory())
            self.look()

    def attach(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    # --- sending ----------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self.is_finished or not data:
            return
        if self._pair.network.loses_one():
            self._pair.reset()
        elif not self.host.down:
            self._on_its_way += len(data)
            self.peer.arrives(bytes(data))
            self._tell_protocol()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """What was written still arrives."""
        if not self._closing:
            self._closing = True
            self.peer.arrives(None)
            self.finish(None)

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self.peer.arrives(ConnectionResetError("the peer has reset the connection"))
            self.finish(None)

    def vanish(self) -> None:
        """Its process is gone; the system resets the connection."""
        if not self.is_finished:
            self._closing = True
            self.peer.arrives(ConnectionResetError("the peer's process is gone"))
            self.finish(ConnectionResetError("this host is down"))

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        # as can_write_eof() has said; nothing in rio closes one half only
        raise NotImplementedError

    def is_closing(self) -> bool:
        return self._closing or self.is_finished

    def get_write_buffer_size(self) -> int:
        return max(0, self._on_its_way - KERNEL_BUFFER)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._high // 4, self._high

    def delivered(self, size: int) -> None:
        """The peer has read."""
        self._on_its_way -= size
        self._tell_protocol()

    def _tell_protocol(self) -> None:
        waiting = self.get_write_buffer_size()
        if self._protocol is None or self.is_finished:
            return
        if not self._full and waiting > self._high:
            self._full = True
            self._soon(cast(asyncio.Protocol, self._protocol).pause_writing)
        elif self._full and waiting <= self._high // 4:
            self._full = False
            self._soon(cast(asyncio.Protocol, self._protocol).resume_writing)

    def _soon(self, what: Callable[..., object], *args: Any) -> None:
        self._pair.loop.call_soon(what, *args, context=self._context)

    # --- receiving --------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self.look()

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def arrives(self, what: bytes | Exception | None) -> None:
        """Data, or the end: ``None`` for a connection that was closed."""
        if not self.is_finished:
            self._due = max(self._due, true_time(self._pair.loop) + self._pair.network.delay())
            self._arriving.append((self._due, what))
            self.look()

    def look(self) -> None:
        """Have the next message delivered when it is due."""
        if (
            self._timer is None
            and self._arriving
            and self._protocol is not None
            and not self.is_finished
        ):
            self._timer = call_at_true_time(
                self._pair.loop, self._arriving[0][0], self._deliver, context=self._context
            )

    def _deliver(self) -> None:
        self._timer = None
        now = true_time(self._pair.loop) + 1e-9
        while self._arriving and self._arriving[0][0] <= now and self._is_open():
            _, what = self._arriving.popleft()
            if isinstance(what, bytes):
                self.peer.delivered(len(what))
                self._feed(what)
            else:
                self._end(what)
        if self._is_open():
            self.look()

    def _is_open(self) -> bool:
        return not (
            self._paused or self.is_finished or self._pair.network.is_cut(self.peer.host, self.host)
        )

    def _feed(self, data: bytes) -> None:
        protocol = self._protocol
        if not isinstance(protocol, asyncio.BufferedProtocol):
            cast(asyncio.Protocol, protocol).data_received(data)
            return
        view = memoryview(data)
        while view and not self.is_closing():
            room = memoryview(protocol.get_buffer(len(view)))
            size = min(len(room), len(view))
            room[:size] = view[:size]
            protocol.buffer_updated(size)
            view = view[size:]

    def _end(self, error: Exception | None) -> None:
        if error is None:
            cast(asyncio.Protocol, self._protocol).eof_received()
        self.finish(error)

    def finish(self, error: Exception | None) -> None:
        """Nothing more arrives: tell the protocol."""
        if self.is_finished:
            return
        self.is_finished = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arriving.clear()
        if self._protocol is not None:
            self._soon(self._protocol.connection_lost, error)
        self._pair.finished()
