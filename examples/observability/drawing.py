"""A trace as a picture: a bar for each span, in the colour of the process that has made it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from examples.observability.collector import Span

WIDTH, ROW, LABEL = 980, 24, 330
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d")


def draw(spans: Sequence[Span]) -> str:
    """An SVG of the spans of a trace, each below its parent. Dots are events; a red edge is an
    error.
    """
    if not spans:
        return "<p>No trace has come yet.</p>"
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    scale = (WIDTH - LABEL - 90) / max(last - first, 1)
    services = list(dict.fromkeys(span.service for span in spans))
    depths = depths_of(spans)
    rows = [
        draw_row(
            span,
            top=ROW * (row + 1),
            indent=depths[span.id],
            colour=COLOURS[services.index(span.service) % len(COLOURS)],
            start=LABEL + (span.start - first) * scale,
            scale=scale,
        )
        for row, span in enumerate(spans)
    ]
    legend = "".join(
        f'<tspan fill="{COLOURS[index % len(COLOURS)]}">\u25a0 {escape(service)}  </tspan>'
        for index, service in enumerate(services)
    )
    height = ROW * (len(spans) + 1) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        ' font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/><text x="8" y="16">{legend}</text>'
        f"{''.join(rows)}</svg>\n"
    )


def draw_row(span: Span, *, top: int, indent: int, colour: str, start: float, scale: float) -> str:
    width = max((span.end - span.start) * scale, 2)
    middle = top + ROW / 2
    dots = "".join(
        f'<circle cx="{start + (moment - span.start) * scale:.1f}" cy="{middle}" r="3"'
        f' fill="#fff" stroke="#333"><title>{escape(name)}</title></circle>'
        for moment, name in span.events
    )
    marks = "\n".join(f"{key}: {value}" for key, value in span.attributes.items())
    edge = ' stroke="#d00" stroke-width="2"' if span.failed else ""
    return (
        f'<g><title>{escape(marks)}</title><text x="{8 + 14 * indent}" y="{middle + 4}">'
        f'{escape(span.name)} <tspan fill="#777">{span.kind}</tspan></text>'
        f'<rect x="{start:.1f}" y="{top + 4}" width="{width:.1f}" height="{ROW - 8}" rx="2"'
        f' fill="{colour}"{edge}/>{dots}<text x="{start + width + 6:.1f}" y="{middle + 4}"'
        f' fill="#555">{(span.end - span.start) / 1e6:.1f} ms</text></g>'
    )


def depths_of(spans: Sequence[Span]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for span in spans:
        depths[span.id] = depths.get(span.parent, -1) + 1
    return depths
