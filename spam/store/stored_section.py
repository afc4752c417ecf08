"""A section of a store: its spots, counts, coordinates, overview, features and neighbour graphs, read on demand."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import sparse

from spam.errors import SectionError, StoreError
from spam.schemas.store_format import FeatureMeta, GraphMeta, name_fault, quality_key
from spam.schemas.tile_spec import TileFlag, tile_flags
from spam.sections.count_matrix import indptr_fault, sparse_matrix
from spam.typing import Array, Bool, Float32, Float64, Int, Shaped

from .features import (
    FeatureWriter,
    feature_names,
    open_feature_writer,
    quality_names,
    read_feature_meta,
    read_features,
    unfinished_names,
)
from .layout import BLANK, IDENTITY, LIBRARY, META, SPAM, SPATIAL, SPATIAL_UM, graph_nodes
from .places import FolderLocation, Location, open_section_group, writable_folder
from .section_index import SectionIndex, content_digest, open_index
from .writing import locked, locked_part, write_elements

CsrMatrix: TypeAlias = Any
"""SciPy's ``csr_matrix`` or ``csr_array``; SciPy carries no types."""

_NEIGHBORS = "_neighbors"
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


class StoredSection:
    """One section of a store; made by `Store.section` and `Store.add_section`.

    Small tables are read once and kept (do not change them in place); counts, overview, features and graphs are read at
    each call.

    Attributes
    ----------
    location
        Where the files of the store are.
    index
        Metadata of all groups and arrays, sizes and digests of all files.
    meta
        Name, donor, sizes and provenance.
    is_writable
        Whether the store was opened for writing.
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

    # Tables

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
        return self._columns(np.array([places[gene] for gene in genes], dtype=np.int64))

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

    # Features

    @property
    def feature_keys(self) -> tuple[str, ...]:
        """Names of the finished feature arrays, sorted, without those of tile quality."""
        return tuple(key for key in feature_names(self.index) if key not in self.quality_keys)

    @property
    def quality_keys(self) -> tuple[str, ...]:
        """Names of the finished arrays with the quality of tiles, sorted."""
        return quality_names(self.index)

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
        return read_feature_meta(self.index, key, self.location)

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
        rows = read_features(self.location, self.index, key, is_float32=is_float32)
        node = f"obsm/{key}"
        if isinstance(self.location, FolderLocation):
            data = self.location.read_index(self._name)
            if data != self.index.data:  # a checksum does not tell old chunks from new ones
                now = {} if data is None else open_index(data, self._name, self.store_address).below(node)
                if now != self.index.below(node):
                    message = f"Features {key!r} of section {self._name!r} were replaced while they were read. Run again."
                    raise StoreError(message)
        return rows

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
            writable_folder(self.location, is_writable=self.is_writable),
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
        return locked_part(
            writable_folder(self.location, is_writable=self.is_writable), f"{self._name}/{key}", part
        )

    # Graphs

    @property
    def graph_keys(self) -> tuple[str, ...]:
        """Names of the neighbour graphs, sorted."""
        return graph_names(self.index)

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
        meta = read_graph_meta(self.index, described)
        return Graph(connectivities=weights, distances=lengths, meta=meta)

    def write_graph(self, key: str, graph: Graph) -> None:
        """Write a neighbour graph, in place of an older one of that key.

        Raises
        ------
        StoreError
            If the store is open for reading only, the key cannot name a graph, the graph has another number of nodes than
            the section has spots, or another process changes this section for two minutes.
        """
        folder, shape = (
            writable_folder(self.location, is_writable=self.is_writable),
            (self.n_spots, self.n_spots),
        )
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

    def _columns(self, columns: Int[Array, " n_columns"]) -> sparse.csr_matrix:
        """Read some columns of the counts; each chunk is decoded about once."""
        indptr = self._array("X/indptr")
        n_values = self.index.nodes["X/data"]["shape"][0]
        if fault := indptr_fault(indptr, self.meta.n_genes, n_values):  # before it is used as addresses
            message = f"'X' of section {self._name!r} in store {self.store_address!r} is damaged: {fault}. {_MAKE_AGAIN}"
            raise StoreError(message)
        wanted, places = np.unique(columns, return_inverse=True)
        starts, stops = indptr[wanted], indptr[wanted + 1]
        chunk = self.index.nodes["X/data"]["chunk_grid"]["configuration"]["chunk_shape"][0]
        parts = [
            f"X/{part}/c/{i}" for i in _chunks_between(starts, stops, chunk) for part in ("data", "indices")
        ]
        self._prefetch(*parts)
        is_new_run = np.flatnonzero(starts[1:] // chunk > np.maximum(stops[:-1] - 1, 0) // chunk) + 1
        runs = [run for run in np.split(np.arange(len(wanted)), is_new_run) if run.size]
        data: list[Array] = []
        indices: list[Array] = []
        for run in runs:
            first, last = int(starts[run[0]]), int(stops[run[-1]])
            taken = (
                np.concatenate([np.arange(a, b) for a, b in zip(starts[run], stops[run], strict=True)])
                - first
            )
            for values, part in ((data, "data"), (indices, "indices")):
                values.append(self._part(f"X/{part}", slice(first, last))[taken])
        ends = np.concatenate([[0], np.cumsum(stops - starts)])
        flat = [np.concatenate(part) if part else np.empty(0, np.int32) for part in (data, indices)]
        return self._matrix("X", "csc", [*flat, ends], (self.n_spots, len(wanted)))[:, places].tocsr()

    def _prefetch(self, *names: str) -> None:
        files = self.index.below(*names)
        self.location.prefetch({f"{self._name}/{path}": entry for path, entry in files.items()})


def graph_names(index: SectionIndex) -> tuple[str, ...]:
    """List the neighbour graphs of a section, sorted."""
    names = (name for name in index.children("uns") if name.endswith(_NEIGHBORS))
    return tuple(name.removesuffix(_NEIGHBORS) for name in names if index.attribute(f"uns/{name}", META))


def read_graph_meta(index: SectionIndex, described: str) -> GraphMeta:
    """Read how a graph was made; StoreError if its metadata do not fit the format."""
    try:
        return GraphMeta.from_mapping(index.attribute(described, META))
    except TypeError as error:
        message = f"Section {index.meta.name!r}: {described!r} does not fit the format ({error}). Run: spam graph --overwrite"
        raise StoreError(message) from error


def is_stale_graph(index: SectionIndex, key: str) -> bool:
    """Tell whether a graph is over features that were replaced after it was built."""
    meta = read_graph_meta(index, graph_nodes(key)[0])
    node = f"obsm/{meta.features_key}"
    return node in index.nodes and bool(index.attribute(node, IDENTITY) != meta.features_identity)


def spots_digest(ids: Array, xy_px: Array) -> str:
    """Hash the spots that features are computed for: their ids, (n_spots,), and pixel coordinates, (n_spots, 2), in order."""
    digest = hashlib.sha256("\n".join(ids.tolist()).encode())
    digest.update(np.ascontiguousarray(xy_px, dtype="<f8").tobytes())
    return digest.hexdigest()


def choose_features(section: StoredSection, names: Sequence[str]) -> tuple[str, ...]:
    """Return the features that are named by key or by encoder, sorted; all of them if none is named.

    Raises
    ------
    StoreError
        If a name is neither a feature key nor an encoder of the section.
    """
    found = {key: section.feature_meta(key).encoder.get("name") for key in section.feature_keys}
    missing = [name for name in names if name not in found and name not in found.values()]
    if missing:
        offered = ", ".join(f"{key!r} of {encoder!r}" for key, encoder in found.items()) or "none"
        message = f"Section {section.meta.name!r} has no features {', '.join(map(repr, missing))} (found: {offered})."
        raise StoreError(message)
    return tuple(key for key, encoder in found.items() if not names or key in names or encoder in names)


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


def _chunks_between(starts: Array, stops: Array, chunk: int) -> list[int]:
    """List the chunks that hold any of the entries ``starts[i]:stops[i]``."""
    return sorted(
        {
            i
            for a, b in zip(starts, stops, strict=True)
            if b > a
            for i in range(a // chunk, (b - 1) // chunk + 1)
        }
    )
