"""The gene viewer of a report: linked maps drawn by Bokeh, and the values that the browser puts into them."""

import base64
import dataclasses
import gzip
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.core.json_encoder import serialize_json
from bokeh.document import Document
from bokeh.models import ColumnDataSource, LinearColorMapper, Range1d, ScaleBar, WheelZoomTool
from bokeh.palettes import Viridis256
from bokeh.plotting import figure
from PIL import Image

from spam.typing import Array, Float, UInt8

from .expression_maps import SectionView, colour_limits
from .figures import MISSING_COLOUR, UNLIKE_COLOUR

MOST_BYTES = 16_800_000
"""Size of the packed values; the whole file stays below 20 MB, which a mail attachment may have."""

_N_FIRST = 16  # genes to pack first; their size says how many fit
_STEPS, _MISSING = 254, 255  # codes of a value from 0 to 254
_IMAGE_QUALITY = 85
_MANY_SPOTS = 20_000  # above this number, fewer are drawn while a map is moved
_SCALE_BAR: dict[str, Any] = {
    "background_fill_alpha": 0.8,
    "border_line_color": None,
    "length_sizing": "adaptive",
}


def pack(data: bytes) -> str:
    """Compress and encode bytes for a page, where they cannot end an element; equal bytes give equal text."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode("ascii")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackedGene:
    """Values of one gene, one byte per value, layer after layer.

    Attributes
    ----------
    limits
        Smallest and largest value of the maps (``predicted``, ``measured``) and of the interval (``lower``, ``upper``): the
        codes 0 and 254. A value is exact to 1/508 of their difference.
    colours
        Values at the ends of the colour scale.
    values
        `pack` of the codes; 255 for a missing value.
    """

    limits: dict[str, tuple[float, float]]
    colours: tuple[float, float]
    values: str


def pack_gene(layers: Mapping[str, Float[Array, " n_spots"]]) -> PackedGene:
    """Pack ``predicted`` and, if there are any, ``measured``, ``lower`` and ``upper`` of a gene, in this order."""
    groups = {"maps": ("predicted", "measured"), "interval": ("lower", "upper")}
    limits: dict[str, tuple[float, float]] = {}
    codes: dict[str, bytes] = {}
    for group, names in groups.items():
        found = {name: np.asarray(layers[name], dtype=np.float64) for name in names if name in layers}
        values = np.concatenate([*found.values(), np.zeros(0)])
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        limits[group] = low, high
        for name, layer in found.items():
            share = np.nan_to_num((layer - low) / ((high - low) or 1.0))
            code = np.where(np.isfinite(layer), np.rint(share * _STEPS), _MISSING).astype(np.uint8)
            codes[name] = code.tobytes()
    shown = np.concatenate([layers[name] for name in groups["maps"] if name in layers])
    packed = pack(b"".join(codes[name] for name in layers))
    return PackedGene(limits=limits, colours=colour_limits(shown), values=packed)


def pack_genes(
    read: Callable[[Sequence[str]], Mapping[str, Float[Array, "n_spots n_genes"]]],
    ranked: Sequence[str],
    n_wanted: int,
) -> dict[str, PackedGene]:
    """Pack the first `n_wanted` genes, and of the others as many as a page has room for (at least one gene in all).

    Parameters
    ----------
    read
        Returns the layers of some genes. Each call may read a whole file, so there are few.
    ranked
        Genes, the most important first.
    """
    packed: dict[str, PackedGene] = {}
    n_bytes, n_next = 0, max(n_wanted, _N_FIRST)
    while len(packed) < len(ranked):
        names = ranked[len(packed) :][:n_next]
        layers = read(names)
        for column, gene in enumerate(names):
            one = pack_gene({layer: values[:, column] for layer, values in layers.items()})
            n_bytes += len(one.values)
            if packed and len(packed) >= n_wanted and n_bytes > MOST_BYTES:
                return packed
            packed[gene] = one
        n_next = max(math.ceil((MOST_BYTES - n_bytes) * len(packed) / n_bytes), 1)
    return packed


def viewer_maps(view: SectionView, *, has_measured: bool) -> dict[str, Any]:
    """Build the Bokeh document of the maps: H&E (if there is an image), measured (if known) and predicted.

    The maps share their ranges (µm, or pixels if the scale is unknown) and one colour scale. The sources are empty: the page
    fills ``spots`` (columns x, y, predicted and measured), ``unlike`` and ``chosen`` (x, y). No name from a file is part of it.

    Returns
    -------
    ``document``, JSON of Bokeh; ``maps``, the ids of the roots by map, in order.
    """
    unit, diameter_px = view.mpp or 1.0, view.diameter_px
    left, right, top, bottom = (edge * unit for edge in view.bounds_px)
    shared = {"x_range": Range1d(left, right, name="x"), "y_range": Range1d(bottom, top, name="y")}
    spots = ColumnDataSource({name: [] for name in ("x", "y", "predicted", "measured")}, name="spots")
    unlike, chosen = (ColumnDataSource({"x": [], "y": []}, name=name) for name in ("unlike", "chosen"))
    image = (
        None if view.overview is None else ColumnDataSource({"url": [data_url("jpeg", _jpeg(view.overview))]})
    )
    colours = LinearColorMapper(palette=Viridis256, nan_color=MISSING_COLOUR, name="colours")
    document = Document()
    names = [*(["image"] if image else []), *(["measured"] if has_measured else []), "predicted"]
    for name in names:
        plot = figure(
            name=f"map-{name}",
            aspect_ratio=(right - left) / (bottom - top),
            sizing_mode="stretch_width",
            tools="pan",
            toolbar_location=None,
            min_border=0,
            background_fill_alpha=0.0,
            border_fill_alpha=0.0,
            outline_line_color=None,
            lod_threshold=_MANY_SPOTS,
            **shared,
        )
        plot.axis.visible = plot.grid.visible = False
        plot.add_tools(WheelZoomTool(modifiers="ctrl"))
        if view.overview is not None:
            height, width = (size / view.overview_scale * unit for size in view.overview.shape[:2])
            plot.image_url("url", x=0, y=0, w=width, h=height, source=image, name="tissue")
        radius = diameter_px / 2 * unit
        if name != "image":
            fill = {"field": name, "transform": colours}
            look = {"fill_color": fill, "line_color": None, "name": "discs"}
            plot.circle("x", "y", radius=radius, source=spots, **look)
        ring = {"radius": radius, "fill_color": None}
        plot.circle("x", "y", source=unlike, line_color=UNLIKE_COLOUR, line_width=1.5, name="marks", **ring)
        for colour, width_px in (("#000000", 5), ("#FFFFFF", 2)):
            plot.circle("x", "y", source=chosen, line_color=colour, line_width=width_px, **ring)
        if name == names[0] and view.mpp is not None:
            plot.add_layout(ScaleBar(unit="µm", location="bottom_left", **_SCALE_BAR))
        document.add_root(plot)
    roots = [str(root.id) for root in document.roots]
    return {"document": serialize_json(document.to_json()), "maps": dict(zip(names, roots, strict=True))}


def palette_stops(n_stops: int = 9) -> Sequence[str]:
    """Return colours of the maps' scale from low to high, at equal steps."""
    return [Viridis256[i] for i in np.linspace(0, 255, n_stops).astype(int)]


def _jpeg(image: UInt8[Array, "height width 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_IMAGE_QUALITY)
    return file.getvalue()


def data_url(kind: str, content: bytes) -> str:
    """Write an image as an address that contains it; `kind` is ``jpeg`` or ``png``."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
