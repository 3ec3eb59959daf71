from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]

def now() -> float: ...
