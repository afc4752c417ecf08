"""A section of a store: what is known of it, its features and its graphs, read on demand."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy import sparse

from spam.errors import StoreError
from spam.schemas.store_meta import FeatureMeta, GraphMeta, SectionMeta
from spam.typing import Array, Float32, Float64, Shaped

from .elements import array_at, group_at, read_array, read_csr, read_frame
from .feature_writer import FeatureWriter, open_feature_writer
from .layout import (
    CHUNKS,
    HIRES_PATH,
    META,
    SCALES_PATH,
    SPAM,
    SPATIAL,
    SPATIAL_UM,
    connectivities_key,
    distances_key,
    name_fault,
    neighbors_key,
)
from .records import Graph, Overview
from .section_writer import write_graph
from .staging import staging_name

__all__ = ["StoredSection"]


class StoredSection:
    """One section of a store; made by `Store.section` and `Store.add_section`.

    Small tables are read once and kept (do not change them in place); counts, features and graphs are read anew at
    each call.

    Attributes
    ----------
    meta
        Name, donor, sizes and provenance.
    is_writable
        Whether the store was opened for writing.
    """

    def __init__(self, root: zarr.Group, name: str, *, path: Path, is_writable: bool) -> None:
        self._root, self._name, self._path = root, name, path
        self._group = group_at(root, name)
        self.is_writable = is_writable
        try:
            self.meta = SectionMeta.from_mapping(_described(self._group)[META])
        except (KeyError, TypeError) as error:
            raise self._damaged(name, error) from error

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return self.meta.n_spots

    @cached_property
    def _frame(self) -> tuple[Array, dict[str, Array]]:
        ids, columns = read_frame(self._group, "obs")
        shapes = {name: values.shape for name, values in {"index": ids, **columns}.items()}
        wrong = {name: shape for name, shape in shapes.items() if shape != (self.n_spots,)}
        if wrong:
            raise self._damaged(f"{self._name}/obs", f"{self.n_spots} spots, but shapes {wrong}")
        return ids, columns

    @property
    def ids(self) -> Shaped[Array, " n_spots"]:
        """Names of the spots, as NumPy's ``str``."""
        return self._frame[0]

    @property
    def obs(self) -> dict[str, Array]:
        """Further columns, one value per spot; always with ``section``, and with ``donor`` where it is known."""
        return dict(self._frame[1])

    @cached_property
    def genes(self) -> Shaped[Array, " n_genes"] | None:
        """Names of the genes, as NumPy's ``str``; None for a section without counts."""
        return read_frame(self._group, "var")[0] if self.meta.has_counts else None

    @cached_property
    def xy_px(self) -> Float64[Array, "n_spots 2"]:
        """Spot centres in full-resolution slide pixels (x = column, y = row)."""
        return self._rows(f"obsm/{SPATIAL}", 2)

    @cached_property
    def xy_um(self) -> Float64[Array, "n_spots 2"] | None:
        """Spot centres in µm; None where the µm per pixel is unknown."""
        return self._rows(f"obsm/{SPATIAL_UM}", 2) if f"obsm/{SPATIAL_UM}" in self._group else None

    def counts(self) -> sparse.csr_matrix:
        """Read the raw counts, n_spots x n_genes, int32.

        Raises
        ------
        StoreError
            If the section has none, or they are damaged.
        """
        if not self.meta.has_counts:
            message = (
                f"section {self._name!r} of {str(self._path)!r} has no counts; give its h5ad to `spam embed --h5ad` "
                "if they are needed"
            )
            raise StoreError(message)
        counts = read_csr(self._group, "X")
        if counts.shape != (self.n_spots, self.meta.n_genes):
            raise self._damaged(f"{self._name}/X", f"shape {counts.shape} does not fit the section")
        return counts

    def overview(self) -> Overview | None:
        """Read the small image of the slide; None where it was left out."""
        library = f"uns/{SPATIAL}/{self._name}"
        if library not in self._group:
            return None
        scale = read_array(self._group, f"{library}/{SCALES_PATH}").item()
        return Overview(image=read_array(self._group, f"{library}/{HIRES_PATH}"), scale=scale)

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """Names of the finished feature arrays, sorted."""
        return self._feature_names(self._name)

    @property
    def unfinished_keys(self) -> tuple[str, ...]:
        """Names of the feature arrays that a writer began and did not finish, sorted."""
        return self._feature_names(staging_name(self._name))

    def _feature_names(self, section: str) -> tuple[str, ...]:
        if f"{section}/obsm" not in self._root:
            return ()
        obsm = group_at(self._root, f"{section}/obsm")
        return tuple(sorted(name for name, array in obsm.arrays() if SPAM in array.attrs))

    def feature_meta(self, key: str) -> FeatureMeta:
        """Read how finished features were made.

        Raises
        ------
        StoreError
            If there are no finished features of that name (says what there is), or their metadata are damaged.
        """
        return self._finished(key)[1]

    def features(self, key: str) -> Float32[Array, "n_spots dim"]:
        """Read finished features, one row per spot.

        Raises
        ------
        StoreError
            If there are no finished features of that name (says what there is), or they are damaged: a shape that
            does not fit, or a value that is not finite.
        """
        array, meta = self._finished(key)
        features = self._rows(f"obsm/{key}", meta.dim).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if bad.size:
            raise self._damaged(
                f"{self._name}/obsm/{key}", f"{bad.size} rows are not finite, the first is {bad[0]}"
            )
        return features

    def feature_writer(self, meta: FeatureMeta, *, is_overwrite: bool = False) -> FeatureWriter:
        """Begin a feature array, or go on with an unfinished one.

        A finished array of the same `meta` gives a writer with nothing pending. With `is_overwrite` the array begins
        anew; an older finished one stays readable until the new one is finished.

        Raises
        ------
        StoreError
            If the store is open for reading only, `meta` cannot be stored, or it differs from that of the array that
            is there (names each difference).
        """
        self._require_writable()
        return open_feature_writer(
            self._root, self._name, self.n_spots, meta, store=self._path, is_overwrite=is_overwrite
        )

    def graph(self, key: str) -> Graph | None:
        """Read a neighbour graph (``spatial``, ``features_<feature key>``); None if it was not built.

        Raises
        ------
        StoreError
            If the graph is damaged.
        """
        described = f"uns/{neighbors_key(key)}"
        if described not in self._group:
            return None
        try:
            meta = GraphMeta(**_described(group_at(self._group, described))[META])
        except (KeyError, TypeError) as error:
            raise self._damaged(f"{self._name}/{described}", error) from error
        graph = Graph(
            connectivities=read_csr(self._group, f"obsp/{connectivities_key(key)}"),
            distances=read_csr(self._group, f"obsp/{distances_key(key)}"),
            meta=meta,
        )
        self._require_fit(key, graph)
        return graph

    def write_graph(self, key: str, graph: Graph) -> None:
        """Write a neighbour graph, in place of an older one of that key.

        Raises
        ------
        StoreError
            If the store is open for reading only, the key cannot name a graph, or the graph is not one over this
            section's spots.
        """
        self._require_writable()
        fault = name_fault(key, "the graph's key")
        if fault:
            raise StoreError(fault)
        self._require_fit(key, graph)
        write_graph(self._root, self._path, self._name, key, graph)

    def _require_fit(self, key: str, graph: Graph) -> None:
        if graph.connectivities.shape[0] != self.n_spots:
            message = (
                f"graph {key!r} has {graph.connectivities.shape[0]} nodes, section {self._name!r} of "
                f"{str(self._path)!r} has {self.n_spots} spots; build it again from this section"
            )
            raise StoreError(message)

    def _rows(self, name: str, dim: int) -> Array:
        rows = read_array(self._group, name)
        if rows.shape != (self.n_spots, dim):
            raise self._damaged(f"{self._name}/{name}", f"shape {rows.shape}, expected {(self.n_spots, dim)}")
        return rows

    def _finished(self, key: str) -> tuple[zarr.Array[Any], FeatureMeta]:
        if key not in self.feature_keys:
            raise StoreError(self._missing(key))
        array = array_at(self._group, f"obsm/{key}")
        try:
            described = _described(array)
            meta, digests = FeatureMeta.from_mapping(described[META]), described[CHUNKS]
        except (KeyError, TypeError) as error:
            raise self._damaged(f"{self._name}/obsm/{key}", error) from error
        if None in digests:
            raise self._damaged(
                f"{self._name}/obsm/{key}", f"chunks {digests.count(None)} are not marked done"
            )
        return array, meta

    def _missing(self, key: str) -> str:
        where = f"section {self._name!r} of store {str(self._path)!r}"
        if key in self.unfinished_keys:
            array = array_at(self._root, f"{staging_name(self._name)}/obsm/{key}")
            digests = _described(array)[CHUNKS]
            return (
                f"features {key!r} of {where} are unfinished: {digests.count(None)} of {len(digests)} chunks are "
                "missing; run `spam embed` again to go on"
            )
        there = ", ".join(map(repr, self.feature_keys)) or "none yet"
        return f"{where} has no features {key!r} (it has: {there}); make them with `spam embed`"

    def _require_writable(self) -> None:
        if not self.is_writable:
            message = (
                f"store {str(self._path)!r} is open for reading only; open it with "
                "open_store(path, is_read_only=False) to write"
            )
            raise StoreError(message)

    def _damaged(self, where: str, fault: object) -> StoreError:
        return StoreError(
            f"the store is damaged at {self._path}/{where}: {fault}; take a fresh copy of the store, or write it "
            "again with `spam embed --overwrite`"
        )


def _described(node: zarr.Group | zarr.Array[Any]) -> dict[str, Any]:
    """Return spam's own metadata of a node; raise what a mapping raises if they are not there."""
    return dict(node.attrs[SPAM])  # type: ignore[call-overload, arg-type]
