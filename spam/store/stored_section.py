"""A section of a store: its tables, features and neighbour graphs, read on demand."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import numpy as np

from spam.errors import StoreError
from spam.schemas.store_format import FeatureMeta, GraphMeta, name_fault, quality_key
from spam.schemas.tile_spec import TileFlag, tile_flags
from spam.typing import Array, Bool, Float32, Shaped

from .features import FeatureChunks, FeatureWriter, open_feature_writer, unfinished_names
from .layout import IDENTITY, META, SPAM, graph_nodes
from .places import FolderLocation
from .section_index import content_digest, open_index
from .section_tables import SectionTables
from .writing import locked, locked_part, write_elements

CsrMatrix: TypeAlias = Any
"""SciPy's ``csr_matrix`` or ``csr_array``; SciPy carries no types."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A neighbour graph of one section: row i holds the neighbours of spot i.

    Attributes
    ----------
    connectivities
        Weights, n_spots x n_spots.
    distances
        Distances in the unit of `meta`, n_spots x n_spots; a stored zero is a neighbour at the same place.
    meta
        How the graph was made.
    """

    connectivities: CsrMatrix
    distances: CsrMatrix
    meta: GraphMeta


class StoredSection(SectionTables):
    """One section of a store; made by `Store.section` and `Store.add_section`."""

    # Features

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """Names of the finished feature arrays, sorted, without those of tile quality."""
        return self.index.feature_keys

    @property
    def quality_keys(self) -> tuple[str, ...]:
        """Names of the finished arrays with the quality of tiles, sorted."""
        return self.index.quality_keys

    @property
    def unfinished_keys(self) -> tuple[str, ...]:
        """Names of the feature arrays that were begun and not finished, sorted."""
        return unfinished_names(self.location, self.index)

    def feature_meta(self, key: str) -> FeatureMeta:
        """Read how finished features were computed.

        Raises
        ------
        StoreError
            If there are no finished features of that name.
        """
        if key in self.unfinished_keys:
            message = (
                f"Section {self._name!r} of store {self.store_address!r}: features {key!r} are unfinished. Run the same `spam "
                "embed` command again to finish them."
            )
            raise StoreError(message)
        return self.index.feature_meta(key)

    def feature_identity(self, key: str) -> str:
        """Digest of the inputs and settings of features; equal on every machine.

        Raises
        ------
        StoreError
            As `feature_meta`.
        """
        self.feature_meta(key)
        return str(self.index.attribute(f"obsm/{key}", IDENTITY))

    def content_digest(self, *names: str) -> str:
        """Digest of all bytes of some nodes (``obsm/uni2_112um``), or of the whole section if none is named."""
        return content_digest(self.index.below(*names)) if names else self.index.digest

    def features(self, key: str) -> Float32[Array, "n_spots dim"]:
        """Read finished features as float32, one row per spot.

        Raises
        ------
        StoreError
            As `stored_features`.
        """
        return self._features(key, is_float32=True)

    def stored_features(self, key: str) -> Shaped[Array, "n_spots dim"]:
        """Read finished features as they are stored, float16 or float32.

        Raises
        ------
        StoreError
            If there are none of that name, a chunk is missing or damaged, or another process replaced them meanwhile.
        """
        return self._features(key, is_float32=False)

    def _features(self, key: str, *, is_float32: bool) -> Shaped[Array, "n_spots dim"]:
        rows = self.feature_chunks(key).read(is_float32=is_float32)
        self.check_unchanged(key)
        return rows

    def feature_chunks(self, key: str) -> FeatureChunks:
        """Find the files of finished features.

        Raises
        ------
        StoreError
            As `stored_features`.
        """
        self.feature_meta(key)
        return FeatureChunks(self.location, self.index, key)

    def check_unchanged(self, key: str) -> None:
        """Refuse features that another process replaced since this section was opened.

        Raises
        ------
        StoreError
            Naming them.
        """
        node = f"obsm/{key}"
        if isinstance(self.location, FolderLocation):
            data = self.location.read_index(self._name)
            if data != self.index.data:  # a checksum does not tell old chunks from new ones
                now = {} if data is None else open_index(data, self._name, self.store_address).below(node)
                if now != self.index.below(node):
                    message = f"Features {key!r} of section {self._name!r} were replaced while they were read. Run again."
                    raise StoreError(message)

    def quality(self, key: str) -> Float32[Array, "n_spots 4"] | None:
        """Read the quality of the tiles behind features `key`; None if it was not measured.

        Columns are `spam.schemas.tile_spec.MEASURES`.

        Raises
        ------
        StoreError
            As `stored_features`.
        """
        name = quality_key(key)
        return self.features(name) if name in self.quality_keys else None

    def feature_writer(
        self, meta: FeatureMeta, *, run: Mapping[str, str | int] | None = None, is_overwrite: bool = False
    ) -> FeatureWriter:
        """Begin a feature array, or resume an unfinished one.

        A finished array of the same `meta` gives a writer with nothing pending.

        Parameters
        ----------
        meta
            How the features are computed.
        run
            What else decides over their last bits, such as the batch size: a resumed run must share it. It is not kept
            in the finished array.
        is_overwrite
            Remove finished features of this key, with their graph and tile quality, and begin again; unfinished ones of
            the same `meta` and `run` are resumed.

        Raises
        ------
        StoreError
            If the store is open for reading only, `meta` cannot be stored, or it differs from that of the array that
            exists (names each difference).
        """
        return open_feature_writer(
            self.folder,
            self._name,
            meta,
            run=run or {},
            is_overwrite=is_overwrite,
            refresh=self.refresh,
        )

    def lock(self, key: str, *, part: str = "") -> AbstractContextManager[None]:
        """Keep other processes from writing features `key`: all of them, or the same `part` of their chunks.

        Raises
        ------
        StoreError
            If another process writes them, or the store is open for reading only.
        """
        return locked_part(self.folder, f"{self._name}/{key}", part)

    # Graphs

    @property
    def graph_keys(self) -> tuple[str, ...]:
        """Names of the neighbour graphs, sorted."""
        return self.index.graph_keys

    def graph(self, key: str) -> Graph | None:
        """Read a neighbour graph (``spatial``, ``features_<feature key>``); None if it was not built.

        Raises
        ------
        StoreError
            If the graph is damaged.
        """
        described, *matrices = graph_nodes(key)
        if described not in self.index.nodes:
            return None
        weights, lengths = (self._sparse(name, "csr", (self.n_spots, self.n_spots)) for name in matrices)
        return Graph(connectivities=weights, distances=lengths, meta=self.index.graph_meta(key))

    def write_graph(self, key: str, graph: Graph) -> None:
        """Write a neighbour graph, in place of an older one of that key.

        Raises
        ------
        StoreError
            If the store is open for reading only, the key cannot name a graph, the graph has another number of nodes than
            the section has spots, or another process changes this section for two minutes.
        """
        folder, shape = self.folder, (self.n_spots, self.n_spots)
        fault = name_fault(key, "the graph's key")
        if graph.connectivities.shape != shape or graph.distances.shape != shape:
            fault = f"{graph.connectivities.shape[0]} nodes, section {self._name!r} has {self.n_spots} spots"
        if fault:
            message = f"Graph {key!r} cannot be stored: {fault}"
            raise StoreError(message)
        described, connectivities, distances = graph_nodes(key)
        meta = graph.meta
        description = {
            "connectivities_key": connectivities.removeprefix("obsp/"),
            "distances_key": distances.removeprefix("obsp/"),
            "params": {"n_neighbors": meta.k, "metric": meta.metric, "unit": meta.unit, "sigma": meta.sigma},
        }
        elements = {described: description, connectivities: graph.connectivities, distances: graph.distances}
        with locked(folder, self._name):
            attributes = {described: {SPAM: {META: meta.to_mapping()}}}
            write_elements(folder, self._name, elements, attributes=attributes)
        self.refresh()


class StoredRows:
    """Features of some spots of a section, several arrays side by side, which are read whenever they are asked for.

    Attributes
    ----------
    shape, dtype
        As of the array in memory.
    """

    def __init__(
        self, section: StoredSection, keys: Sequence[str], is_among: Bool[Array, " n_spots"]
    ) -> None:
        self._section, self._keys, self._rows = section, keys, np.flatnonzero(is_among)
        self._chunks = [section.feature_chunks(key) for key in keys]
        *self._starts, dim = np.cumsum([0, *(chunks.shape[1] for chunks in self._chunks)]).tolist()
        self.shape = (len(self._rows), dim)
        self.dtype: np.dtype[Any] = np.result_type(*(chunks.dtype for chunks in self._chunks))

    def __len__(self) -> int:
        """Count the spots."""
        return self.shape[0]

    def __getitem__(self, key: Any) -> Shaped[Array, "n d"]:
        """Read rows (a slice, or ascending numbers), or columns of them (a slice without step).

        Raises
        ------
        StoreError
            If a chunk is missing or damaged, or another process replaced the features.
        """
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        first, last, _ = columns.indices(self.shape[1])
        found = np.empty((len(self._rows[rows]), max(last - first, 0)), self.dtype)
        for name, chunks, start in zip(self._keys, self._chunks, self._starts, strict=True):
            own = slice(max(first - start, 0), max(min(last - start, chunks.shape[1]), 0))
            if own.start < own.stop:
                place = start + own.start - first
                found[:, place : place + own.stop - own.start] = chunks.rows(self._rows[rows], own)
                self._section.check_unchanged(name)
        return found


def choose_features(section: StoredSection, names: Sequence[str]) -> tuple[str, ...]:
    """Return the features that are named by key or by encoder, sorted; all of them if none is named.

    Raises
    ------
    StoreError
        If a name is neither a feature key nor an encoder of the section.
    """
    found = encoders_of(section)
    missing = [name for name in names if name not in found and name not in found.values()]
    if missing:
        offered = ", ".join(f"{key!r} of {encoder!r}" for key, encoder in found.items()) or "none"
        message = f"Section {section.meta.name!r} has no features {', '.join(map(repr, missing))} (found: {offered})."
        raise StoreError(message)
    return features_named(section, names)


def features_named(section: StoredSection, names: Sequence[str]) -> tuple[str, ...]:
    """Return the features whose key or encoder is named, sorted; all of them if none is named."""
    found = encoders_of(section).items()
    return tuple(key for key, encoder in found if not names or key in names or encoder in names)


def encoders_of(section: StoredSection) -> dict[str, str]:
    """Return the name of the encoder of each feature array."""
    return {key: str(section.feature_meta(key).encoder.get("name")) for key in section.feature_keys}


def flagged_spots(section: StoredSection, keys: Sequence[str]) -> dict[TileFlag, Bool[Array, " n_spots"]]:
    """Flag the spots of a section by the tiles behind the features `keys`; a spot has a flag if one of its tiles has it.

    Returns
    -------
    dict
        One array of booleans per flag; empty if no quality was measured for any of the features.

    Raises
    ------
    StoreError
        If a quality array is damaged.
    """
    measured = [measures for key in keys if (measures := section.quality(key)) is not None]
    by_key = [tile_flags(measures) for measures in measured]
    return {flag: np.any([flags[flag] for flags in by_key], axis=0) for flag in by_key[0]} if by_key else {}


def readable_spots(section: StoredSection, keys: Sequence[str]) -> Bool[Array, " n_spots"]:
    """Tell which spots have all of the features `keys`: those whose tiles could all be read.

    The features of the others are zeros without meaning; leave these spots out of every computation.

    Raises
    ------
    StoreError
        If there is no such spot, or a quality array is damaged.
    """
    flags = flagged_spots(section, keys)
    is_readable = ~flags["unreadable"] if flags else np.ones(section.n_spots, dtype=bool)
    if not is_readable.any():
        message = (
            f"No tile of section {section.meta.name!r} could be read for features {', '.join(map(repr, keys))}. Check the "
            "slide, then run: spam embed --overwrite"
        )
        raise StoreError(message)
    return is_readable
