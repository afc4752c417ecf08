"""A section as the folder of an instrument states it, and its way into a `Section`."""

import contextlib
import csv
import dataclasses
import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spam.errors import ConfigError, MissingInputError, SectionError, counted
from spam.schemas.embed_config import InputConfig
from spam.typing import Array, Float64, Shaped

from .coordinates import find_array, find_scale, overridden, spot_diameter
from .file_kinds import kind_of_file
from .hdf5_files import readable
from .lab_section import (
    JoinReport,
    Section,
    SlideSource,
    describe_files,
    describe_sources,
    is_slide,
    quoted,
    require_unique,
)

_GZIP = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentSection:
    """Counts and positions of a section, from one reader for each layout.

    Attributes
    ----------
    platform
        Technology and software, e.g. ``Visium, Space Ranger 3.0.0``.
    ids, counts, genes, gene_ids
        Raw counts (int32 CSR) of spots or cells; ids and genes are unique.
    xy_px
        Centres as (column, row) in full-resolution pixels of the H&E image; None if its alignment is unknown.
    xy_um
        Centres in the instrument's own µm, if it measures in µm.
    mpp, mpp_note
        µm per pixel of the H&E image and how it is known; None if only the image can state it.
    obs
        Columns of the spots.
    scales
        Space Ranger's scale factors.
    spot_um, pitch_um
        Diameter of a spot or side of a bin, and distance of neighbours; None for cells.
    is_cells
        Whether the ids are those of cells.
    name
        Name of the section, if the layout states it.
    image
        The image that the layout itself belongs to; None where only the user can name it.
    donor
        Donor, if the layout states it.
    files
        The files and folders that were read.
    notes
        What was left out or assumed.
    """

    platform: str
    ids: Shaped[Array, " n"]
    counts: csr_matrix
    genes: Shaped[Array, " n_genes"]
    gene_ids: Shaped[Array, " n_genes"]
    xy_px: Float64[Array, "n 2"] | None = None
    xy_um: Float64[Array, "n 2"] | None = None
    mpp: float | None = None
    mpp_note: str | None = None
    obs: dict[str, Array] = dataclasses.field(default_factory=dict)
    scales: dict[str, float] = dataclasses.field(default_factory=dict)
    spot_um: float | None = None
    pitch_um: float | None = None
    is_cells: bool = False
    name: str | None = None
    image: Path | None = None
    donor: str | None = None
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    def found(self) -> str:
        """State in one line what was found and where."""
        what = "cell" if self.is_cells else "spot"
        files = ", ".join(dict.fromkeys(path.name for path in self.files))
        return (
            f"{self.platform}: {counted(len(self.ids), what)}, {counted(len(self.genes), 'gene')} ({files})"
        )

    def library(self, config: InputConfig) -> dict[str, dict[str, Any]]:
        """Return what ``uns['spatial'][section]`` of an h5ad holds: facts and, for pixels, Space Ranger's scale factors."""
        image = config.image or self.image
        facts: dict[str, Any] = {"technology": self.platform, "spot_diameter_um": self.spot_um}
        facts |= {"spot_pitch_um": self.pitch_um, "source_image": image.name if image else None}
        mpp = None if self.xy_px is None else config.mpp or self.mpp
        facts |= {"unit": "um" if self.xy_px is None else "px", "mpp": mpp}
        scales = {} if self.xy_px is None else self.scales
        if mpp is not None and "microns_per_pixel" in scales:
            scales = {**scales, "microns_per_pixel": mpp}
        return {
            "metadata": {key: value for key, value in facts.items() if value is not None},
            "scalefactors": scales,
        }


def to_section(found: InstrumentSection, config: InputConfig, *, name: str) -> Section:
    """Return the record that `spam embed` continues with; the user names the full-resolution image.

    Raises
    ------
    ConfigError, MissingInputError, SectionError
        If ``--image`` is missing or does not exist, or ``--mpp`` is impossible.
    """
    image = config.image or found.image
    if image is None:
        message = "--image is missing: name the full-resolution H&E image, which the folder does not hold under a known name."
        raise ConfigError(message)
    if not (image.exists() and is_slide(image)):
        message = f"{'No slide' if image.exists() else 'File not found'}: {image} (--image)."
        raise MissingInputError(message)
    if found.xy_px is None:
        message = f"The alignment of {image} (--image) with the positions is unknown. Give --alignment."
        raise SectionError(message)
    mpp, source = found.mpp, "folder"
    if config.mpp is not None:
        mpp, source = find_scale(config.mpp, {}).mpp, "option"  # checks it
    folder = found.files[0].parent
    read = [
        file
        for path in found.files
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
    tiles, (_, *notes) = SlideSource(path=image), notes_of(found, config)
    return Section(
        name=name,
        donor=config.donor or found.donor,
        ids=found.ids,
        xy_px=found.xy_px,
        mpp=mpp,
        mpp_source=None if mpp is None else source,
        mpp_note=None if found.mpp is None else found.mpp_note,
        counts=found.counts,
        genes=found.genes,
        obs=found.obs,
        tiles=tiles,
        array=find_array(found.xy_px, found.library(config)),
        hires_scale=found.scales.get("tissue_hires_scalef"),
        spot_diameter_px=spot_diameter(found.library(config), mpp),
        join=JoinReport(n_matched=len(found.ids), found=found.found(), notes=tuple(notes)),
        sources=(describe_files("folder", folder.name, read), *describe_sources(tiles)),
    )


def notes_of(found: InstrumentSection, config: InputConfig) -> tuple[str, ...]:
    """State what was found, with µm per pixel and its source; then what was left out, assumed or overruled."""
    known = "" if found.mpp is None else f"{found.mpp:.4g} µm per pixel ({found.mpp_note})"
    notes = list(found.notes)
    if config.mpp is not None and found.mpp is not None:
        notes += filter(None, [overridden(config.mpp, f"the folder's {found.mpp_note}", found.mpp)])
    if found.xy_px is None:
        known = "positions in µm, because no alignment with an H&E image is known"
    elif config.mpp is not None:
        known = f"{config.mpp:.4g} µm per pixel (--mpp)"
    return (f"{found.found()}; {known or 'µm per pixel as the image states'}", *notes)


def choose_section(names: Iterable[str], wanted: str | None, folder: Path) -> str:
    """Return the section of a folder of several: the requested one, or the only one.

    Raises
    ------
    ConfigError
        If several sections are there and none is requested, or the requested one is not.
    """
    names = list(names)
    if wanted in names:
        return str(wanted)
    if wanted is None and len(names) == 1:
        return names[0]
    but = "" if wanted is None else f", not {wanted!r}"
    message = (
        f"{folder} holds {counted(len(names), 'section')}: {quoted(names)}{but}. Choose one with --section."
    )
    raise ConfigError(message)


def require_finite(values: Array, ids: Iterable[Any], path: Path, columns: str) -> None:
    """Raise if a row of `values` is not finite; names the ids."""
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        named = quoted([one for one, is_broken in zip(ids, broken, strict=True) if is_broken])
        message = (
            f"{path}: {counted(int(broken.sum()), 'row', 'have')} no finite number in {columns}: ids {named}."
        )
        raise SectionError(message)


@contextlib.contextmanager
def reading(what: str, path: Path) -> Iterator[None]:
    """Turn errors of the libraries that read a file into one that names it; the errors of this package pass.

    Raises
    ------
    SectionError
        If the file is damaged or of another kind.
    """

    def explain(_: Exception) -> str:
        kind = kind_of_file(path) if path.is_file() else None
        return f"Cannot read {what} {path}. {f'It is {kind}' if kind else 'Copy it again from its source'}."

    with readable(explain):
        yield


def require_columns(frame: Any, names: Iterable[str], path: Path) -> None:
    """Raise SectionError if a table lacks a column."""
    if absent := [name for name in names if name not in frame.columns]:
        message = f"{path} has no column {quoted(absent)}, only {quoted(frame.columns)}."
        raise SectionError(message)


def read_counts_table(path: Path, separator: str) -> Any:
    """Read a text table of counts or positions as float64; its names are kept as they are (pandas changes repeated ones)."""
    with reading("a table of numbers with one row per spot from", path):
        with open_text(path) as file:
            header = next(csv.reader([file.readline().decode("utf-8-sig")], delimiter=separator))
            table = pd.read_csv(file, sep=separator, header=None, index_col=0, keep_default_na=False)
        table.index, table.columns = table.index.astype(str), pd.Index(header[-table.shape[1] :])
        table = table.astype(np.float64)
    require_unique(table.index.to_numpy(np.str_), where=f"{path}, rows")
    require_unique(
        table.columns.to_numpy(np.str_), where=f"{path}, columns", advice="Keep or sum one of each."
    )
    return table


def match_ids(
    found: Any, path: Path, known: Any, places: Path, what: str = "spots", *, is_one_run: bool = False
) -> tuple[Array, Array, tuple[str, ...]]:
    """Find the spots or cells of a count matrix in a table of positions; of one run, if all must have a position.

    Returns
    -------
    tuple
        The row of each in `known`, a pandas index of ids (-1 for none); which have one; a note on how many have none.

    Raises
    ------
    SectionError
        If more than half have no position, or any of one run.
    """
    rows = known.get_indexer(found)
    is_placed = rows >= 0
    n_lost = int((~is_placed).sum())
    if 2 * n_lost > len(rows) or (is_one_run and n_lost):
        message = (
            f"{n_lost} of the {len(rows)} {what} of {path} are not in {places}: {quoted(found[~is_placed])}; it has "
            f"{quoted(known) or 'no row'}. Both files must be of one {'run' if is_one_run else 'section'}."
        )
        raise SectionError(message)
    notes = (f"{n_lost} of {len(rows)} {what} without a position left out",) if n_lost else ()
    return rows, is_placed, notes


def require_file(path: Path | None, folder: Path, *names: str) -> Path:
    """Return the path; raise MissingInputError if it is None, naming a packed file that may hold it."""
    if path is not None:
        return path
    packed = packed_in(folder) + packed_in(folder.parent)
    advice = "Copy it from the output of the instrument"
    if packed:
        advice = f"If it is in {quoted([path.name for path in packed])}, unpack that: tar -xf {packed[0]}"
    message = f"{folder} has no {' or '.join(names)}. {advice}."
    raise MissingInputError(message)


def packed_in(folder: Path) -> list[Path]:
    """List the archives in a folder."""
    return sorted(path for kind in ("*.tar*", "*.tgz") for path in folder.glob(kind))


def find_file(folder: Path, *names: str) -> Path | None:
    """Find the first of some names in a folder, also with a data set's name before it (``NAME_cells.parquet``); else None.

    Raises
    ------
    SectionError
        If several data sets have a file of that name.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
        found = sorted(folder.glob(f"*_{name}"))
        if len(found) > 1:
            shown = quoted([path.name for path in found])
            message = f"{folder} holds {len(found)} files named *_{name}: {shown}. Put the files of each section into a folder."
            raise SectionError(message)
        if found:
            return found[0]
    return None


def open_text(path: Path) -> Any:
    """Open a text file, compressed or not, whatever its name says."""
    with path.open("rb") as file:
        is_compressed = file.read(2) == _GZIP
    return gzip.open(path, "rb") if is_compressed else path.open("rb")
