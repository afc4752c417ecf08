"""The tables of a section of a store: its spots, counts, coordinates and overview, read on demand."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy import sparse

from spam.errors import SectionError, StoreError
from spam.sections.count_matrix import indptr_fault, sparse_matrix
from spam.typing import Array, Float64, Int, Shaped

from .layout import BLANK, LIBRARY, SPATIAL, SPATIAL_UM
from .places import Location, Opened, open_section_group
from .section_index import SectionIndex, open_index

_MAKE_AGAIN = "Make the section again: spam embed --overwrite"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A small image of the whole slide, so that maps are drawn from the store alone.

    Attributes
    ----------
    image
        RGB, uint8, (height, width, 3).
    scale
        Overview pixels per full-resolution slide pixel.
    """

    image: Array
    scale: float


class SectionTables(Opened):
    """The tables of one section; with features and graphs, `spam.store.StoredSection`.

    Small tables are read once and kept (do not change them in place); counts, overview, features and graphs are read at
    each call.

    Attributes
    ----------
    index
        Metadata of all groups and arrays, sizes and digests of all files.
    meta
        Name, donor, sizes and provenance.
    """

    def __init__(self, location: Location, name: str, *, is_writable: bool) -> None:
        self.location, self.is_writable, self._name = location, is_writable, name
        self.refresh()

    def refresh(self) -> SectionIndex:
        """Read the index again, to see additions of other processes.

        Raises
        ------
        StoreError
            If the index is missing or damaged, or names paths outside the section, unknown codecs or impossible sizes.
        """
        where = f"{self.location.address}/{self._name}"
        data = self.location.read_index(self._name)
        if data is None:
            message = f"Section {where!r} does not exist any more. Run the command again."
            raise StoreError(message)
        self.index = open_index(data, self._name, where)
        self.meta = self.index.meta
        self._group = open_section_group(self.location, self.index)
        return self.index

    @property
    def store_address(self) -> str:
        """Folder, packed file or address of the store, as it is shown in messages."""
        return self.location.address

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return self.meta.n_spots

    @cached_property
    def ids(self) -> Shaped[Array, " n_spots"]:
        """Names of the spots, as NumPy's ``str``."""
        return self._array("obs/_index")

    @cached_property
    def _obs(self) -> dict[str, Array]:
        columns: list[str] = self.index.nodes["obs"]["attributes"]["column-order"]
        return {name: self._array(f"obs/{name}") for name in columns if name != LIBRARY}

    @property
    def obs(self) -> dict[str, Array]:
        """Further columns, one value per spot; always ``section``, and ``donor`` if it is known; not ``library_id``."""
        return dict(self._obs)

    @cached_property
    def genes(self) -> Shaped[Array, " n_genes"] | None:
        """Names of the genes, as NumPy's ``str``; None for a section without counts."""
        return self._array("var/_index") if self.meta.has_counts else None

    @property
    def n_detected(self) -> Int[Array, " n_genes"]:
        """Number of spots with a count of each gene, of a section with counts."""
        return np.diff(self._array("X/indptr"))

    @cached_property
    def xy_px(self) -> Float64[Array, "n_spots 2"]:
        """Spot centres in full-resolution slide pixels (x = column, y = row).

        Raises
        ------
        StoreError
            If this is a copy without coordinates.
        """
        if not self.meta.has_coordinates:
            message = f"Section {self._name!r} of {self.store_address!r} was shared without coordinates."
            raise StoreError(message)
        return self._array(f"obsm/{SPATIAL}")

    @cached_property
    def xy_um(self) -> Float64[Array, "n_spots 2"] | None:
        """Spot centres in µm; None if the µm per pixel is unknown."""
        return self._array(f"obsm/{SPATIAL_UM}") if f"obsm/{SPATIAL_UM}" in self.index.nodes else None

    def counts(self, genes: Sequence[str] | None = None) -> sparse.csr_matrix:
        """Read the raw counts, int32, n_spots x n_genes, of all genes or of those named, in their order.

        Of a remote store, only the chunks with those genes are fetched.

        Raises
        ------
        StoreError
            If the section has no counts, or lacks one of the genes.
        """
        where = f"Section {self._name!r} of store {self.store_address!r}"
        if self.genes is None:
            message = f"{where} has no counts. Add it again with: spam embed --h5ad"
            raise StoreError(message)
        if genes is None:
            return self._sparse("X", "csc", (self.n_spots, len(self.genes))).tocsr()
        places = {gene: place for place, gene in enumerate(self.genes.tolist())}
        missing = [gene for gene in genes if gene not in places]
        if missing:
            message = f"{where} lacks {len(missing)} of {len(genes)} genes, such as {', '.join(missing[:3])}."
            raise StoreError(message)
        columns, indptr = np.array([places[gene] for gene in genes], dtype=np.int64), self._array("X/indptr")
        node = self.index.nodes["X/data"]
        if fault := indptr_fault(indptr, self.meta.n_genes, node["shape"][0]):  # before its use as addresses
            message = f"'X' of section {self._name!r} in store {self.store_address!r} is damaged: {fault}. {_MAKE_AGAIN}"
            raise StoreError(message)
        chunk = node["chunk_grid"]["configuration"]["chunk_shape"][0]
        starts, lengths = indptr[columns].astype(np.int64), np.diff(indptr)[columns]
        ranges = zip(starts.tolist(), lengths.tolist(), strict=True)
        needed = sorted({i for a, n in ranges if n for i in range(a // chunk, (a + n - 1) // chunk + 1)})
        self._prefetch(*(f"X/{part}/c/{i}" for i in needed for part in ("data", "indices")))
        # The entries of a gene begin as many chunks further left as are not read before it.
        starts -= (starts // chunk - np.searchsorted(needed, starts // chunk)) * chunk
        taken = [np.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)]
        rows = np.concatenate([*taken, np.empty(0, np.int64)])
        data, indices = (
            np.concatenate(
                [self._part(f"X/{part}", slice(i * chunk, (i + 1) * chunk)) for i in needed]
                or [np.empty(0, np.int32)]
            )[rows]
            for part in ("data", "indices")
        )
        parts = [data, indices, np.concatenate([[0], np.cumsum(lengths)])]
        return self._matrix("X", "csc", parts, (self.n_spots, len(columns))).tocsr()

    def overview(self) -> Overview | None:
        """Read the small image of the slide; None if the section has none."""
        image, library = f"uns/{SPATIAL}/{self._name}/images/hires", self.spatial_library()
        if not library or self.index.attribute(image, BLANK):
            return None
        return Overview(
            image=library["images"]["hires"], scale=library["scalefactors"]["tissue_hires_scalef"]
        )

    def spatial_library(self) -> dict[str, dict[str, Any]]:
        """Read ``uns["spatial"][section]`` of the section, with which scanpy and squidpy plot it; empty without coordinates.

        Its image is white if the section has no overview.
        """
        found: dict[str, dict[str, Any]] = {}
        for part in ("images", "scalefactors"):
            group = f"uns/{SPATIAL}/{self._name}/{part}"
            values = {name: self._array(f"{group}/{name}") for name in self.index.children(group)}
            found |= {part: {name: a if a.ndim else a.item() for name, a in values.items()}} if values else {}
        return found

    @property
    def spot_diameter_px(self) -> float | None:
        """Diameter of a spot in full-resolution pixels, as stated or estimated; None without coordinates."""
        node = f"uns/{SPATIAL}/{self._name}/scalefactors/spot_diameter_fullres"
        return float(self._array(node).item()) if node in self.index.nodes else None

    # Reading elements

    def _array(self, name: str) -> Shaped[Array, "*shape"]:
        """Read an array; strings come as NumPy's ``str``."""
        self._prefetch(name)
        values = self._part(name)
        # NumPy does not cast variable-length strings to fixed-length ones itself (NumPy 2.4).
        return values.astype(object).astype(str) if values.dtype.kind in "TO" else values

    def _part(self, name: str, rows: Any = ...) -> Array:
        try:
            return np.asarray(self._group[name][rows])
        except StoreError:  # of the files
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # of Zarr's metadata
            where, fault = f"{self._name}/{name}", f"Zarr cannot read it ({type(error).__name__})"
            raise self.location.damaged(where, fault) from error

    def _sparse(self, name: str, form: Literal["csr", "csc"], shape: tuple[int, int]) -> Any:
        self._prefetch(name)
        parts = [self._array(f"{name}/{part}") for part in ("data", "indices", "indptr")]
        return self._matrix(name, form, parts, shape)

    def _matrix(
        self, name: str, form: Literal["csr", "csc"], parts: list[Array], shape: tuple[int, int]
    ) -> Any:
        data, indices, indptr = parts
        where = f"{name!r} of section {self._name!r} in store {self.store_address!r}"
        try:
            return sparse_matrix(
                data, indices, indptr, form=form, shape=shape, where=where, advice=_MAKE_AGAIN
            )
        except SectionError as error:
            raise StoreError(str(error)) from error

    def _prefetch(self, *names: str) -> None:
        files = self.index.below(*names)
        self.location.prefetch({f"{self._name}/{path}": entry for path, entry in files.items()})


def spots_digest(ids: Array, xy_px: Array) -> str:
    """Hash the spots that features are computed for: their ids, (n_spots,), and pixel coordinates, (n_spots, 2), in order."""
    digest = hashlib.sha256("\n".join(ids.tolist()).encode())
    digest.update(np.ascontiguousarray(xy_px, dtype="<f8").tobytes())
    return digest.hexdigest()
