"""What is handed to a store and comes out of it: a section's tables, its overview, its neighbour graphs.

Each record checks itself when it is made and reports all its faults at once, so that nothing broken is ever
written. The shapes stand in the docstrings, not in jaxtyping's annotations, which would report one fault alone.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from spam.errors import StoreError
from spam.schemas.store_meta import GraphMeta, SectionMeta
from spam.typing import Array

from .layout import RESERVED_COLUMNS, duplicates, name_fault

__all__ = ["CsrMatrix", "Graph", "Overview", "SectionRecord", "spots_digest"]

CsrMatrix: TypeAlias = Any
"""SciPy's ``csr_matrix`` or ``csr_array``. SciPy carries no types; the records check it themselves."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A small image of the whole slide, so that maps are drawn from the store alone.

    Attributes
    ----------
    image
        RGB, uint8, (height, width, 3).
    scale
        Overview pixels per full-resolution slide pixel, in (0, 1] for a reduced image.

    Raises
    ------
    StoreError
        If the image is no RGB image of bytes, or the scale is not positive.
    """

    image: Array
    scale: float

    def __post_init__(self) -> None:
        image = self.image
        is_rgb = image.ndim == 3 and image.shape[2] == 3 and image.size > 0 and image.dtype == np.uint8
        _refuse(
            "overview",
            [
                None
                if is_rgb
                else f"the image must be uint8 (height, width, 3), not {image.dtype} of {image.shape}",
                None
                if np.isfinite(self.scale) and self.scale > 0
                else f"the scale must be a positive number (overview px per slide px), not {self.scale!r}",
            ],
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A neighbour graph of one section: row i holds the neighbours of spot i.

    Attributes
    ----------
    connectivities
        Weights, n_spots x n_spots.
    distances
        Distances in the unit that `meta` names, n_spots x n_spots; a stored zero is a neighbour at the same
        place.
    meta
        How the graph was made.

    Raises
    ------
    StoreError
        If a matrix is not a square CSR matrix of finite, non-negative numbers, or the two differ in shape.
    """

    connectivities: CsrMatrix
    distances: CsrMatrix
    meta: GraphMeta

    def __post_init__(self) -> None:
        faults: list[str | None] = []
        for name, matrix in (("connectivities", self.connectivities), ("distances", self.distances)):
            fault = _csr_fault(matrix, name, kinds="fiu")
            faults.append(fault)
            if fault is None and matrix.shape[0] != matrix.shape[1]:
                faults.append(f"{name} must be square, not of shape {matrix.shape}")
        if not any(faults) and self.connectivities.shape != self.distances.shape:
            faults.append(
                "connectivities and distances differ in shape: "
                f"{self.connectivities.shape} and {self.distances.shape}"
            )
        _refuse(f"{self.meta.kind} graph", faults)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionRecord:
    """All of a section that is written before any feature.

    Attributes
    ----------
    meta
        Name, donor, sizes and provenance.
    ids
        Names of the spots, (n_spots,), each once.
    xy_px
        Spot centres in full-resolution slide pixels (x = column, y = row), floats, (n_spots, 2); None if and only
        if the section has no coordinates.
    xy_um
        Spot centres in µm, floats, (n_spots, 2), or None where the µm per pixel is unknown.
    counts
        Raw counts, n_spots x n_genes, or None for a section to be predicted only.
    genes
        Names of the genes, (n_genes,), each once; None if and only if `counts` is.
    obs
        Further columns, one value per spot: numbers, truth values or strings. The columns ``section`` and
        ``donor`` are the store's own and are written from `meta`.
    overview
        Small image of the slide, or None.

    Raises
    ------
    StoreError
        If parts do not fit together; all faults are listed.
    """

    meta: SectionMeta
    ids: Array
    xy_px: Array | None
    xy_um: Array | None
    counts: CsrMatrix | None
    genes: Array | None
    obs: Mapping[str, Array]
    overview: Overview | None

    def __post_init__(self) -> None:
        meta, n = self.meta, self.meta.n_spots
        _refuse(
            f"section {meta.name!r}",
            [
                name_fault(meta.name, "the section's name"),
                None if n > 0 else "a section needs at least one spot, not 0",
                _names_fault(self.ids, "ids", n),
                None
                if (self.xy_px is not None) == meta.has_coordinates
                else f"has_coordinates={meta.has_coordinates} does not fit xy_px",
                None if self.xy_px is None else _xy_fault(self.xy_px, "xy_px", n),
                None if self.xy_um is None else _xy_fault(self.xy_um, "xy_um", n),
                *self._counts_faults(),
                *(fault for name, column in self.obs.items() for fault in _column_faults(name, column, n)),
            ],
        )

    def _counts_faults(self) -> list[str | None]:
        meta, counts, genes = self.meta, self.counts, self.genes
        if (counts is None) != (genes is None) or meta.has_counts != (counts is not None):
            message = (
                "counts and genes go together and with has_counts: "
                f"counts {'missing' if counts is None else 'given'}, "
                f"genes {'missing' if genes is None else 'given'}, has_counts={meta.has_counts}"
            )
            return [message]
        if counts is None or genes is None:
            return [None if meta.n_genes == 0 else f"n_genes is {meta.n_genes} without counts; expected 0"]
        fault = _csr_fault(counts, "counts", kinds="iu")
        shape = (meta.n_spots, meta.n_genes)
        if fault is None and counts.shape != shape:
            fault = f"counts must have the shape (n_spots, n_genes) = {shape}, not {counts.shape}"
        if fault is None and counts.nnz and counts.data.max() > np.iinfo(np.int32).max:
            fault = f"counts must fit int32, not reach {counts.data.max()}"
        return [fault, _names_fault(genes, "genes", meta.n_genes)]


def spots_digest(ids: Array, xy_px: Array) -> str:
    """Hash the spots that features are made for: their ids and pixel coordinates, in order.

    Parameters
    ----------
    ids
        Names of the spots, (n_spots,).
    xy_px
        Their centres in full-resolution pixels, (n_spots, 2).
    """
    digest = hashlib.sha256("\n".join(ids.tolist()).encode())
    digest.update(np.ascontiguousarray(xy_px, dtype="<f8").tobytes())
    return digest.hexdigest()


def _refuse(what: str, faults: Iterable[str | None]) -> None:
    found = [fault for fault in faults if fault]
    if found:
        message = f"{what} cannot be stored: " + "; ".join(found)
        raise StoreError(message)


def is_text(values: Array) -> bool:
    """Tell whether all values are strings (of NumPy's string types, or an object array of ``str``)."""
    return values.dtype.kind in "UT" or (
        values.dtype.kind == "O" and all(isinstance(value, str) for value in values.ravel())
    )


def _names_fault(values: Array, what: str, n: int) -> str | None:
    if values.shape != (n,):
        return f"{what} must have the shape ({n},), not {values.shape}"
    if not is_text(values):
        return f"{what} must be strings, not {values.dtype}"
    twice = duplicates(values.tolist())
    if twice:
        return f"{what} must each occur once; {len(twice)} occur again, such as {twice[:3]}"
    return None


def _xy_fault(xy: Array, what: str, n: int) -> str | None:
    if xy.shape != (n, 2) or xy.dtype.kind != "f":
        return f"{what} must be floats of shape ({n}, 2), not {xy.dtype} of {xy.shape}"
    bad = np.flatnonzero(~np.isfinite(xy).all(axis=1))
    if bad.size:
        return f"{what} must be finite; {bad.size} rows are not, the first is row {bad[0]}"
    return None


def _column_faults(name: str, column: Array, n: int) -> list[str | None]:
    what = f"obs column {name!r}"
    fault = None
    if column.shape != (n,):
        fault = f"{what} must have the shape ({n},), not {column.shape}"
    elif column.dtype.kind not in "biuf" and not is_text(column):
        fault = (
            f"{what} must hold numbers, truth values or strings throughout (write '' for missing), "
            f"not {column.dtype}"
        )
    return [name_fault(name, "obs column", reserved=RESERVED_COLUMNS), fault]


def _csr_fault(matrix: Any, what: str, *, kinds: str) -> str | None:
    if not sparse.issparse(matrix) or matrix.format != "csr":
        return f"{what} must be a SciPy CSR matrix, not {type(matrix).__name__}"
    if matrix.dtype.kind not in kinds:
        return f"{what} must hold {'whole ' if kinds == 'iu' else ''}numbers, not {matrix.dtype}"
    if not (np.isfinite(matrix.data) & (matrix.data >= 0)).all():
        return f"{what} must be finite and not negative"
    return None
