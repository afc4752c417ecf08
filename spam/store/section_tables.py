"""What a section of a store is before anything is computed: its spots, counts, coordinates and overview image."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property

import numpy as np
from scipy import sparse

from spam.errors import StoreError
from spam.schemas.store_meta import SectionMeta
from spam.typing import Array, Float64, Int, Shaped

from .elements import read_array, read_columns, read_frame, read_sparse
from .guarded_store import open_section_group
from .index import SectionIndex
from .index_opening import open_index
from .layout import HIRES_PATH, SCALES_PATH, SPATIAL, SPATIAL_UM
from .location import Location
from .metadata import damaged
from .records import Overview
from .unchanged import unchanged

__all__ = ["SectionTables"]

_TABLES = ("obs", "var", f"obsm/{SPATIAL}", f"obsm/{SPATIAL_UM}")
"""What is kept once it was read."""


class SectionTables:
    """The part of a `StoredSection` that was there before its features; read on demand.

    Small tables are read once and kept (do not change them in place); counts and the overview are read anew at each call.

    Attributes
    ----------
    index
        What the section holds: metadata of all nodes, sizes and digests of all files.
    meta
        Name, donor, sizes and provenance.
    """

    index: SectionIndex
    meta: SectionMeta

    def __init__(self, location: Location, name: str) -> None:
        self._location, self._name = location, name
        self.refresh()

    def refresh(self) -> None:
        """Read the index again: what others, or this object's writers, have added is seen from now on.

        Raises
        ------
        StoreError
            If the index is not what was written, or names what no store holds (unknown codecs, sizes that do not
            fit, paths that lead outside).
        """
        index = open_index(self._location, self._name)
        self._group = open_section_group(self._location, index)
        is_other = hasattr(self, "index") and index.below(*_TABLES) != self.index.below(*_TABLES)
        self.index, self.meta = index, index.meta
        for table in ("_obs", "genes", "xy_px", "xy_um") if is_other else ():  # read before it was replaced
            self.__dict__.pop(table, None)

    def _unchanged(self, *nodes: str) -> AbstractContextManager[None]:
        return unchanged(self._location, self.index, *nodes)

    @property
    def store_address(self) -> str:
        """Folder, packed file or address of the store, to be named in messages."""
        return self._location.address

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return self.meta.n_spots

    @cached_property
    def _obs(self) -> tuple[Array, dict[str, Array]]:
        with self._unchanged("obs"):
            ids, columns = read_frame(self._group, "obs")
        shapes = {name: values.shape for name, values in {"index": ids, **columns}.items()}
        wrong = {name: shape for name, shape in shapes.items() if shape != (self.n_spots,)}
        if wrong:
            fault = f"columns of other lengths than {self.n_spots}: {wrong}"
            raise damaged(self._group, fault, child="obs")
        return ids, columns

    @property
    def ids(self) -> Shaped[Array, " n_spots"]:
        """Names of the spots, as NumPy's ``str``."""
        return self._obs[0]

    @property
    def obs(self) -> dict[str, Array]:
        """Further columns, one value per spot; always ``section``, and ``donor`` where it is known."""
        return dict(self._obs[1])

    @cached_property
    def genes(self) -> Shaped[Array, " n_genes"] | None:
        """Names of the genes, as NumPy's ``str``; None for a section without counts."""
        if not self.meta.has_counts:
            return None
        with self._unchanged("var"):
            genes = read_frame(self._group, "var")[0]
        if genes.shape != (self.meta.n_genes,):
            raise damaged(self._group, f"{genes.size} genes, expected {self.meta.n_genes}", child="var")
        return genes

    @cached_property
    def xy_px(self) -> Float64[Array, "n_spots 2"]:
        """Spot centres in full-resolution slide pixels (x = column, y = row).

        Raises
        ------
        StoreError
            If this is a copy without coordinates, or they are damaged.
        """
        if not self.meta.has_coordinates:
            message = (
                f"section {self._name!r} of store {self._location.address!r} was shared without coordinates; ask "
                "whoever shared it for a copy with them, or use it only where none are needed"
            )
            raise StoreError(message)
        return self._coordinates(SPATIAL)

    @cached_property
    def xy_um(self) -> Float64[Array, "n_spots 2"] | None:
        """Spot centres in µm; None where the µm per pixel is unknown."""
        has_um = f"obsm/{SPATIAL_UM}" in self.index.nodes
        return self._coordinates(SPATIAL_UM) if has_um else None

    def counts(self, genes: Sequence[str] | None = None) -> sparse.csr_matrix:
        """Read the raw counts, int32, n_spots x n_genes, of all genes or of those named, in their order.

        Of a remote store only the parts that hold those genes are fetched.

        Raises
        ------
        StoreError
            If the section has none, lacks one of the genes (names them), or they are damaged.
        """
        if not self.meta.has_counts:
            message = (
                f"section {self._name!r} of store {self._location.address!r} has no counts; where they are needed, "
                "add the section again with `spam embed --h5ad`"
            )
            raise StoreError(message)
        shape = (self.n_spots, self.meta.n_genes)
        if genes is None:
            with self._unchanged("X"):
                return read_sparse(self._group, "X", form="csc", shape=shape)
        places = self._gene_places(genes)
        with self._unchanged("X"):
            return read_columns(self._group, "X", places, shape=shape)

    def _gene_places(self, genes: Sequence[str]) -> Int[Array, " n"]:
        assert self.genes is not None  # `has_counts` was asked
        places = {gene: place for place, gene in enumerate(self.genes.tolist())}
        missing = [gene for gene in genes if gene not in places]
        if missing:
            message = (
                f"section {self._name!r} of store {self._location.address!r} lacks {len(missing)} of "
                f"{len(genes)} genes, such as {missing[:3]}; ask for genes that it has"
            )
            raise StoreError(message)
        return np.array([places[gene] for gene in genes], dtype=np.int64)

    def overview(self) -> Overview | None:
        """Read the small image of the slide; None where it was left out.

        Raises
        ------
        StoreError
            If it is damaged.
        """
        library = f"uns/{SPATIAL}/{self._name}"
        if library not in self.index.nodes:
            return None
        with self._unchanged(library):
            image = read_array(self._group, f"{library}/{HIRES_PATH}")
            scale = read_array(self._group, f"{library}/{SCALES_PATH}").item()
        return Overview(image=image, scale=scale)

    def _coordinates(self, name: str) -> Float64[Array, "n_spots 2"]:
        with self._unchanged(f"obsm/{name}"):
            xy = read_array(self._group, f"obsm/{name}")
        if xy.shape != (self.n_spots, 2):
            fault = f"coordinates of shape {xy.shape}, expected {(self.n_spots, 2)}"
            raise damaged(self._group, fault, child=f"obsm/{name}")
        return xy
