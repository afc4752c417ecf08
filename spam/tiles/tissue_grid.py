"""Sections without a table: tissue on a slide, and a regular grid of tiles over it."""

import logging
import math
from collections import Counter
from pathlib import Path

import numpy as np

from spam.errors import ConfigError, MissingInputError, SectionError, SlideError
from spam.schemas.embed_config import DEFAULT_TILE_UM, EmbedConfig
from spam.sections import JoinReport, Section, SlideSource
from spam.sections.coordinates import find_scale, overridden
from spam.sections.geojson import read_regions, select_regions
from spam.sections.lab_section import describe_sources, is_slide, quoted, slide_files
from spam.typing import Array, Bool, Float64, Int64, UInt8

from .slide import Slide
from .slide_formats import reader_of
from .tile_cutting import Thumbnail, shrink
from .tile_specs import unknown_mpp

_log = logging.getLogger(__name__)

_SLIDE_NAMES = (
    ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".tif", ".tiff", ".dcm", ".zarr", ".png", ".jpg", ".jpeg",
)  # fmt: skip

# Strength of colour, largest minus smallest channel. Real sections (HER2ST, Xenium lung, olfactory bulb, mouse brain,
# an Aperio slide) have their Otsu threshold at 22 to 30, tinted glass 3 to 18 and tissue 39 to 55 on average.
_MOST_OF_GLASS = 30
_TWO_KINDS_APART = 12

_MASK_UM = 8.0  # about a nucleus: resolves the septa of a lung, and bridges the gaps in stroma
_MASK_PX_PER_TILE = DEFAULT_TILE_UM / _MASK_UM  # the same if µm per pixel is unknown
# Below a quarter, an encoder sees mostly glass; half would lose tissue narrower than a tile (septa, the rim of a core).
_LEAST_TISSUE = 0.25
# Standard deviation of the luminance within a cell. Haze and tinted glass have up to 2, tissue 8 to 50.
_PLAIN_BELOW = 3.0
_MOST_CELLS = 20_000_000  # some 50 bytes each; more come from a wrong --mpp or --stride-um


def grid_slides(root: Path, *, section: str | None = None) -> tuple[Path, ...]:
    """Find the slides to lay a grid over: `root` itself, or the slides in this folder (not deeper), sorted.

    Other files are named in a warning.

    Parameters
    ----------
    root
        A slide, or a folder of slides.
    section
        Requested name (``--section``), for a single slide.

    Raises
    ------
    MissingInputError
        If `root` does not exist.
    SlideError
        If the folder has no slide, a damaged one, or loose DICOM files, which may belong to any slide.
    ConfigError
        If one name is requested for several slides.
    SectionError
        If two slides would give sections of the same name.
    """
    if not root.exists():
        message = f"File or folder not found: {root} (--root)."
        raise MissingInputError(message)
    if is_slide(root):
        return (root,)
    entries = sorted(root.glob("[!.]*"))
    slides = [entry for entry in entries if reader_of(entry) is not None]
    files = [slide for slide in slides if slide.is_file()]
    loose = [file.name for file in files if root in {part.parent for part in slide_files(file)[1:]}]
    companions = {file.with_suffix("") for file in files}
    others = [entry.name for entry in entries if entry not in slides and entry not in companions]
    broken = [name for name in others if name.lower().endswith(_SLIDE_NAMES)]
    for is_wrong, fault in (
        (loose, f"loose DICOM files ({quoted(loose)}). Give each slide its own folder"),
        (not slides, f"no slide, only {quoted(others)}" if others else "no files"),
        (broken, f"{quoted(broken)}, which cannot be read; copy them again, or remove them"),
    ):
        if is_wrong:
            message = f"Folder {str(root)!r} (--root) has {fault}."
            raise SlideError(message)
    if others:
        _log.warning("%s: %d entries are no slides: %s", root, len(others), quoted(others))
    if section is not None and len(slides) > 1:
        message = f"--section {section!r} names one section, but --root has {len(slides)} slides."
        raise ConfigError(message)
    repeated = [name for name, n in Counter(map(_section_name, slides)).items() if n > 1]
    if repeated:
        message = f"Several slides in {str(root)!r} are named {quoted(repeated)}. Rename them."
        raise SectionError(message)
    return tuple(slides)


def _section_name(path: Path) -> str:
    return path.stem.removesuffix(".ome")


def grid_section(slide: Slide, config: EmbedConfig) -> Section:
    """Lay a regular grid over the tissue of a slide, as a section without counts.

    Cells lie side by side from the upper left corner of the slide, `config.stride_um` apart (default: the smallest tile);
    the tiles are centred on them. A cell becomes a spot if at least a quarter of it is tissue (`tissue_mask`) and it is
    not plain, as haze beside tissue is. Only the cell counts, not the surroundings that a larger tile shows, so that all
    tissue is in exactly one cell; with a step larger than the tile, the cell is the tile.

    Ids (``x12_y7``) are column and row of the grid, which are also in ``obs`` (``array_col``, ``array_row``): they do not
    depend on the mask. The name is that of the file, or ``--section``.

    Raises
    ------
    ConfigError
        If tiles or step are in µm and µm per pixel is unknown, ``--mpp`` is impossible, or the step is too small (over
        twenty million cells).
    SlideError
        If the slide cannot be read (with ``--skip-bad-tiles``: nowhere), or shows no tissue.
    """
    name = config.section or _section_name(slide.path)
    option = find_scale(config.mpp, {})
    mpp = option.mpp or slide.mpp
    notes = [*slide.notes]
    if option.mpp is not None and slide.mpp is not None:
        notes += filter(None, [overridden(option.mpp, f"slide {slide.path.name!r}", slide.mpp)])
    tile_px, stride_px = _sizes(slide, config, mpp, name)
    step = f"{stride_px:.4g} px" if mpp is None else f"{stride_px:.4g} px ({stride_px * mpp:.4g} µm)"
    where = f"slide {str(slide.path)!r} ({slide.width} x {slide.height} px)"
    n_cells = slide.width / stride_px * slide.height / stride_px
    if n_cells > _MOST_CELLS:
        message = f"A grid every {step} over {where} has {n_cells:.2g} cells. Use a larger --stride-um, or correct --mpp."
        raise ConfigError(message)
    picture = shrink(
        slide,
        scale=mpp / _MASK_UM if mpp is not None else _MASK_PX_PER_TILE / tile_px,
        is_forgiving=config.skip_bad_tiles,
    )
    regions = () if config.regions is None else read_regions(config.regions)[0]
    is_kept = _cells_with_tissue(slide, picture, stride_px=stride_px, cell_px=min(tile_px, stride_px))
    for region in regions:
        if region.is_tissue:  # drawn by hand: certain
            rows, columns = np.indices(is_kept.shape).reshape(2, -1)
            centres = (np.stack([columns, rows], axis=1) + 0.5) * stride_px
            is_kept |= region.contains(centres).reshape(is_kept.shape)
    rows, columns = np.nonzero(is_kept)
    if not len(rows):
        found = f"none of {is_kept.size} cells every {step} is tissue on {_LEAST_TISSUE:.0%} of its area"
        message = f"No tissue on {where}: {found}. Check --mpp and --stride-um, or give the tiles with --csv."
        raise SlideError(message)
    tiles = SlideSource(path=slide.path)
    section = Section(
        name=name,
        donor=config.donor,
        ids=np.array([f"x{column}_y{row}" for row, column in zip(rows, columns, strict=True)], dtype=np.str_),
        xy_px=(np.stack([columns, rows], axis=1) + 0.5) * stride_px,
        mpp=mpp,
        mpp_source=option.mpp_source or (None if mpp is None else "slide"),
        obs={"array_row": rows.astype(np.int64), "array_col": columns.astype(np.int64)},
        tiles=tiles,
        join=JoinReport(n_matched=len(rows), notes=tuple(notes)),
        sources=describe_sources(tiles),
    )
    return select_regions(section, config.regions)


def _sizes(slide: Slide, config: EmbedConfig, mpp: float | None, name: str) -> tuple[float, float]:
    """Return the side of the smallest tile and the step of the grid in full-resolution pixels."""
    tile_um = config.tile_um or (() if config.tile_px else (DEFAULT_TILE_UM,))
    if mpp is None and (tile_um or config.stride_um is not None):
        sizes = f"of {', '.join(f'{um:g}um' for um in tile_um)}"
        asked = sizes if tile_um else f"every {config.stride_um:g} µm (--stride-um)"
        raise ConfigError(unknown_mpp(asked, name, f"slide {slide.path.name!r} {slide.mpp_note}"))
    tile_px = min([um / (mpp or 1.0) for um in tile_um] + [float(px) for px in config.tile_px])
    return tile_px, tile_px if config.stride_um is None else config.stride_um / (mpp or 1.0)


def _cells_with_tissue(
    slide: Slide, picture: Thumbnail, *, stride_px: float, cell_px: float
) -> Bool[Array, "n_rows n_columns"]:
    """Return which cells of the grid show tissue; a grid has the cells whose centres are on the slide."""
    height, width = picture.image.shape[:2]
    down, across = (
        _overlap(size_px, n, stride_px=stride_px, cell_px=cell_px)
        for size_px, n in ((slide.height, height), (slide.width, width))
    )
    area = (cell_px * height / slide.height) * (cell_px * width / slide.width)

    def mean(values: Float64[Array, "h w"]) -> Float64[Array, "n_rows n_columns"]:
        return np.asarray(down @ values @ across.T / area)

    red, green, blue = np.moveaxis(picture.image, -1, 0)
    luminance = 0.25 * red + 0.5 * green + 0.25 * blue
    inside = mean(np.ones_like(luminance))  # less than 1 for a cell that the border of the slide cuts
    variance = mean(luminance**2) / inside - (mean(luminance) / inside) ** 2
    tissue = mean(tissue_mask(picture.image).astype(np.float64))
    return np.asarray((tissue >= _LEAST_TISSUE) & (variance >= _PLAIN_BELOW**2))


def _overlap(size_px: int, n: int, *, stride_px: float, cell_px: float) -> Float64[Array, "n_cells n"]:
    """Return the length along one axis by which each cell overlaps each of the `n` pixels of the picture."""
    scale = n / size_px
    centres = (np.arange(max(0, math.ceil(size_px / stride_px - 0.5))) + 0.5) * stride_px * scale
    low, high = ((centres + sign * cell_px * scale / 2)[:, None] for sign in (-1, 1))
    pixels = np.arange(n)
    return np.asarray(np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None))


def tissue_mask(image: UInt8[Array, "h w 3"]) -> Bool[Array, "h w"]:
    """Return which pixels of a small picture of a slide (about 8 µm per pixel) show tissue.

    Glass, dust, shadows and black borders are grey, stained tissue is coloured: the strength of colour (the largest minus
    the smallest channel, which unlike the saturation of HSV is stable in the dark) is split by Otsu's threshold. Otsu
    splits every picture, so two rules protect uniform ones. A threshold above the range of glass is lowered to it. If the
    two halves hardly differ, the picture shows one kind of thing: tissue if it is more coloured than glass.

    Smooth pink haze beside tissue passes, see `grid_section`; so does coloured ink.

    Source: Otsu 1979, doi:10.1109/TSMC.1979.4310076; on saturation in CLAM, Lu et al. 2021,
    doi:10.1038/s41551-020-00682-w.
    """
    colour = image.max(axis=2) - image.min(axis=2)
    threshold = otsu_threshold(np.bincount(colour.ravel(), minlength=256))
    is_strong = colour > threshold
    if not is_strong.any() or colour[is_strong].mean() - colour[~is_strong].mean() < _TWO_KINDS_APART:
        threshold = _MOST_OF_GLASS
    return np.asarray(colour > min(threshold, _MOST_OF_GLASS))


def otsu_threshold(counts: Int64[Array, " n_values"]) -> int:
    """Return the value that splits a histogram into two classes of the least variance within them.

    The lower class includes the value. A histogram of one value gives that value.
    """
    n_low, sum_low = np.cumsum(counts), np.cumsum(counts * np.arange(len(counts)))
    n_high = n_low[-1] - n_low
    low, high = sum_low / np.maximum(n_low, 1), (sum_low[-1] - sum_low) / np.maximum(n_high, 1)
    between = n_low.astype(np.float64) * n_high * (high - low) ** 2  # 0 if a class is empty
    return int(np.argmax(between if between.any() else counts))
