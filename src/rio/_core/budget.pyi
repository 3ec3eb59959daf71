from typing import Any, Final, Self, final

from typing_extensions import disjoint_base

from rio.errors import Overloaded

CLIENT_SHARE: Final[int]

@disjoint_base
class Usage:
    connections: int
    subscriptions: int
    @property
    def calls(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def arriving(self) -> int: ...
    def refuse(self, limit: str, text: str, detail: Any = None) -> Overloaded: ...

@final
class Budget:
    limit: int
    leaving: int
    def __new__(cls, limit: int) -> Self: ...
    @property
    def used(self) -> int: ...
    @property
    def is_half_used(self) -> bool: ...
    def allows(self, own: int, of_client: int, more: int) -> bool: ...
    def allows_node(self, more: int) -> bool: ...
