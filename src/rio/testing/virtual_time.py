"""Asyncio under a virtual clock: hours of timers pass in milliseconds, and the same program always
takes the same steps.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_here: contextvars.ContextVar[Host | None] = contextvars.ContextVar(
    "rio_testing_host", default=None
)


class Host:
    """Where code runs: a name in the network, and on a :class:`VirtualTimeLoop` a clock of its own
    and a processor that can stall.

    Code that is started in a host's :meth:`context` runs on the host, and so do all tasks, timers
    and callbacks that this code starts. ``rate``: how fast the host's clock runs; 1.01 is one
    percent too fast. ``offset``: the seconds that the clock showed at the loop's time 0.
    """

    def __init__(self, name: str, *, rate: float = 1.0, offset: float = 0.0) -> None:
        self.name = name
        self.rate = rate
        self.offset = offset
        self.down = False
        """Whether the host is off: it sends nothing, and nobody reaches it."""
        self.stalled_until = float("-inf")
        """The time of the loop until which no code of this host runs."""

    def context(self) -> contextvars.Context:
        """Return a new context: code that runs in it runs on this host. It has none of the
        variables of the code that asks for it, as if the host were another machine.
        """
        context = contextvars.Context()
        context.run(_here.set, self)
        return context

    async def run(self, work: Coroutine[Any, Any, _T], /) -> _T:
        """Run a coroutine on this host, and return its result."""
        return await asyncio.get_running_loop().create_task(work, context=self.context())

    def clock(self) -> float:
        """What the host's clock shows now, in seconds; for ``rio.Server(clock=host.clock)``."""
        return self.local(true_time(asyncio.get_running_loop()))

    def local(self, moment: float) -> float:
        """What the host's clock shows at a time of the loop."""
        return self.offset + self.rate * moment

    def moment(self, local: float) -> float:
        """The time of the loop at which the host's clock shows ``local``."""
        return (local - self.offset) / self.rate

    def __repr__(self) -> str:
        return f"<Host {self.name}>"


def current_host() -> Host | None:
    """The host on which the calling code runs, or ``None``."""
    return _here.get()


def true_time(loop: asyncio.AbstractEventLoop) -> float:
    """The time of a loop in seconds, whatever the clock of the current host shows."""
    return loop.true_time() if isinstance(loop, VirtualTimeLoop) else loop.time()


def call_at_true_time(
    loop: asyncio.AbstractEventLoop,
    when: float,
    callback: Callable[..., Any],
    *args: Any,
    context: contextvars.Context,
) -> asyncio.TimerHandle:
    """Call something at a time of :func:`true_time`."""
    if isinstance(loop, VirtualTimeLoop):
        return loop.call_at_true_time(when, callback, *args, context=context)
    return loop.call_at(when, callback, *args, context=context)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and jumps to the next timer as soon as nothing else is
    ready to run.

    It never waits and never looks at a socket, a thread or a real clock, so code that runs on it
    must not need them. When every task waits and no timer is set, nothing could ever happen again:
    then it raises ``RuntimeError`` instead of hanging.

    Code of different hosts (:class:`Host`) runs as if each host had an event loop of its own, by
    its own clock. If several hosts have something to do at the same moment, the ``seed`` chooses
    their order. Within one host the order is that of asyncio.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._jump = _Jump()
        self.seed = seed
        """What chooses the order of hosts."""
        self._order = random.Random(seed)
        self._timers = 0
        self._stalled: dict[Host | None, deque[Any]] = {}
        super().__init__(self._jump)

    def time(self) -> float:
        """Virtual seconds since the loop was made, or what the current host's clock shows."""
        host = _here.get()
        return self._jump.now if host is None else host.local(self._jump.now)

    def true_time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jump.now

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As in asyncio; ``when`` is a time of the current host's clock."""
        host = _here.get()
        return self.call_at_true_time(
            when if host is None else host.moment(when), callback, *args, context=context
        )

    def call_at_true_time(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As :meth:`call_at`, but ``when`` is a time of :meth:`true_time`."""
        self._timers += 1
        timer = _Timer(when, callback, args, self, context, self._timers)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def stall(self, host: Host, seconds: float) -> None:
        """Run no code of a host for so many seconds, as if its process were stopped. Then run all
        that became due meanwhile, in its order.
        """
        host.stalled_until = max(host.stalled_until, self._jump.now + seconds)
        self._stalled.setdefault(host, deque())
        self.call_at_true_time(host.stalled_until, self.resume, host, context=contextvars.Context())

    def resume(self, host: Host, *, at_once: bool = False) -> None:
        """End a host's stall if its time is over, or with ``at_once`` in any case."""
        if host in self._stalled and (at_once or self._is_due(host.stalled_until)):
            host.stalled_until = self._jump.now
            self._ready.extendleft(reversed(self._stalled.pop(host)))

    def _process_events(self, event_list: list[Any]) -> None:
        """Decide what runs now, in which order: asyncio calls this between waiting and running."""
        self._take_due_timers()
        if len(self._ready) > 1 or self._stalled:
            self._arrange()

    def _take_due_timers(self) -> None:
        """Do what asyncio does next. It then finds no timer that is due."""
        while self._scheduled and self._is_due(self._scheduled[0]._when):
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            self._ready.append(handle)

    def _is_due(self, moment: float) -> bool:
        return moment <= self._jump.now + self._clock_resolution

    def _arrange(self) -> None:
        """Hold back the code of hosts that are stalled, and mix that of the others."""
        queues: dict[Host | None, deque[Any]] = {}
        for handle in self._ready:
            host = handle._context.get(_here)
            (self._stalled if host in self._stalled else queues).setdefault(host, deque()).append(
                handle
            )
        # The order of the handles may depend on the addresses of objects in a set.
        hosts = sorted(queues, key=_name)
        order = [host for host in hosts for _ in queues[host]]
        if len(hosts) > 1:
            self._order.shuffle(order)
        self._ready.clear()
        self._ready.extend(queues[host].popleft() for host in order)

    # fields of asyncio, which type checkers do not know
    _ready: deque[Any]
    _scheduled: list[Any]
    _clock_resolution: float


def _name(host: Host | None) -> str:
    return "" if host is None else host.name


class _Timer(asyncio.TimerHandle):
    """Of the timers that are due at one moment, the one that was set first comes first. The order
    of asyncio's own timers is not defined.
    """

    __slots__ = ("_number",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
        number: int,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self._number = number

    def __lt__(self, other: Any) -> bool:
        return (self._when, self._number) < (other._when, other._number)

    # fields of asyncio, which type checkers do not know
    _when: float
    _scheduled: bool


class _Jump(selectors.SelectSelector):
    """Lets time pass where a loop would wait for its sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError(
                "every task waits and no timer is set: nothing will ever happen again"
            )
        self.now += max(0.0, timeout)
        return []


def run(main: Coroutine[Any, Any, _T], /, *, seed: int | None = 0) -> _T:
    """Run ``main`` on a fresh :class:`VirtualTimeLoop`, cancel what it left running, and return its
    result.

    Two runs of the same program with the same ``seed`` take the same steps at the same virtual
    times. The seed chooses the order of hosts that have something to do at the same moment; with
    ``None`` the order differs from run to run. Other randomness is the program's own.

    :raises RuntimeError: every task waits and no timer is set, or another loop runs already.
    """
    with asyncio.Runner(loop_factory=partial(VirtualTimeLoop, seed)) as runner:
        return runner.run(main)
