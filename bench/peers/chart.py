"""Draw ``throughput.svg`` from ``results.json``: ``python -m bench.peers.chart``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
IN_FLIGHT = "64"
SUBTITLE = (
    f"A small message to a named object and its answer, {IN_FLIGHT} calls in flight."
    " Longer is better."
)

WIDTH, LABELS, NUMBERS = 780, 250, 90
TOP, ROW, BAR = 62, 30, 18

STYLE = """
  text { font: 14px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; \
fill: #1f2328 }
  .title { font-size: 17px; font-weight: 600 }
  .small { font-size: 12px; fill: #656d76 }
  text.rio { font-weight: 600 }
  rect.rio { fill: #1a7f37 }
  rect.peer { fill: #afb8c1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .small { fill: #8d96a0 }
    rect.rio { fill: #3fb950 }
    rect.peer { fill: #484f58 }
  }
"""


def main() -> None:
    (HERE / "throughput.svg").write_text(draw(json.loads((HERE / "results.json").read_text())))


def draw(results: dict[str, Any]) -> str:
    peers = [
        peer for peer in results["peers"] if IN_FLIGHT in peer["typical"] and not peer["yardstick"]
    ]
    speeds = {peer["title"]: peer["typical"][IN_FLIGHT]["calls_per_second"] for peer in peers}
    fastest = max(speeds.values())
    rows = [
        row(place, title, speed, (WIDTH - LABELS - NUMBERS) * speed / fastest)
        for place, (title, speed) in enumerate(sorted(speeds.items(), key=lambda pair: -pair[1]))
    ]
    foot = (
        f"Two processes on loopback, CPython {results['python']}, {results['cores']} cores,"
        f" of which other work took {results['cores_used_by_others']:.1f};"
        f" {results['date'][:10]}, make bench-peers"
    )
    height = TOP + ROW * len(rows) + 26
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
            f' width="{WIDTH}" height="{height}" role="img">',
            "<title>Calls a second, 64 in flight</title>",
            f"<style>{STYLE}</style>",
            '<text class="title" x="0" y="20">Calls a second</text>',
            f'<text class="small" x="0" y="42">{SUBTITLE}</text>',
            *rows,
            f'<text class="small" x="0" y="{height - 6}">{escape(foot)}</text>',
            "</svg>\n",
        ]
    )


def row(place: int, title: str, speed: float, length: float) -> str:
    kind = "rio" if title.startswith("rio,") else "peer"
    top = TOP + ROW * place + ROW // 2 - BAR // 2
    width = max(length, 1.5)
    baseline = top + BAR // 2 + 5
    number = f"{float(f'{speed:.3g}'):,.0f}"
    return "\n".join(
        [
            f'<text class="{kind}" x="{LABELS - 10}" y="{baseline}" text-anchor="end">'
            f"{escape(title)}</text>",
            f'<rect class="{kind}" x="{LABELS}" y="{top}"'
            f' width="{width:.1f}" height="{BAR}" rx="3"/>',
            f'<text class="{kind}" x="{LABELS + width + 8:.1f}" y="{baseline}">{number}</text>',
        ]
    )


if __name__ == "__main__":
    main()
