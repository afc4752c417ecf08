"""Fits a section to its images: pixel size and coordinates on its slide, the size of its tile files, its tile sizes."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spam.errors import ConfigError, SlideError, TileError
from spam.schemas.embed_config import DEFAULT_TILE_UM, EmbedConfig
from spam.schemas.tile_spec import TileSpec
from spam.sections import Section, SlideSource, TileFiles
from spam.sections.lab_section import quoted
from spam.typing import Array, Bool, Float64

from .slide import Slide
from .slide_formats import open_slide

_MPP_TOLERANCE = 0.05  # nominal and measured pixel sizes differ by a few per cent; a wrong one by a factor
_N_NAMED = 5

# Spots in hires pixels fill most of the hires image, which covers one corner of the slide.
_CORNER = 0.25
_FILLED = 0.6


def locate(section: Section, slide: Slide) -> Section:
    """Check the coordinates of a section against its slide, and take µm per pixel from the slide if unknown.

    Coordinates are never changed: if they do not fit, the error names the options that would make them fit.

    Returns
    -------
    Section
        The section itself, or a copy with `mpp` and ``mpp_source="slide"``.

    Raises
    ------
    SlideError
        If h5ad and slide disagree on µm per pixel by more than 5 %, and ``--mpp`` does not decide.
    TileError
        If a coordinate lies outside the slide, or all lie in a corner of the size of the hires image.
    """
    xy, size = section.xy_px, np.array([slide.width, slide.height])
    if slide.mpp is not None and section.mpp is None:
        section = dataclasses.replace(section, mpp=slide.mpp, mpp_source="slide")
    mpp, slide_mpp = section.mpp or 0.0, slide.mpp or section.mpp or 0.0
    if section.mpp_source != "option" and abs(mpp - slide_mpp) > _MPP_TOLERANCE * slide_mpp:
        message = (
            f"Section {section.name!r} has {mpp:g} µm per pixel ({section.mpp_source}), but slide "
            f"{slide.path.name!r} states {slide_mpp:g}. Give the right one with --mpp."
        )
        raise SlideError(message)
    outside = np.flatnonzero(~_inside(xy, slide))
    if len(outside):
        first = outside[:_N_NAMED]
        named = ", ".join(f"{str(section.ids[i])!r} at ({xy[i, 0]:g}, {xy[i, 1]:g})" for i in first)
        more = f" and {len(outside) - _N_NAMED} more" if len(outside) > _N_NAMED else ""
        fits = [
            f"all fit with {option}"
            for option, moved in (
                ("x and y exchanged (--swap-xy)", xy[:, ::-1]),
                ("--coordinates um", xy / (section.mpp or np.nan)),
                ("--coordinates hires", xy / (section.hires_scale or np.nan)),
            )
            if _inside(moved, slide).all()
        ]
        advice = "; ".join(fits) or "check --csv, --coordinates, --swap-xy and --mpp"
        message = (
            f"{len(outside)} of {len(xy)} spots of section {section.name!r} lie outside slide {slide.path.name!r} "
            f"({size[0]} x {size[1]} px): {named}{more}. Advice: {advice}."
        )
        raise TileError(message)
    scale = section.hires_scale
    if scale is not None and scale <= _CORNER:
        is_in_corner = (xy.max(axis=0) < size * scale).all()
        if is_in_corner and (np.ptp(xy, axis=0) > _FILLED * size * scale).all():
            message = (
                f"All spots of section {section.name!r} fill the corner of slide {slide.path.name!r} that has the size "
                f"of its hires image (scale {scale:g}). Use --coordinates hires, or remove the scale from the h5ad."
            )
            raise TileError(message)
    return section


def _inside(xy_px: Float64[Array, "n 2"], slide: Slide) -> Bool[Array, " n"]:
    return np.asarray(((xy_px >= 0) & (xy_px < (slide.width, slide.height))).all(axis=1))


def common_side_px(paths: Sequence[Path], *, is_forgiving: bool = False) -> int:
    """Read the side that all tile files share, in pixels, from their headers.

    Parameters
    ----------
    paths
        The files.
    is_forgiving
        Whether unreadable files are ignored, unless all are.

    Raises
    ------
    MissingInputError
        If a file does not exist.
    SlideError
        If files are unreadable; counts them, and quotes the first error.
    TileError
        If a file is not square, or the files differ in size; names those that differ from the most frequent size.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    unreadable: dict[Path, SlideError] = {}
    files = tuple(dict.fromkeys(paths))
    for path in files:
        try:
            with open_slide(path) as tile:
                sizes[path] = tile.width, tile.height
        except SlideError as error:
            unreadable[path] = error
    if unreadable and not (is_forgiving and sizes):
        first = next(iter(unreadable.values()))
        message = (
            f"{len(unreadable)} of {len(files)} tile files cannot be read: {quoted([p.name for p in unreadable])}. "
            f"{first} To skip such tiles, use --skip-bad-tiles."
        )
        raise SlideError(message) from first
    (width, height), n_alike = Counter(sizes.values()).most_common(1)[0]
    unlike = [path.name for path, size in sizes.items() if size != (width, height)]
    if unlike or width != height:
        message = (
            f"Tile files must be squares of one size, but {n_alike} of {len(sizes)} have {width} x {height} px"
            + (f", unlike {quoted(unlike)}." if unlike else ".")
        )
        raise TileError(message)
    return width


def resolve_tile_specs(
    section: Section, config: EmbedConfig, *, input_px: int, mpp_note: str | None = None
) -> tuple[TileSpec, ...]:
    """Choose the tile sizes of a section, each once and in the given order.

    ``--tile-um`` or ``--tile-px`` as given. Default: the whole extent of tile files (in µm, rounded to 0.1, if the µm per
    pixel is known, else in pixels); else the tile size that the table states; else 112 µm.

    Parameters
    ----------
    section
        Section, with its mpp known if possible (see `locate`).
    config
        Options.
    input_px
        Side of the encoder's input in pixels.
    mpp_note
        What the slide states instead of a plausible µm per pixel (`Slide.mpp_note`).

    Raises
    ------
    ConfigError
        If tiles are in µm and the section's µm per pixel is unknown.
    """
    specs = [TileSpec(tile_um=um, out_px=input_px) for um in config.tile_um]
    specs += [TileSpec(tile_px=px, out_px=input_px) for px in config.tile_px]
    tiles = section.tiles
    if not specs and isinstance(tiles, TileFiles):
        is_forgiving = config.skip_bad_tiles
        side = common_side_px(tiles.paths if is_forgiving else tiles.paths[:1], is_forgiving=is_forgiving)
        um = None if section.mpp is None else round(side * section.mpp, 1)
        specs = [TileSpec(tile_um=um, tile_px=side if um is None else None, out_px=input_px)]
    elif not specs:
        um = DEFAULT_TILE_UM if section.patch_px is None else None
        specs = [TileSpec(tile_um=um, tile_px=section.patch_px, out_px=input_px)]
    if section.mpp is None and any(spec.tile_um is not None for spec in specs):
        labels = ", ".join(spec.label for spec in specs)
        slide = tiles.path if isinstance(tiles, SlideSource) else None
        raise ConfigError(unknown_mpp(f"of {labels}", section.name, slide, mpp_note))
    return tuple(dict.fromkeys(specs))


def unknown_mpp(tiles: str, section: str, slide: Path | None, mpp_note: str | None) -> str:
    """Return the message that tiles in µm need a pixel size, with what the slide states instead."""
    found = "Tile files state none"
    if slide is not None:
        found = f"Slide {slide.name!r} {mpp_note or 'states no pixel size'}"
    return (
        f"Tiles {tiles} of section {section!r} need µm per pixel, which is unknown. {found}. "
        "Give --mpp, or the tiles in pixels with --tile-px."
    )
