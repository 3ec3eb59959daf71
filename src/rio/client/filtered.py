"""The calls of a client that has filters."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from rio import background
from rio._core.calls import Caller
from rio.client.deadlines import LONGEST_WAIT
from rio.errors import (
    CallTimeout,
    ConfigurationError,
    Expired,
    NotExecuted,
    OutcomeUnknown,
    RioError,
)
from rio.identity import ObjectId, name_of_type, type_name_of
from rio.logs import Logger
from rio.objects.filters import Call, Filter, compose
from rio.objects.message import DynamicMessage

logger = Logger("rio.client")

PATIENCE = LONGEST_WAIT + 0.1
"""Seconds after its deadline for which a call that was sent may wait for the server's word."""

CLOSE_TIMEOUT = 1.0
"""Seconds for which a client that closes waits for filters that were cancelled."""


class ClientCall(Call):
    """A call of a client, with all its attempts."""

    __slots__ = ("_end", "_hand_over", "_is_cut_off", "_limit", "was_sent")

    def __init__(
        self, object_id: ObjectId, message: Any, hand_over: Callable[..., Any], timeout: float
    ) -> None:
        super().__init__(object_id, message)
        self._hand_over = hand_over
        self._end = asyncio.get_running_loop().time() + timeout
        self._limit: asyncio.Timeout | None = None
        self._is_cut_off = False
        self.was_sent = False
        """Whether the filters have let it through."""

    @property
    def message_name(self) -> str:
        if isinstance(self.message, DynamicMessage):
            return self.message.type_name
        return type_name_of(type(self.message))

    @property
    def time_left(self) -> float:
        return self._end - asyncio.get_running_loop().time()

    @property
    def instance(self) -> None:
        return None

    @property
    def caller(self) -> None:
        return None

    async def run(self, way: Callable[[Any], Awaitable[Any]]) -> Any:
        """Go through the filters, until the deadline at the latest."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limit = limit
                self._may_last_until(-math.inf if self._is_cut_off else self._end)
                return await way(self)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise self._outcome() from error

    async def send(self) -> Any:
        """Send the message. If it is under way at the deadline, its own outcome is waited for."""
        self.was_sent = True
        self._may_last_until(self._end + PATIENCE)
        try:
            answer = self._hand_over(self.message, timeout=self.time_left)
            return None if answer is None else await answer
        finally:
            self._may_last_until(self._end)

    def cut_off(self) -> None:
        """The client is closed."""
        self._is_cut_off = True
        self._may_last_until(-math.inf)

    def _may_last_until(self, moment: float) -> None:
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(None if moment == math.inf else moment)

    def _outcome(self) -> RioError:
        what = f"{self.message_name} to {self.object_id}"
        if self._is_cut_off:
            kind: type[RioError] = OutcomeUnknown if self.was_sent else NotExecuted
            return kind(f"the client was closed while its filters had {what}")
        kind = CallTimeout if self.was_sent else Expired
        return kind(f"the filters of the client still had {what} at its deadline")


class FilteredCaller:
    """Stands before the compiled caller of a client: each call goes through the filters first."""

    def __init__(self, caller: Caller, filters: Sequence[Filter]) -> None:
        self._caller = caller
        self._way = compose(filters, ClientCall.send)
        self._calls: dict[asyncio.Task[Any], ClientCall] = {}

    def send(
        self,
        object_type: Any,
        id: str,
        message: Any,
        /,
        *,
        returns: Any = None,
        timeout: float | None = None,
    ) -> Awaitable[Any]:
        send = partial(self._caller.send, object_type, id, returns=returns)
        return self._begin(object_type, id, message, send, timeout)

    def tell(
        self, object_type: Any, id: str, message: Any, /, *, timeout: float | None = None
    ) -> None:
        tell = partial(self._caller.tell, object_type, id)
        self._begin(object_type, id, message, tell, timeout).add_done_callback(_log_told)

    def _begin(
        self,
        object_type: Any,
        id: str,
        message: Any,
        hand_over: Callable[..., Any],
        timeout: float | None,
    ) -> asyncio.Task[Any]:
        self._caller.check_loop()
        if timeout is None:
            timeout = self._caller.default_timeout
        elif math.isnan(timeout):
            raise ConfigurationError("timeout= takes a number of seconds, got nan")
        object_id = ObjectId.check(name_of_type(object_type), id)
        call = ClientCall(object_id, message, hand_over, timeout)
        task = background.start(call.run(self._way), f"filters of a call to {object_id}")
        self._calls[task] = call
        task.add_done_callback(self._calls.pop)
        return task

    async def close(self) -> None:
        """End the calls that the filters still have. In the child of a fork there are none."""
        loop = asyncio.get_running_loop()
        calls = {task: call for task, call in self._calls.items() if task.get_loop() is loop}
        for call in calls.values():
            call.cut_off()
        if calls:
            _, left = await asyncio.wait(calls, timeout=CLOSE_TIMEOUT)
            for task in left:
                logger.error("%s were cancelled and do not end", task.get_name())


def _log_told(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        name = type(error).__name__
        logger.warning("%s, which nobody awaits: %s: %s", task.get_name(), name, error)
