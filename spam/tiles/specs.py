"""Which tiles a section gets, when the options say it and when they do not."""

from pathlib import Path

from spam.errors import ConfigError
from spam.schemas.embed_config import DEFAULT_TILE_UM, EmbedConfig
from spam.schemas.tile_spec import TileSpec
from spam.sections import Section, TileFiles

from .tile_files import common_side_px, side_px

__all__ = ["resolve_tile_specs", "unknown_mpp"]


def resolve_tile_specs(
    section: Section, config: EmbedConfig, *, input_px: int, mpp_note: str | None = None
) -> tuple[TileSpec, ...]:
    """Choose the tile sizes of a section, each once and in the order given.

    ``--tile-um`` or ``--tile-px`` as given. With neither: the whole extent of tile files (in µm, rounded to
    0.1, if the µm per pixel is known, else in pixels); else the patch size that the section's table states;
    else 112 µm.

    Parameters
    ----------
    section
        Section, with its mpp known if that can be (see `locate`).
    config
        Options.
    input_px
        Side of the image that the encoder takes, in pixels.
    mpp_note
        What the section's slide states in place of a µm per pixel that can be believed (`Slide.mpp_note`).

    Raises
    ------
    ConfigError
        If tiles are in µm and the section's µm per pixel is unknown.
    """
    specs = [TileSpec(tile_um=um, out_px=input_px) for um in config.tile_um]
    specs += [TileSpec(tile_px=px, out_px=input_px) for px in config.tile_px]
    if not specs:
        specs = [_default_spec(section, input_px, is_forgiving=config.skip_bad_tiles)]
    if section.mpp is None and any(spec.tile_um is not None for spec in specs):
        slide = None if isinstance(section.tiles, TileFiles) else section.tiles.path
        labels = ", ".join(spec.label for spec in specs)
        raise ConfigError(unknown_mpp(f"of {labels}", section.name, slide, mpp_note))
    return tuple(dict.fromkeys(specs))


def _default_spec(section: Section, input_px: int, *, is_forgiving: bool) -> TileSpec:
    if isinstance(section.tiles, TileFiles):
        paths = section.tiles.paths
        file_px = common_side_px(paths, is_forgiving=True) if is_forgiving else side_px(paths[0])
        if section.mpp is None:
            return TileSpec(tile_px=file_px, out_px=input_px)
        return TileSpec(tile_um=round(file_px * section.mpp, 1), out_px=input_px)
    if section.patch_px is not None:
        return TileSpec(tile_px=section.patch_px, out_px=input_px)
    return TileSpec(tile_um=DEFAULT_TILE_UM, out_px=input_px)


def unknown_mpp(tiles: str, section: str, slide: Path | None, mpp_note: str | None) -> str:
    """Say that tiles cannot be cut, since nobody said how large a pixel is, and what the slide says instead."""
    found = (
        "tile files do not state it"
        if slide is None
        else f"the slide {slide.name!r} {mpp_note or 'states no pixel size'}"
    )
    return (
        f"tiles {tiles} cannot be cut for section {section!r}: neither the options nor the h5ad say how many µm a "
        f"pixel has, and {found}; give --mpp, or ask for tiles in slide pixels with --tile-px"
    )
