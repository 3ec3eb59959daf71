"""The objects of ``objects.py`` as newer code has them."""

from __future__ import annotations

import rio
from tests.cluster.processes.objects import Add, Counter, Sum, Value


class NewerSum(Sum):
    newer: int = 0
    """The additions of newer code. Older code does not know the field, and must keep it."""


class NewerCounter(Counter, type_name="Counter"):
    sum: NewerSum = rio.managed_state()

    @rio.handler
    async def add(self, message: Add) -> Value:
        with self.turn(message.caller, message.number):
            self.sum.value += 1
            self.sum.newer += 1
            await self.save_state()
            return Value(self.sum.value, self.sum.newer)
