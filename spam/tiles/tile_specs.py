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
from spam.sections.coordinates import overridden, require_pitch
from spam.sections.lab_section import quoted
from spam.typing import Array, Bool, Float64

from .slide import Slide
from .slide_formats import open_slide

_MPP_TOLERANCE = 0.05  # nominal and measured pixel sizes differ by a few per cent; a wrong one by a factor

# Spots in hires pixels fill most of the hires image, which covers one corner of the slide.
_CORNER = 0.25
_FILLED = 0.6
_NEARLY_ALL = 0.95

_MOST_OF_SLIDE = 2  # a small picture around a spot may be smaller than its tile


def locate(section: Section, slide: Slide) -> Section:
    """Check the coordinates of a section against its slide, and take µm per pixel from the slide if unknown.

    Coordinates are never changed: if they do not fit, the error names the options that would make them fit.

    Returns
    -------
    Section
        The section itself, or a copy with `mpp` and ``mpp_source="slide"``, or with the notes of the slide.

    Raises
    ------
    SlideError
        If h5ad and slide disagree on µm per pixel by more than 5 %, and ``--mpp`` does not decide.
    TileError
        If a coordinate lies outside the slide, or nearly all lie in a corner of the size of the hires image.
    """
    xy, size = section.xy_px, np.array([slide.width, slide.height])
    if slide.mpp is not None and section.mpp is None:
        section = dataclasses.replace(section, mpp=slide.mpp, mpp_source="slide")
    mpp, slide_mpp = section.mpp or 0.0, slide.mpp or section.mpp or 0.0
    notes = slide.notes
    if section.mpp_source == "option" and slide.mpp is not None:
        notes += tuple(filter(None, [overridden(mpp, f"slide {slide.path.name!r}", slide.mpp)]))
    elif abs(mpp - slide_mpp) > _MPP_TOLERANCE * slide_mpp:
        about = f"Section {section.name!r} has {mpp:g} µm per pixel ({section.mpp_source})"
        message = f"{about}, but slide {slide.path.name!r} states {slide_mpp:g}. Give the right --mpp."
        raise SlideError(message)
    is_inside = _inside(xy, slide)
    if not is_inside.all():
        outside = np.flatnonzero(~is_inside)
        named = f"{quoted(section.ids[outside])}, the first at ({xy[outside[0], 0]:g}, {xy[outside[0], 1]:g})"
        is_folder = any(
            source.role == "folder" for source in section.sources
        )  # its positions have one meaning
        is_in_px = section.array is not None and abs(section.array.mpp - mpp) <= _MPP_TOLERANCE * mpp
        other_readings = {} if is_folder else {"x and y exchanged (--swap-xy)": xy[:, ::-1]}
        if not (is_folder or is_in_px):
            other_readings["--coordinates um"] = xy / (section.mpp or np.nan)
            other_readings["--coordinates hires"] = xy / (section.hires_scale or np.nan)
        fitting = {option: int(_inside(at, slide).sum()) for option, at in other_readings.items()}
        best = max([is_inside.sum(), *fitting.values()])  # a few wrong rows must not hide what all others say
        fits = [
            f"{'All' if n == len(xy) else f'{n} of {len(xy)}'} fit with {option}"
            for option, n in fitting.items()
            if n == best > is_inside.sum()
        ]
        checks = "Check --csv, --coordinates, --swap-xy and --mpp"
        if is_folder:
            checks = "Give the image that the positions belong to (--image)"
        message = (
            f"{len(outside)} of {len(xy)} spots of section {section.name!r} lie outside slide {slide.path.name!r} "
            f"({size[0]} x {size[1]} px): {named}. {'; '.join(fits) or checks}."
        )
        message += "".join(
            f" Note: {note}." for note in slide.notes
        )  # a turned slide, or another picture than expected
        raise TileError(message)
    scale = section.hires_scale or 1.0
    in_corner = xy[(xy < size * scale).all(axis=1)]
    is_most = len(in_corner) >= _NEARLY_ALL * len(xy)
    if scale <= _CORNER and is_most and (np.ptp(in_corner, axis=0) > _FILLED * size * scale).all():
        where = f"the corner of slide {slide.path.name!r} with the size of the hires image (scale {scale:g})"
        message = f"The spots of section {section.name!r} fill {where}. Use --coordinates hires, or correct the scale."
        raise TileError(message)
    return with_notes(section, notes) if notes else section


def with_notes(section: Section, notes: Sequence[str]) -> Section:
    """Return a copy of a section with further notes for the user."""
    return dataclasses.replace(
        section, join=dataclasses.replace(section.join, notes=(*section.join.notes, *notes))
    )


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
        first, names = next(iter(unreadable.values())), quoted([path.name for path in unreadable])
        found = f"{len(unreadable)} of {len(files)} tile files cannot be read: {names}"
        message = f"{found}. {first}" + ("" if is_forgiving else " To skip such tiles, use --skip-bad-tiles.")
        raise SlideError(message) from first
    (width, height), n_alike = Counter(sizes.values()).most_common(1)[0]
    unlike = [path.name for path, size in sizes.items() if size != (width, height)]
    if unlike or width != height:
        found = f"{n_alike} of {len(sizes)} have {width} x {height} px, unlike {quoted(unlike) or 'a square'}"
        message = f"Tile files must be squares of one size, but {found}."
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
    SectionError
        If µm per pixel contradicts the distance of the spots.
    """
    require_pitch(section.array, section.mpp, section.mpp_source, section.name)
    all_um, all_px, tiles = config.tile_um, config.tile_px, section.tiles
    if not all_um and not all_px and isinstance(tiles, TileFiles):
        is_forgiving = config.skip_bad_tiles
        side = common_side_px(tiles.paths if is_forgiving else tiles.paths[:1], is_forgiving=is_forgiving)
        all_um, all_px = ((), (side,)) if section.mpp is None else ((round(side * section.mpp, 1),), ())
    elif not all_um and not all_px:
        all_um, all_px = ((DEFAULT_TILE_UM,), ()) if section.patch_px is None else ((), (section.patch_px,))
    specs = [TileSpec(tile_um=um, out_px=input_px) for um in all_um]
    if section.mpp is None and specs:
        found = "tile files state none"
        if isinstance(tiles, SlideSource):
            found = f"slide {tiles.path.name!r} {mpp_note}"
        raise ConfigError(unknown_mpp(f"of {', '.join(spec.label for spec in specs)}", section.name, found))
    specs += [TileSpec(tile_px=px, out_px=input_px) for px in all_px]
    return tuple(dict.fromkeys(specs))


def require_sizes(specs: Sequence[TileSpec], section: Section, slide: Slide) -> None:
    """Raise if a tile has less than a pixel of the slide, or is more than twice as large as the slide.

    Raises
    ------
    TileError
        Names the option, and both sizes in pixels.
    """
    longest = max(slide.width, slide.height)
    for spec in specs:
        side = spec.native_px(section.mpp)
        if not 1 <= side <= _MOST_OF_SLIDE * longest:
            option = f"--tile-px {spec.tile_px}" if spec.tile_um is None else f"--tile-um {spec.tile_um:g}"
            found = f"is {side:.4g} px at {section.scale} on slide {slide.path.name!r} of {slide.width} x {slide.height} px"
            message = (
                f"Section {section.name!r}: {option} {found}. Give a size between one pixel and the slide."
            )
            raise TileError(message)


def unknown_mpp(tiles: str, section: str, found: str) -> str:
    """Return the message that tiles in µm need a pixel size, with what is found instead."""
    needed = f"Tiles {tiles} of section {section!r} need µm per pixel, but {found}"
    return f"{needed}. Give --mpp, or the tiles in pixels with --tile-px."
