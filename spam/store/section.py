"""A section of a store: what is known of it, its features and its graphs, read on demand."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from spam.errors import StoreError
from spam.schemas.store_meta import FeatureMeta, quality_key
from spam.schemas.tile_spec import MEASURES
from spam.typing import Array, Float32, Int64, Shaped

from .elements import array_at
from .feature_opening import open_feature_writer
from .feature_reader import feature_names, quality_names, read_feature_meta, read_features, unfinished_names
from .feature_writer import LOCK_WAIT_S, FeatureWriter
from .graph_elements import graph_names, graph_nodes, read_graph, write_graph
from .index import SectionIndex, content_digest
from .layout import IDENTITY, name_fault
from .location import FolderLocation, Location
from .lock import locked, locked_part
from .metadata import damaged, read_entry
from .records import Graph
from .section_tables import SectionTables

__all__ = ["StoredSection"]


class StoredSection(SectionTables):
    """One section of a store; made by `Store.section` and `Store.add_section`.

    Spots, counts, coordinates and overview are those of `SectionTables`; features and graphs are read anew at each call.

    Attributes
    ----------
    is_writable
        Whether the store was opened for writing.
    """

    def __init__(self, location: Location, name: str, *, is_writable: bool) -> None:
        super().__init__(location, name)
        self.is_writable = is_writable

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """Names of the finished feature arrays, sorted; arrays of the quality of tiles are not among them."""
        return tuple(key for key in feature_names(self.index) if key not in self.quality_keys)

    @property
    def quality_keys(self) -> tuple[str, ...]:
        """Names of the finished arrays of the quality of tiles, sorted."""
        return quality_names(self.index)

    @property
    def graph_keys(self) -> tuple[str, ...]:
        """Names of the neighbour graphs, sorted."""
        return graph_names(self.index)

    @property
    def unfinished_keys(self) -> tuple[str, ...]:
        """Names of the feature arrays that a writer began and did not finish, sorted.

        A key is in both lists while finished features are being made anew.
        """
        return unfinished_names(Path(self._location.address), self._name)

    def feature_meta(self, key: str) -> FeatureMeta:
        """Read how finished features were made.

        Raises
        ------
        StoreError
            If there are no finished features of that name (says what there is), or they are damaged.
        """
        return read_feature_meta(self._group, self.index, key, location=self._location)

    def feature_identity(self, key: str) -> str:
        """Digest of what features were made from and how; equal on every machine.

        Raises
        ------
        StoreError
            As `feature_meta`.
        """
        self.feature_meta(key)
        return str(read_entry(array_at(self._group, f"obsm/{key}"), IDENTITY))

    def content_digest(self, *names: str) -> str:
        """Digest of all bytes of some nodes (``obsm/uni2_112um``), or of the whole section if none is named."""
        return content_digest(self.index.below(*names)) if names else self.index.digest

    def features(self, key: str) -> Float32[Array, "n_spots dim"]:
        """Read finished features, one row per spot.

        Raises
        ------
        StoreError
            If there are no finished features of that name (says what there is), or they are damaged: a shape
            that does not fit, a chunk that is not what was written, or a value that is not finite.
        """
        return self._features(key, is_raw=False)

    def quality(self, key: str) -> Float32[Array, "n_spots 4"] | None:
        """Read the quality of the tiles that features `key` were made from; None where it was not measured.

        Columns are `spam.schemas.tile_spec.MEASURES`; `spam.schemas.tile_spec.tile_flags` makes flags of them.

        Raises
        ------
        StoreError
            As `features`, or if the array has not the columns of `MEASURES`.
        """
        name = quality_key(key)
        if name not in self.quality_keys:
            return None
        measures = self.features(name)
        if measures.shape[1] != len(MEASURES):
            fault = f"it has {measures.shape[1]} columns, the quality of tiles has {len(MEASURES)}"
            raise damaged(self._group, fault, child=f"obsm/{name}")
        return measures

    def stored_features(self, key: str) -> Shaped[Array, "n_spots dim"]:
        """Read finished features as they are stored: float16, float32, or the bits of bfloat16 as uint16.

        Raises
        ------
        StoreError
            As `features`.
        """
        return self._features(key, is_raw=True)

    def _features(self, key: str, *, is_raw: bool) -> Shaped[Array, "n_spots dim"]:
        with self._unchanged(f"obsm/{key}"):
            return read_features(self._group, self.index, key, location=self._location, is_raw=is_raw)

    def feature_writer(
        self,
        meta: FeatureMeta,
        *,
        run: Mapping[str, str | int] | None = None,
        order: Int64[Array, " n_spots"] | None = None,
        is_overwrite: bool = False,
    ) -> FeatureWriter:
        """Begin a feature array, or go on with an unfinished one.

        A finished array of the same `meta` gives a writer with nothing pending. With `is_overwrite` the array
        begins anew (or goes on, if it was begun to replace what is there); an older finished one stays readable until
        the new one is finished. Its graph goes with it, and so does the quality of its tiles, unless the new features
        were made from the same.

        Parameters
        ----------
        meta
            How the features are made.
        run
            What else decides over their last bits, such as the batch size: a run that goes on must share it. It is
            not kept in the finished array.
        order
            Number of the spot of each row that will be written; None for the order of the spots. The finished array
            is in the order of the spots.
        is_overwrite
            Replace what is there.

        Raises
        ------
        StoreError
            If the store is open for reading only, `meta` cannot be stored, or it differs from that of the
            array that is there (names each difference).
        """

        def refresh() -> SectionIndex:
            self.refresh()
            return self.index

        return open_feature_writer(
            self._folder(),
            self._name,
            meta,
            run=run or {},
            order=order,
            is_overwrite=is_overwrite,
            refresh=refresh,
        )

    def lock(self, key: str, *, part: str = "") -> AbstractContextManager[None]:
        """Hold off other processes that would write features `key`: all of them, or the same `part` of them.

        Raises
        ------
        StoreError
            If another process writes them, or the store is open for reading only.
        """
        return locked_part(self._folder(), f"{self._name}/obsm/{key}", part)

    def graph(self, key: str) -> Graph | None:
        """Read a neighbour graph (``spatial``, ``features_<feature key>``); None if it was not built.

        Raises
        ------
        StoreError
            If the graph is damaged.
        """
        with self._unchanged(*graph_nodes(key)):
            return read_graph(self._group, key, n_spots=self.n_spots)

    def write_graph(self, key: str, graph: Graph) -> None:
        """Write a neighbour graph, in place of an older one of that key.

        Raises
        ------
        StoreError
            If the store is open for reading only, the key cannot name a graph, the graph is over another
            number of spots, or another process has been changing this section for two minutes.
        """
        folder = self._folder()
        n_nodes = graph.connectivities.shape[0]
        fault = name_fault(key, "the graph's key")
        if n_nodes != self.n_spots:
            fault = f"graph {key!r} has {n_nodes} nodes, section {self._name!r} has {self.n_spots} spots"
        if fault:
            message = f"store {str(folder)!r} cannot hold the graph: {fault}; build it from this section"
            raise StoreError(message)
        with locked(folder, self._name, wait_s=LOCK_WAIT_S):
            write_graph(folder, self._name, key, graph)
        self.refresh()

    def _folder(self) -> Path:
        """Give the folder of the store, to write to.

        Raises
        ------
        StoreError
            If it was opened for reading only.
        """
        if self.is_writable and isinstance(self._location, FolderLocation):
            return self._location.path
        message = (
            f"store {self._location.address!r} is open for reading only; open it with "
            "open_store(path, is_read_only=False) to write"
        )
        raise StoreError(message)
