"""A section of a store: what is known of it, its features and its graphs, read on demand."""

from functools import cached_property
from pathlib import Path

import zarr
from scipy import sparse

from spam.errors import StoreError
from spam.schemas.store_meta import FeatureMeta, SectionMeta
from spam.typing import Array, Float32, Float64, Shaped

from .elements import group_at, read_array, read_csr, read_frame
from .feature_reader import feature_names, read_feature_meta, read_features
from .feature_writer import FeatureWriter, open_feature_writer
from .graph_elements import read_graph, write_graph
from .layout import HIRES_PATH, SCALES_PATH, SPATIAL, SPATIAL_UM, name_fault
from .metadata import damaged, read_meta
from .records import Graph, Overview
from .staging import is_there, staging_name

__all__ = ["StoredSection"]


class StoredSection:
    """One section of a store; made by `Store.section` and `Store.add_section`.

    Small tables are read once and kept (do not change them in place); counts, features and graphs are read
    anew at each call.

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
        self.meta = read_meta(self._group, SectionMeta.from_mapping)

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return self.meta.n_spots

    @cached_property
    def _obs(self) -> tuple[Array, dict[str, Array]]:
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
        genes = read_frame(self._group, "var")[0]
        if genes.shape != (self.meta.n_genes,):
            raise damaged(self._group, f"{genes.size} genes, expected {self.meta.n_genes}", child="var")
        return genes

    @cached_property
    def xy_px(self) -> Float64[Array, "n_spots 2"]:
        """Spot centres in full-resolution slide pixels (x = column, y = row)."""
        return self._coordinates(SPATIAL)

    @cached_property
    def xy_um(self) -> Float64[Array, "n_spots 2"] | None:
        """Spot centres in µm; None where the µm per pixel is unknown."""
        has_um = is_there(self._path, f"{self._name}/obsm/{SPATIAL_UM}")
        return self._coordinates(SPATIAL_UM) if has_um else None

    def counts(self) -> sparse.csr_matrix:
        """Read the raw counts, n_spots x n_genes, int32.

        Raises
        ------
        StoreError
            If the section has none, or they are damaged.
        """
        if not self.meta.has_counts:
            message = (
                f"section {self._name!r} of store {str(self._path)!r} has no counts; where they are needed, "
                "add the section again with `spam embed --h5ad`"
            )
            raise StoreError(message)
        counts = read_csr(self._group, "X")
        shape = (self.n_spots, self.meta.n_genes)
        if counts.shape != shape:
            raise damaged(self._group, f"counts of shape {counts.shape}, expected {shape}", child="X")
        return counts

    def overview(self) -> Overview | None:
        """Read the small image of the slide; None where it was left out.

        Raises
        ------
        StoreError
            If it is damaged.
        """
        library = f"uns/{SPATIAL}/{self._name}"
        if not is_there(self._path, f"{self._name}/{library}"):
            return None
        image = read_array(self._group, f"{library}/{HIRES_PATH}")
        return Overview(image=image, scale=read_array(self._group, f"{library}/{SCALES_PATH}").item())

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """Names of the finished feature arrays, sorted."""
        return feature_names(self._root, self._path, self._name)

    @property
    def unfinished_keys(self) -> tuple[str, ...]:
        """Names of the feature arrays that a writer began and did not finish, sorted.

        A key is in both lists while finished features are being made anew.
        """
        return feature_names(self._root, self._path, staging_name(self._name))

    def feature_meta(self, key: str) -> FeatureMeta:
        """Read how finished features were made.

        Raises
        ------
        StoreError
            If there are no finished features of that name (says what there is), or they are damaged.
        """
        return read_feature_meta(self._root, self._path, self._name, key)

    def features(self, key: str) -> Float32[Array, "n_spots dim"]:
        """Read finished features, one row per spot.

        Raises
        ------
        StoreError
            If there are no finished features of that name (says what there is), or they are damaged: a shape
            that does not fit, or a value that is not finite.
        """
        return read_features(self._root, self._path, self._name, key, n_spots=self.n_spots)

    def feature_writer(self, meta: FeatureMeta, *, is_overwrite: bool = False) -> FeatureWriter:
        """Begin a feature array, or go on with an unfinished one.

        A finished array of the same `meta` gives a writer with nothing pending. With `is_overwrite` the array
        begins anew; an older finished one stays readable until the new one is finished.

        Raises
        ------
        StoreError
            If the store is open for reading only, `meta` cannot be stored, or it differs from that of the
            array that is there (names each difference).
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
        return read_graph(self._root, self._path, self._name, key, n_spots=self.n_spots)

    def write_graph(self, key: str, graph: Graph) -> None:
        """Write a neighbour graph, in place of an older one of that key.

        Raises
        ------
        StoreError
            If the store is open for reading only, the key cannot name a graph, or the graph is over another
            number of spots.
        """
        self._require_writable()
        n_nodes = graph.connectivities.shape[0]
        fault = name_fault(key, "the graph's key")
        if n_nodes != self.n_spots:
            fault = f"graph {key!r} has {n_nodes} nodes, section {self._name!r} has {self.n_spots} spots"
        if fault:
            message = f"store {str(self._path)!r} cannot hold the graph: {fault}; build it from this section"
            raise StoreError(message)
        write_graph(self._path, self._name, key, graph)

    def _coordinates(self, name: str) -> Float64[Array, "n_spots 2"]:
        xy = read_array(self._group, f"obsm/{name}")
        if xy.shape != (self.n_spots, 2):
            fault = f"coordinates of shape {xy.shape}, expected {(self.n_spots, 2)}"
            raise damaged(self._group, fault, child=f"obsm/{name}")
        return xy

    def _require_writable(self) -> None:
        if not self.is_writable:
            message = (
                f"store {str(self._path)!r} is open for reading only; open it with "
                "open_store(path, is_read_only=False) to write"
            )
            raise StoreError(message)
