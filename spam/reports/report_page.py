"""A report as one HTML file that loads nothing from elsewhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from bokeh.resources import Resources

PAGE = "report.html"
"""Name of the page in a folder of results."""
_FOLDER = Path(__file__).parent
_WIDTH, _HEIGHT, _LEFT, _TOP = 270, 140, 40, 10  # plot area of a curve in report.html


def render_page(content: Mapping[str, Any]) -> str:
    """Fill the template ``report.html``; every text in `content` is escaped.

    Keys: ``title``, ``kind``, ``verdict``, ``facts``, ``warnings``, ``notes``, ``inputs`` and ``footer``; and those of the
    sections that are shown: ``viewer``, ``scores``, ``curves``, ``health``, ``quality``, ``reading``.
    """
    read = {name: (_FOLDER / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    bokeh = "".join(Resources(mode="inline", components=["bokeh"]).js_raw) if content.get("viewer") else ""
    loader = jinja2.FileSystemLoader(_FOLDER)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.ChainableUndefined
    )
    return environment.get_template("report.html").render({**content, **read, "bokeh": bokeh})


def curve(title: str, points: Sequence[tuple[int, float]], kept: int) -> dict[str, Any]:
    """Lay out values by epoch as a curve; `kept` is the epoch that was kept."""
    epochs, values = zip(*points, strict=True)
    low, high, last = min(values), max(values), max(epochs)
    x = [_LEFT + _WIDTH * epoch / last for epoch in epochs]
    y = [_TOP + _HEIGHT * (high - value) / ((high - low) or 1.0) for value in values]
    at_kept = dict(points).get(kept, values[-1])
    return {
        "title": title,
        "text": f"{title}: {values[0]:.3g} at the start, {at_kept:.3g} at epoch {kept}, {values[-1]:.3g} at the end",
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "last": last,
        "best_x": f"{_LEFT + _WIDTH * kept / last:.1f}",
        "points": " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)),
    }
