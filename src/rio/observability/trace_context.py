"""How a trace travels with calls."""

from __future__ import annotations

from typing import TypeAlias

Trace: TypeAlias = bool | tuple[str, ...] | None
"""How a trace travels: the traceparent of W3C, and the tracestate if there is one; ``False``: it is
not sampled; ``None``: there is none.
"""
