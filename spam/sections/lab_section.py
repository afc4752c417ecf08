"""A tissue section as it comes from the lab: spots, counts, images, and the files that it was read from."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from spam.errors import SectionError, counted, shortened
from spam.schemas.store_format import SourceFile, name_fault
from spam.typing import Array, Float64, Shaped

_N_EXAMPLES = 5  # enough to see a pattern, few enough to read
_MANY_LETTERS, _MOST_LETTERS = 1_000, 32_767  # a long label; the longest cell of Excel
_MOST_TEXT_BYTES = 2**28
_ZARR_GROUPS = ("zarr.json", ".zgroup")  # Zarr v3, v2
_DICOM_MAGIC_AT = 128

_Role: TypeAlias = Literal["h5ad", "csv", "slide", "tiles", "folder"]


def quoted(names: Any) -> str:
    """Quote the first five names of a sequence or array and count the others: ``'a', 'b', 'c', 'd', 'e' and 3 more``."""
    shown = ", ".join(shortened(str(name)) for name in names[:_N_EXAMPLES])
    return shown + (f" and {len(names) - _N_EXAMPLES} more" if len(names) > _N_EXAMPLES else "")


def text_array(values: Any, *, where: str) -> Shaped[Array, "..."]:
    """Return texts as a NumPy array (``<U``), which gives each of them the room of the longest.

    Raises
    ------
    SectionError
        If a text is longer than any name or label can be.
    """
    texts = np.asarray(values, dtype=object)
    longest = max((str(x) for x in texts.ravel()), key=len, default="")
    n_bytes = 4 * len(longest) * texts.size
    if len(longest) > _MOST_LETTERS or (len(longest) > _MANY_LETTERS and n_bytes > _MOST_TEXT_BYTES):
        message = f"{where} has a text of {len(longest):,} characters, {shortened(longest)}. Shorten it."
        raise SectionError(message)
    return texts.astype(np.str_)


def require_name(name: str) -> None:
    """Raise SectionError if a store cannot have a section of this name."""
    if fault := name_fault(name, "the section's name (--section)"):
        message = f"A section cannot be stored under this name: {fault}. Choose another with --section."
        raise SectionError(message)


def require_unique(ids: Shaped[Array, " n"], *, where: str, advice: str = "Keep one row per spot.") -> None:
    """Raise if an id is empty or repeated.

    Raises
    ------
    SectionError
        Names the first of the ids.
    """
    index = pd.Index(ids)
    if (index == "").any():
        message = f"{where}: {int((index == '').sum())} ids are empty."
        raise SectionError(message)
    repeated = index[index.duplicated()].unique()
    if len(repeated):
        message = f"{where}: {len(repeated)} ids occur more than once: {quoted(repeated)}. {advice}"
        raise SectionError(message)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlideSource:
    """One slide from which every tile of the section is cut."""

    path: Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TileFiles:
    """Tiles that were cut before: one file per spot, in the order of the spots."""

    paths: tuple[Path, ...]


TileSource: TypeAlias = SlideSource | TileFiles


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JoinReport:
    """Result of the exact join of table and h5ad by id.

    Attributes
    ----------
    n_matched
        Spots that have a row in the table (without an h5ad: rows used).
    table_only
        Ids of the rows of this section that are not in the h5ad.
    h5ad_only
        Ids of the spots of the h5ad without a row (``--allow-missing-tiles``).
    n_other_sections
        Rows of the table that belong to other sections.
    n_outside
        Rows of this section outside the H&E image (``inside_he`` is false).
    n_off_tissue
        Spots outside the tissue (``in_tissue`` is 0 in the table or the h5ad), left out.
    found
        What an instrument's folder holds.
    regions
        Which spots the regions of a GeoJSON keep, and their labels.
    notes
        Further remarks for the user.
    placement_doubt
        Why the spots may not lie where they belong on the slide, one of the notes; None without such a doubt.
    """

    n_matched: int
    table_only: tuple[str, ...] = ()
    h5ad_only: tuple[str, ...] = ()
    n_other_sections: int = 0
    n_outside: int = 0
    n_off_tissue: int = 0
    found: str = ""
    regions: str = ""
    notes: tuple[str, ...] = ()
    placement_doubt: str | None = None

    def describe(self) -> str:
        """Summarise in one line what was joined and what was left out."""
        n_rows, n_spots, n_other = len(self.table_only), len(self.h5ad_only), self.n_other_sections
        left_out = {
            f"{counted(n_rows, 'row')} without a spot ({quoted(self.table_only)})": n_rows,
            f"{counted(n_spots, 'spot')} without a tile ({quoted(self.h5ad_only)})": n_spots,
            f"{counted(n_other, 'row')} of the table for other sections": n_other,
            f"{counted(self.n_outside, 'row')} outside the H&E image": self.n_outside,
            f"{counted(self.n_off_tissue, 'spot')} with in_tissue 0 left out": self.n_off_tissue,
        }
        parts = [
            f"{counted(self.n_matched, 'spot')} with tiles",
            *filter(None, [self.found, self.regions]),
            *(words for words, n in left_out.items() if n),
        ]
        return "; ".join([*parts, *self.notes])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpotArray:
    """The array that the spots were printed on, as far as positions show it (`spam.sections.coordinates.find_array`).

    Attributes
    ----------
    name
        ``Visium``, or ``the h5ad`` if only that states the distance of the spots.
    pitch_um, pitch_px
        Distance of neighbouring spots in µm, as the array has it, and in full-resolution pixels, as measured.
    """

    name: str
    pitch_um: float
    pitch_px: float

    @property
    def mpp(self) -> float:
        """µm per full-resolution pixel that follow from the distance."""
        return self.pitch_um / self.pitch_px


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section: the joined spots with their coordinates, counts and tiles, all in one order.

    The order is that of the h5ad, or of the table if there is no h5ad.

    Attributes
    ----------
    name, donor
        Section and donor; the donor is None if unknown.
    ids
        Unique ids of the spots or cells, a NumPy text array (``<U``).
    xy_px
        Centres of the tiles as (column, row) in full-resolution slide pixels.
    mpp, mpp_source
        µm per full-resolution pixel and its source: ``option``, ``h5ad``, ``folder`` or ``slide``. Both are None if only the slide
        states it and was not opened yet.
    counts, genes
        Raw counts as int32 and the names of their columns (``<U``); both None for pure prediction.
    obs
        Annotation columns of the h5ad: text (``<U``, missing is empty), numbers (missing is NaN) and booleans.
    tiles
        The slide or the tile files; None if features exist and no image was given.
    mpp_note
        How a folder of an instrument states µm per pixel.
    patch_px
        Side of the tiles in slide pixels as the table states it; None if it states none or several.
    hires_scale
        Pixels of the Visium hires image per full-resolution pixel; None if the h5ad holds none.
    spot_diameter_px
        Diameter of a spot in full-resolution pixels as the h5ad states it; only drawings depend on it.
    array
        The array that the spots were printed on; None if their positions show none.
    join
        What matched and what did not.
    sources
        The files read, with digests.
    """

    name: str
    donor: str | None = None
    ids: Shaped[Array, " n_spots"]
    xy_px: Float64[Array, "n_spots 2"]
    mpp: float | None = None
    mpp_source: str | None = None
    mpp_note: str | None = None
    counts: csr_matrix | None = None
    genes: Shaped[Array, " n_genes"] | None = None
    obs: dict[str, Array]
    tiles: TileSource | None
    patch_px: int | None = None
    hires_scale: float | None = None
    spot_diameter_px: float | None = None
    array: SpotArray | None = None
    join: JoinReport
    sources: tuple[SourceFile, ...]

    @property
    def n_spots(self) -> int:
        """Number of spots, which is at least one."""
        return len(self.ids)

    @property
    def scale(self) -> str:
        """µm per pixel and its source, in words."""
        source = "--mpp" if self.mpp_source == "option" else self.mpp_note or f"from the {self.mpp_source}"
        return "unknown µm/px" if self.mpp is None else f"{self.mpp:.4g} µm/px ({source})"

    @property
    def xy_um(self) -> Float64[Array, "n_spots 2"] | None:
        """`xy_px` in µm, or None if `mpp` is unknown."""
        return None if self.mpp is None else self.xy_px * self.mpp


def is_there(path: Path, *, is_folder: bool = False) -> bool:
    """Return whether there is a file (or a folder) of this name; none has a name too long for one."""
    return os.path.isdir(path) if is_folder else os.path.isfile(path)  # noqa: PTH112, PTH113  pathlib raises


def is_slide(path: Path) -> bool:
    """Return whether the path is a file, or a folder that is one slide: an OME-Zarr, or a DICOM series (no other files)."""
    if is_there(path) or is_ome_zarr(path):
        return True
    files = _visible_files(path) if is_there(path, is_folder=True) else ()
    return bool(files) and all(map(is_dicom, files))


def is_ome_zarr(path: Path) -> bool:
    """Return whether a folder is the root of a Zarr group."""
    return any(is_there(path / name) for name in _ZARR_GROUPS)


def slide_files(path: Path) -> tuple[Path, ...]:
    """List the files of a slide, sorted by path.

    All files of a folder; a MIRAX file with the folder of the same name; a DICOM file with the other DICOM files of its
    folder, which hold the other levels; any other file alone.
    """
    if path.is_dir():
        return _all_files(path)
    if path.suffix.lower() == ".mrxs":
        return (path, *_all_files(path.with_suffix("")))
    if is_dicom(path):
        return tuple(file for file in _visible_files(path.parent) if is_dicom(file))
    return (path,)


def describe_sources(
    tiles: TileSource | None, *, h5ad: Path | None = None, csv: Path | None = None
) -> tuple[SourceFile, ...]:
    """Return name, size and SHA-256 of the h5ad, the table and the images.

    Tile files count as one source, named after their folder; the digest covers the bytes of all in order. The digest of a
    slide of several files (`slide_files`) covers the path of each within the slide, its size and its bytes.
    """
    found = [describe_files("h5ad", h5ad.name, [h5ad])] if h5ad is not None else []
    found += [describe_files("csv", csv.name, [csv])] if csv is not None else []
    if tiles is None:
        return tuple(found)
    if not isinstance(tiles, SlideSource):
        return (*found, describe_files("tiles", tiles.paths[0].parent.name, tiles.paths))
    path, files = tiles.path, slide_files(tiles.path)
    folder = None if files == (path,) else path if path.is_dir() else path.parent
    return (*found, describe_files("slide", path.name, files, folder))


def describe_files(role: _Role, name: str, files: Sequence[Path], folder: Path | None = None) -> SourceFile:
    """Return name, total size and SHA-256 of files as one source; with `folder`, the digest covers their paths in it too."""
    digest, sizes = hashlib.sha256(), [path.stat().st_size for path in files]
    for path, size in zip(files, sizes, strict=True):
        if folder is not None:
            digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # continues the same digest
    return SourceFile(role=role, name=name, n_bytes=sum(sizes), sha256=digest.hexdigest())


def is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM."""
    with path.open("rb") as file:
        file.seek(_DICOM_MAGIC_AT)
        return file.read(4) == b"DICM"


def _visible_files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for file in folder.glob("[!.]*") if file.is_file()))


def _all_files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for file in folder.rglob("*") if file.is_file()))
