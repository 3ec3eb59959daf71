"""Storages that are slow or away, or that do what they are asked and never answer."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from rio.contracts.roles import ROLES, make_stand_in
from rio.contracts.state import StateStorage
from rio.errors import StorageUnavailable
from rio.storage import Storage

_T = TypeVar("_T")

_WAITS = {"wait_for_change"}
"""Methods that wait on purpose, for a time that their caller gives."""


class StorageFaults:
    """One node's way to the storage, and what goes wrong on it::

        faults = StorageFaults(random.Random(1))
        server = rio.Server(registry, storage=faults.wrap(storage))
        faults.delay = 0.2            # each request takes 0.2 s, and so does each answer
        faults.unavailable = True     # every request is refused at once, and nothing is done
        faults.silent = True          # requests and answers wait until it is False again
        faults.lost_answers = 0.1     # one request in ten is done, and its caller is not told

    A request that its caller has given up is carried out all the same, as late as it arrives:
    databases do so too.

    ``rng``: chooses which answers are lost. ``delay``: see :attr:`delay`. ``timeout``: seconds
    after which a call raises :class:`rio.errors.StorageUnavailable`, as with the drivers in
    :mod:`rio.storage`.
    """

    def __init__(
        self,
        rng: random.Random | None = None,
        *,
        delay: float | Callable[[], float] = 0.0,
        timeout: float = 2.0,
    ) -> None:
        self.delay = delay
        """Seconds that each request takes, and each answer; or a function that returns them."""
        self.answer_delay: float | Callable[[], float] | None = None
        """Seconds that each answer takes, if they differ from :attr:`delay`."""
        self.timeout = timeout
        """Seconds after which a call raises :class:`rio.errors.StorageUnavailable`."""
        self.unavailable = False
        """Whether every request is refused at once, and nothing is done."""
        self.lost_answers = 0.0
        """The probability, 0 to 1, that a request is carried out and its answer is lost."""
        self.requests = 0
        """Requests that were made so far."""
        self._rng = rng or random.Random()
        self._way = asyncio.Event()
        self._way.set()
        self._is_cut_off = False
        self._under_way: dict[asyncio.Future[Any], None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._states: dict[StateStorage, StateStorage] = {}

    @property
    def silent(self) -> bool:
        """Whether requests and answers are held back. Their callers run into their timeouts; the
        storage does what they asked for later.
        """
        return not self._way.is_set()

    @silent.setter
    def silent(self, value: bool) -> None:
        if value:
            self._way.clear()
        else:
            self._way.set()

    def wrap(self, storage: Storage) -> Storage:
        """Return ``storage`` with the faults. Closing the result closes nothing."""
        roles = {role.name: getattr(storage, role.name) for role in ROLES}
        return Storage(
            **{role.name: self._wrap_role(role.contract, roles[role.name]) for role in ROLES}
        )

    def wrap_state(self, state: StateStorage) -> StateStorage:
        """Return a storage of states, that of ``rio.managed_state(storage=...)`` with them."""
        known = self._states.get(state)
        if known is None:
            known = self._states[state] = self._wrap_role(StateStorage, state)
        return known

    def _wrap_role(self, contract: type[Any], back_end: Any) -> Any:
        def call(method: str, *args: Any, **keywords: Any) -> Awaitable[Any]:
            request = getattr(back_end, method)(*args, **keywords)
            return self._wait(request, args[1]) if method in _WAITS else self.call(request)

        def use_placement(_: Any, placement: Any) -> None:
            back_end.use_placement(getattr(placement, "back_end", placement))

        members: dict[str, Any] = {"back_end": back_end, "volatile": back_end.volatile}
        for name in ("why_not_durable", "history"):
            members[name] = _pass_on(back_end, name)
        if contract is StateStorage:
            members |= {"atomic": back_end.atomic, "use_placement": use_placement}
        return make_stand_in(contract, call, **members)

    def heal(self) -> None:
        """End :attr:`unavailable`, :attr:`silent` and :attr:`lost_answers`. The delays stay, and so
        does :meth:`cut_off`.
        """
        self.unavailable = False
        self.lost_answers = 0.0
        self.silent = False

    def cut_off(self) -> None:
        """Refuse every request for good, and fail those that wait: the node's process is gone.
        Requests that it has sent may still be carried out.
        """
        self._is_cut_off = True
        for answer in list(self._under_way):
            if not answer.done():
                answer.set_exception(
                    StorageUnavailable(
                        "the connection to the storage is gone: this node was killed"
                    )
                )

    async def settle(self) -> None:
        """End :attr:`silent`, and wait until all requests that were sent have been carried out."""
        self.silent = False
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def call(self, request: Coroutine[Any, Any, _T]) -> _T:
        """Send one request through the faults, and return its answer.

        :raises StorageUnavailable: the request was refused, or its answer did not come: then it may
        have been carried out.
        """
        self.requests += 1
        if self.unavailable or self._is_cut_off:
            request.close()
            why = ": this node was killed" if self._is_cut_off else ""
            raise StorageUnavailable(f"the storage is unavailable{why}")
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._under_way[answer] = None
        self._send(request, answer)
        try:
            await asyncio.wait((answer,), timeout=self.timeout)
        finally:
            del self._under_way[answer]
            if not answer.cancel():
                answer.exception()  # a caller that is cancelled at this moment does not ask for it
        if answer.cancelled():
            raise StorageUnavailable(f"the storage did not answer within {self.timeout:g} s")
        return answer.result()

    async def _wait(self, hint: Coroutine[Any, Any, None], timeout: float) -> None:
        """Wait for a hint of the storage. Nothing is asked for: what cannot be heard is missed."""
        if self.unavailable or self.silent or self._is_cut_off:
            hint.close()
            await asyncio.sleep(timeout)
        else:
            await hint

    def _send(self, request: Coroutine[Any, Any, _T], answer: asyncio.Future[_T]) -> None:
        """Carry the request out in a task that is no part of the node, whatever happens to the
        node.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            self._carry_out(request, answer),
            name="a storage request",
            context=contextvars.Context(),
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(
        self, request: Coroutine[Any, Any, _T], answer: asyncio.Future[_T]
    ) -> None:
        outcome: _T | Exception
        try:
            await self._travel(self.delay)
        except BaseException:
            request.close()
            raise
        try:
            outcome = await request
        except Exception as error:
            outcome = error
        if self.lost_answers and self._rng.random() < self.lost_answers:
            outcome = StorageUnavailable("the connection broke before the storage answered")
        await self._travel(self.delay if self.answer_delay is None else self.answer_delay)
        if answer.done():
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    async def _travel(self, delay: float | Callable[[], float]) -> None:
        seconds = delay() if callable(delay) else delay
        if seconds:
            await asyncio.sleep(seconds)
        await self._way.wait()


def _pass_on(back_end: Any, name: str) -> property:
    """A property with the value that ``back_end`` has at the moment."""
    return property(lambda _: getattr(back_end, name))
