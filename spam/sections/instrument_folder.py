"""The folder that an instrument wrote: recognise its layout, and read it."""

import contextlib
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import TypeAlias

from spam.errors import ConfigError, MissingInputError, SectionError
from spam.schemas.embed_config import InputConfig

from .instrument_section import InstrumentSection, packed_in, to_section
from .lab_section import Section, quoted, require_name
from .public_collections import (
    is_hest,
    is_legacy_st,
    is_stimage,
    read_hest,
    read_legacy_st,
    read_stimage,
)
from .space_ranger import is_space_ranger, read_space_ranger
from .spatialdata_folder import (
    is_cosmx,
    is_merscope,
    is_spatialdata,
    read_cosmx,
    read_merscope,
    read_spatialdata,
)
from .xenium import is_xenium, read_xenium

# name, test, reader
_Layout: TypeAlias = tuple[str, Callable[[Path], bool], Callable[[Path, InputConfig], InstrumentSection]]
# The first that fits is taken.
_LAYOUTS: tuple[_Layout, ...] = (
    ("Xenium", is_xenium, read_xenium),
    ("Space Ranger", is_space_ranger, read_space_ranger),
    ("HEST-1k", is_hest, read_hest),
    ("STimage-1K4M", is_stimage, read_stimage),
    ("legacy ST", is_legacy_st, read_legacy_st),
    ("SpatialData", is_spatialdata, read_spatialdata),
    ("CosMx", is_cosmx, read_cosmx),
    ("MERSCOPE", is_merscope, read_merscope),
)
_ALIGNED = ("Xenium", "SpatialData", "CosMx", "MERSCOPE")
_OUTPUTS = ("outs", "data")  # of Space Ranger, of the her2st repository
_INNER = (*_OUTPUTS, "binned_outputs", "segmented_outputs", "spatial")  # folders that do not name a section
_N_SEARCHED = 200  # folders below a wrong one in which a known layout is looked for


def read_folder_section(config: InputConfig) -> Section:
    """Read the section of ``--from`` with the H&E image of ``--image``.

    Raises
    ------
    ConfigError, MissingInputError, SectionError
        If the layout is not known, a file is missing, damaged or of another section, or the image cannot be used.
    """
    name, found = read_folder(config)
    return to_section(found, config, name=name)


def read_folder(config: InputConfig) -> tuple[str, InstrumentSection]:
    """Recognise the layout of ``--from`` and read its section; return its name too.

    Raises
    ------
    ConfigError, MissingInputError, SectionError
        If the layout is not known, or as its reader.
    """
    folder = config.from_
    if folder is None or not folder.is_dir():
        is_file = folder is not None and folder.is_file()
        message = f"{folder} is a file. Give its folder." if is_file else f"Folder not found: {folder}."
        raise MissingInputError(message)
    root = next((place for place in (folder, *(folder / name for name in _OUTPUTS)) if _layout(place)), None)
    layout = None if root is None else _layout(root)
    if root is None or layout is None:
        raise SectionError(_unknown(folder))
    for option, value, owners in (
        ("--bin", config.bin, ("Space Ranger",)),
        ("--alignment", config.alignment, _ALIGNED),
    ):
        if value is not None and layout[0] not in owners:
            message = f"{option} {value} is for {', '.join(owners)}, but {root} holds {layout[0]}. Omit it."
            raise ConfigError(message)
    found = layout[2](root, config)
    name = config.section or found.name or _name_of(root)
    require_name(name)
    return name, found


def _layout(folder: Path) -> _Layout | None:
    if not folder.is_dir():
        return None
    return next((layout for layout in _LAYOUTS if layout[1](folder)), None)


def _name_of(folder: Path) -> str:
    """Name a section by its folder, or by the first folder above it that is not part of a layout."""
    parts = (part.removesuffix(".zarr") for part in reversed(folder.absolute().parts))
    return next((part for part in parts if part not in _INNER and not part.startswith("square_")), "section")


def _unknown(folder: Path) -> str:
    """Describe a folder of unknown layout, and name the folders around it that have a known one."""
    *others, last = (layout[0] for layout in _LAYOUTS)
    known = f"{', '.join(others)} or {last}"
    below = chain.from_iterable(folder.glob(depth) for depth in ("*", "*/*", "*/*/*"))
    near = []
    for place in (folder.parent, folder.parent.parent, *sorted(islice(below, _N_SEARCHED))):
        if str(place.parent) in near:  # a part of what is recommended already
            continue
        with contextlib.suppress(SectionError):  # of several data sets, so not to be recommended
            near += [str(place)] if _layout(place) else []
    found = quoted(sorted(path.name for path in folder.iterdir())) or "nothing"
    advice = "Give the folder that the instrument wrote."
    if near:
        advice = f"Did you mean {' or '.join(near[:3])}?"
    elif packed := packed_in(folder):
        advice = f"Unpack {packed[0].name}: tar -xf {packed[0]}."
    elif any(folder.glob("*.h5ad")):
        advice = "Embed an h5ad by spam embed --h5ad, with its table (--csv) and slides (--root)."
    return f"{folder} is no folder of {known}; it holds {found}. {advice}"
