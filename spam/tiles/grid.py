"""Sections without a table: a regular grid of tiles over the tissue of a slide."""

import math
from pathlib import Path

import numpy as np

from spam.errors import ConfigError, SlideError
from spam.schemas.embed_config import DEFAULT_TILE_UM, EmbedConfig
from spam.sections import JoinReport, Section, SlideSource
from spam.sections.coordinates import find_scale
from spam.sections.lab_section import describe_sources
from spam.typing import Array, Bool, Float64

from .grid_slides import section_name
from .opening import open_slide
from .slide import Slide
from .specs import unknown_mpp
from .thumbnail import Thumbnail, shrink
from .tissue import tissue_mask

__all__ = ["grid_section"]

_MASK_UM = (
    8.0  # about a nucleus: fine enough for the septa of a lung, coarse enough to bridge the gaps in stroma
)
_MASK_PX_PER_TILE = DEFAULT_TILE_UM / _MASK_UM  # the same where µm per pixel is unknown

# Less than a quarter, and an encoder sees glass above all; asking for half would lose what is narrower than a tile
# (septa, the rim of a core).
_LEAST_TISSUE = 0.25

# Standard deviation of the luminance within a cell. Haze and tinted glass have up to 2, tissue 8 to 50.
_PLAIN_BELOW = 3.0

# Each takes some 50 bytes while tissue is looked for, and a tile through an encoder later: no run on purpose has more.
_MOST_CELLS = 20_000_000


def grid_section(path: Path, config: EmbedConfig) -> Section:
    """Lay a regular grid over the tissue of a slide, as a section without counts.

    Cells lie side by side from the upper left corner of the slide, `config.stride_um` apart (default: the
    smallest tile); the tiles are centred on them. A cell becomes a spot if a quarter of it shows tissue
    (`tissue_mask`) and it is not plain, as haze beside tissue is. Only the cell counts, not what a larger tile shows
    around it, so that all tissue is in one cell each; with a step larger than the tile, the cell is the tile.

    Ids (``x12_y7``) name column and row of the grid, which are also in ``obs`` (``array_col``, ``array_row``): they stay
    the same whatever the mask. The name is that of the file, unless ``--section`` gives one.

    Raises
    ------
    ConfigError
        If tiles or step are in µm and µm per pixel is unknown; says what the slide states. If ``--mpp`` is no size of a
        pixel. If the step is so small that the grid has over twenty million cells, or larger than a slide on which then no
        cell shows tissue.
    MissingInputError
        If the slide is not there.
    SlideError
        If it cannot be read (with ``--skip-bad-tiles``: nowhere), or shows no tissue.
    """
    name = config.section or section_name(path)
    option = find_scale(config.mpp, {})
    with open_slide(path) as slide:
        mpp = option.mpp if option.mpp is not None else slide.mpp
        tile_px, stride_px = _sizes(slide, config, mpp, name)
        _require_few(slide, stride_px, mpp)
        cell_px = min(tile_px, stride_px)
        per_mask_px = _MASK_UM / mpp if mpp is not None else tile_px / _MASK_PX_PER_TILE
        is_kept = _cells_with_tissue(
            slide,
            shrink(
                slide,
                scale=1 / per_mask_px,
                purpose="the picture that shows where its tissue is: no tiles are laid there",
                is_forgiving=config.skip_bad_tiles,
            ),
            stride_px=stride_px,
            cell_px=cell_px,
        )
        size = slide.width, slide.height
    rows, columns = np.nonzero(is_kept)
    if not len(rows) and stride_px > min(size):
        message = (
            f"slide {str(path)!r} of {size[0]} x {size[1]} px is narrower than a step of the grid, "
            f"{_length(stride_px, mpp)}, and shows no tissue where its cells lie; take a smaller --stride-um (by default "
            "the smallest tile: --tile-um, --tile-px), or correct --mpp"
        )
        raise ConfigError(message)
    if not len(rows):
        message = (
            f"slide {str(path)!r} shows no tissue: of {is_kept.size} cells of {cell_px:.0f} px none is coloured over "
            f"{_LEAST_TISSUE:.0%} of its area; if there is tissue, say where the tiles are with --csv"
        )
        raise SlideError(message)
    xy_px = (np.stack([columns, rows], axis=1) + 0.5) * stride_px
    tiles = SlideSource(path=path)
    return Section(
        name=name,
        donor=config.donor,
        ids=np.array([f"x{column}_y{row}" for row, column in zip(rows, columns, strict=True)], dtype=np.str_),
        xy_px=xy_px,
        xy_um=None if mpp is None else xy_px * mpp,
        mpp=mpp,
        mpp_source=option.mpp_source or (None if mpp is None else "slide"),
        counts=None,
        genes=None,
        obs={"array_row": rows.astype(np.int64), "array_col": columns.astype(np.int64)},
        tiles=tiles,
        patch_px=None,
        hires_scale=None,
        join=JoinReport(
            n_matched=len(rows),
            n_table_only=0,
            n_h5ad_only=0,
            n_other_sections=0,
            n_outside=0,
            table_only_examples=(),
            h5ad_only_examples=(),
            notes=(),
        ),
        sources=describe_sources(h5ad=None, csv=None, tiles=tiles),
    )


def _sizes(slide: Slide, config: EmbedConfig, mpp: float | None, name: str) -> tuple[float, float]:
    """Return the side of the smallest tile and the step of the grid in full-resolution pixels."""
    tile_um = config.tile_um or (() if config.tile_px else (DEFAULT_TILE_UM,))
    if mpp is None:
        if tile_um:
            raise ConfigError(
                unknown_mpp(
                    f"of {', '.join(f'{um:g}um' for um in tile_um)}", name, slide.path, slide.mpp_note
                )
            )
        if config.stride_um is not None:
            step = f"{config.stride_um:g} µm (--stride-um)"
            raise ConfigError(unknown_mpp(f"every {step}", name, slide.path, slide.mpp_note))
        return float(min(config.tile_px)), float(min(config.tile_px))
    tile_px = min([um / mpp for um in tile_um] + [float(px) for px in config.tile_px])
    return tile_px, tile_px if config.stride_um is None else config.stride_um / mpp


def _require_few(slide: Slide, stride_px: float, mpp: float | None) -> None:
    n_cells = slide.width / stride_px * slide.height / stride_px
    if n_cells <= _MOST_CELLS:
        return
    # A little more, so that no rounding in the message leads to a step that is refused again.
    least = 1.01 * math.sqrt(slide.width / _MOST_CELLS * slide.height)
    message = (
        f"a grid every {_length(stride_px, mpp)} over slide {str(slide.path)!r} of {slide.width} x {slide.height} px has "
        f"{n_cells:.2g} cells, more than {_MOST_CELLS:.0e}; take a step of at least {_length(least, mpp)} with --stride-um "
        "(by default the smallest tile: --tile-um, --tile-px), or correct --mpp"
    )
    raise ConfigError(message)


def _length(px: float, mpp: float | None) -> str:
    return f"{px:.4g} px" if mpp is None else f"{px:.4g} px ({px * mpp:.4g} µm)"


def _cells_with_tissue(
    slide: Slide, picture: Thumbnail, *, stride_px: float, cell_px: float
) -> Bool[Array, "n_rows n_columns"]:
    """Tell which cells of the grid show tissue; a grid has those cells whose centres are on the slide."""
    height, width = picture.image.shape[:2]
    scales = (height / slide.height, width / slide.width)
    edges = [
        (np.arange(max(0, math.ceil(length / stride_px - 0.5))) + 0.5) * stride_px * scale
        for length, scale in zip((slide.height, slide.width), scales, strict=True)
    ]
    half = [cell_px * scale / 2 for scale in scales]

    def mean(values: Float64[Array, "h w"]) -> Array:
        for axis in (0, 1):
            values = _mean_between(values, edges[axis] - half[axis], edges[axis] + half[axis], axis=axis)
        return values

    red, green, blue = np.moveaxis(picture.image, -1, 0)
    luminance = 0.25 * red + 0.5 * green + 0.25 * blue
    inside = mean(np.ones_like(luminance))  # less than 1 for a cell that the border of the slide cuts
    variance = mean(luminance**2) / inside - (mean(luminance) / inside) ** 2
    tissue = mean(tissue_mask(picture.image).astype(np.float64))
    return np.asarray((tissue >= _LEAST_TISSUE) & (variance >= _PLAIN_BELOW**2))


def _mean_between(
    values: Float64[Array, "h w"], low: Float64[Array, " n"], high: Float64[Array, " n"], *, axis: int
) -> Float64[Array, "..."]:
    """Average along one axis over the intervals from `low` to `high`, where element ``i`` covers ``[i, i + 1)``.

    Elements count by the share that lies in the interval; beyond the border the values are 0.
    """
    along = np.moveaxis(values, axis, 0)
    summed = np.concatenate([np.zeros((1, along.shape[1])), np.cumsum(along, axis=0)])

    def up_to(edge: Float64[Array, " n"]) -> Array:
        inside = np.clip(edge, 0, len(along))
        whole = np.minimum(inside.astype(np.int64), len(along) - 1)
        return np.asarray(summed[whole] + (inside - whole)[:, None] * along[whole])

    return np.asarray(np.moveaxis((up_to(high) - up_to(low)) / (high - low)[:, None], 0, axis))
