"""A network in memory between the hosts of one event loop, with latency, partitions, silence, and
connections that break.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from rio.testing._connection import Carrier, Connection, ProtocolFactory
from rio.testing.virtual_time import Host, current_host


class Network:
    """Carries what the hosts of one event loop send each other through ``loop.create_server`` and
    ``loop.create_connection``::

        network = Network(random.Random(1), latency=0.001)
        with network.on(loop):                    # the names of its hosts are addresses now
            network.cut("a", "b")                 # b does not hear a; a still hears b
            network.partition(["a"], ["b", "c"])  # neither side hears the other
            network.heal()                        # what was sent meanwhile arrives
            network.break_connections("a", "b")   # both ends find their connections reset

    A host is known by its name once :meth:`add` was called. Code that runs on no host runs on
    :attr:`outside`, which is called ``client``. As with TCP, nothing is lost or overtaken within a
    connection: a message arrives, or the connection breaks.

    ``rng``: chooses which messages are lost. ``latency``: see :attr:`latency`.
    """

    def __init__(
        self, rng: random.Random | None = None, *, latency: float | Callable[[], float] = 0.0
    ) -> None:
        self.latency = latency
        """Seconds that a message takes, or a function that returns them for each message."""
        self.loss = 0.0
        """The probability, 0 to 1, that a message is lost and breaks its connection."""
        self.outside = Host("client")
        """The host of code that runs on no other host."""
        self._rng = rng or random.Random()
        self._hosts: dict[str, Host] = {self.outside.name: self.outside}
        self._listeners: dict[tuple[str, int], _Listener] = {}
        self._connections: dict[Connection, None] = {}
        self._carrier = Carrier(self._delay, self._draws_loss, self.is_cut, self._note_end)
        self._cuts: set[tuple[str, str]] = set()
        self._healed = asyncio.Event()
        self._addresses: set[tuple[str, int]] = set()
        """Where somebody has ever listened."""
        self._ports = itertools.count(_FIRST_PORT)

    # --- hosts ------------------------------------------------------------------------------------

    def add(self, host: Host) -> Host:
        """Let a host take part, and return it. A host that is :attr:`Host.down` makes room for
        another one of its name.

        :raises ValueError: a host of this name is up.
        """
        known = self._hosts.get(host.name)
        if known is not None and known is not host and not known.down:
            raise ValueError(f"there is a host called {host.name} already")
        self._hosts[host.name] = host
        return host

    def take_down(self, host: Host) -> None:
        """Let a host's process be gone: its connections are reset, and nothing listens there any
        more. What it has sent still arrives.
        """
        host.down = True
        for address in [
            address for address, listener in self._listeners.items() if listener.host is host
        ]:
            del self._listeners[address]
        for connection in list(self._connections):
            if host in connection.hosts:
                connection.lose_host(host)

    # --- what goes wrong --------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Let nothing that ``source`` sends arrive at ``target``, until :meth:`heal`.

        :raises LookupError: the network has no host of this name.
        """
        self._check_known(source, target)
        self._cuts.add((source, target))

    def partition(self, *groups: Iterable[str]) -> None:
        """Let no two hosts of different groups hear each other, until :meth:`heal`. Hosts in no
        group go on hearing all others.

        :raises LookupError: the network has no host of this name.
        """
        sides = [list(group) for group in groups]
        self._check_known(*itertools.chain(*sides))
        for one, other in itertools.permutations(sides, 2):
            self._cuts.update(itertools.product(one, other))

    def heal(self, source: str | None = None, target: str | None = None) -> None:
        """Undo every :meth:`cut` and :meth:`partition`, or only those from ``source`` and to
        ``target``, where given. What was held back arrives.

        :raises LookupError: the network has no host of this name.
        """
        self._check_known(source, target)
        self._cuts = {
            (one, other)
            for one, other in self._cuts
            if (source is not None and one != source) or (target is not None and other != target)
        }
        healed, self._healed = self._healed, asyncio.Event()
        healed.set()
        for connection in list(self._connections):
            connection.wake()

    def break_connections(self, one: str | None = None, other: str | None = None) -> int:
        """Reset the connections between two hosts, those of one host, or all; return how many. What
        is on its way is lost.
        """
        wanted = {name for name in (one, other) if name is not None}
        broken = [
            connection
            for connection in self._connections
            if wanted <= {host.name for host in connection.hosts}
        ]
        for connection in broken:
            connection.reset()
        return len(broken)

    def _check_known(self, *names: str | None) -> None:
        for name in names:
            if name is not None and name not in self._hosts:
                raise LookupError(f"there is no host {name!r}, only {', '.join(self._hosts)}")

    def is_cut(self, source: Host, target: Host) -> bool:
        """Whether nothing that ``source`` sends arrives at ``target``."""
        return (source.name, target.name) in self._cuts

    def _delay(self) -> float:
        """Seconds that the next message takes."""
        return self.latency() if callable(self.latency) else self.latency

    def _draws_loss(self) -> bool:
        """Whether the next message is lost, by chance."""
        return self.loss > 0 and self._rng.random() < self.loss

    # --- what an event loop does ------------------------------------------------------------------

    @contextmanager
    def on(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Let a loop listen and connect here where an address names a host of this network. Other
        addresses lead where they led before. A loop may have several networks; hosts of different
        networks do not hear each other, also if they have one name.
        """
        networks = _networks.get(loop)
        if networks is None:
            networks = _networks[loop] = []
            _redirect(loop, networks)
        self._ports = itertools.count(_FIRST_PORT + len(networks) * _PORTS)
        networks.append(self)
        try:
            yield
        finally:
            networks.remove(self)
            if not networks:
                del _networks[loop]
                for name in ("create_server", "create_connection"):
                    delattr(loop, name)

    def _suits(self, host: Any, port: Any) -> int:
        """How likely it is that code which runs here means an address of this network; 0 for no."""
        if host not in self._hosts:
            return 0
        here = current_host()
        return 1 + ((host, port) in self._addresses) + (here in self._hosts.values())

    def _listen(self, factory: ProtocolFactory, host: str, port: int) -> asyncio.Server:
        """What ``loop.create_server`` does at an address of this network.

        :raises OSError: the port is in use, or the code that calls runs on another host.
        """
        here = current_host() or self.outside
        if here.name != host or here.down:
            raise OSError(f"{host} is not an address of {here.name}")
        address = (host, port or next(self._ports))
        if address in self._listeners:
            raise OSError(f"{host}:{port} is in use")
        self._addresses.add(address)
        listener = self._listeners[address] = _Listener(self, here, address, factory)
        return cast(asyncio.Server, listener)  # by its methods

    async def _connect(
        self, factory: ProtocolFactory, host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """What ``loop.create_connection`` does to an address of this network. It waits while
        nothing gets through.

        :raises ConnectionRefusedError: nothing listens there.
        """
        here, there = current_host() or self.outside, self._hosts[host]
        await self._cross(here, there)
        listener = self._listeners.get((host, port))
        if listener is None or here.down:
            raise ConnectionRefusedError(f"nothing listens on {host}:{port}")
        connection = Connection(
            self._carrier,
            (here, contextvars.copy_context()),
            (listener.host, listener.host.context()),
            listener.address,
        )
        self._connections[connection] = None
        connection.accept(listener.factory)
        try:
            await self._cross(listener.host, here)
        except BaseException:
            connection.reset()
            raise
        return connection.establish(factory)

    async def _cross(self, source: Host, target: Host) -> None:
        """Wait for as long as a message takes, and while nothing gets through."""
        await asyncio.sleep(self._delay())
        while self.is_cut(source, target):
            await self._healed.wait()

    def _note_closed(self, listener: _Listener) -> None:
        """A listener was closed: its port is free."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    def _note_end(self, connection: Connection) -> None:
        """Both ends of a connection have finished."""
        self._connections.pop(connection, None)


_FIRST_PORT = 49152
_PORTS = 1000
"""How many ports each network of a loop has for itself."""

_networks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Network]] = (
    weakref.WeakKeyDictionary()
)
"""The networks of each loop that has one."""


def _redirect(loop: asyncio.AbstractEventLoop, networks: list[Network]) -> None:
    """Let a loop listen and connect in one of these networks, if an address names a host there."""
    known_server, known_connection = loop.create_server, loop.create_connection

    def find(host: Any, port: Any) -> Network | None:
        best = max(networks, key=lambda network: network._suits(host, port))
        return best if best._suits(host, port) else None

    async def create_server(
        factory: ProtocolFactory, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        network = find(host, port)
        if network is None:
            return await known_server(factory, host, port, **options)
        return network._listen(factory, host, port)

    async def create_connection(
        factory: ProtocolFactory, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        network = find(host, port)
        if network is None:
            return await known_connection(factory, host, port, **options)
        return await network._connect(factory, host, port)

    vars(loop).update(create_server=create_server, create_connection=create_connection)


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

    def fileno(self) -> int:
        return -1  # as of a socket that is closed: there is none

    def is_serving(self) -> bool:
        return bool(self.sockets)

    async def start_serving(self) -> None:
        """It has listened since it was made."""

    def close(self) -> None:
        self.sockets = ()  # type: ignore[assignment]  # of another length than before
        self._network._note_closed(self)

    async def wait_closed(self) -> None: ...
