import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, final

_T = TypeVar("_T")

__pyx_capi__: dict[str, object]  # what the other compiled modules use in C

@final
class Guard:
    def __iter__(self) -> Guard: ...
    def __await__(self) -> Guard: ...
    def __next__(self) -> Any: ...
    def __getattr__(self, name: str, /) -> Any: ...
    def send(self, value: Any) -> Any: ...
    def throw(self, *error: Any) -> Any: ...
    def close(self) -> None: ...

@final
class FirstStep:
    def __call__(self, step: Callable[[], object], *, context: Context | None = None) -> None: ...

def start_now(
    coroutine: Coroutine[Any, Any, _T],
    *,
    loop: asyncio.AbstractEventLoop,
    name: str,
    context: Context,
) -> asyncio.Task[_T]: ...
