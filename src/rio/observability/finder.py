"""Whether the program traces."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rio.observability.tracer import Tracer


def find_tracer() -> Tracer | None:
    """A tracer by the program's own OpenTelemetry; ``None`` if the program has imported none, or
    has set no provider that traces.
    """
    if "opentelemetry.trace" not in sys.modules:
        return None
    from rio.observability.tracer import make_tracer  # it imports OpenTelemetry

    return make_tracer()
