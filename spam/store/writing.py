"""Writing to a store in a folder: locks, sections, groups of elements."""

import contextlib
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem
from filelock import FileLock, Timeout
from scipy import sparse
from scipy.spatial import KDTree
from zarr.codecs import Crc32cCodec, ZstdCodec

from spam.errors import StoreError
from spam.schemas.store_format import STORE_FORMAT, STORE_VERSION, SectionMeta
from spam.typing import Array

from .layout import (
    BLANK,
    DONOR,
    FORMAT,
    INDEX,
    LIBRARY,
    LOCKS,
    META,
    SECTION,
    SECTIONS,
    SPAM,
    SPATIAL,
    SPATIAL_UM,
    STAGING,
    TABLES,
    TABLES_INDEX,
    VERSION,
    inside,
)
from .places import FolderLocation
from .section_index import sealed, update_index, write_whole

LOCK_WAIT_S = 120.0
"""Seconds to wait for another process that changes the same section, which takes that long for gigabytes."""
_PROBE_S = 1.0
"""Seconds to wait for a lock that another process may hold only to find out whether it is free."""

_CHUNK_ROWS = 1 << 20
"""Rows in a chunk of a table: 4 MB of int32."""
_CHUNK_ENTRIES = 1 << 18
"""Entries in a chunk of a sparse matrix: 1 MB of int32, so that the counts of a few genes are a few chunks."""
_MOST_CHUNKS = 64
"""Chunk files of one part of a sparse matrix, whose chunks are longer if there are more entries."""
_DIAMETER_PER_PITCH = 0.8  # of spots whose diameter is unknown: drawn almost touching
_CANVAS_PX = 256  # longer side of the white image where there is no overview


@contextlib.contextmanager
def locked(store: Path, name: str, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold a lock of the store within the ``with`` block: of a section (its name) or of a part (``C2/uni2_112um``).

    The operating system frees it when its process ends.

    Raises
    ------
    StoreError
        If another process still holds it after `wait_s` seconds.
    """
    path = _lock_file(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(FileLock(path, timeout=wait_s))
        except Timeout as error:
            message = f"{name!r} in store {str(store)!r} is being written by another process. Wait for it, then run again."
            raise StoreError(message) from error
        yield


@contextlib.contextmanager
def locked_part(store: Path, name: str, part: str) -> Iterator[None]:
    """Hold the lock of features (``C2/uni2_112um``), or of a `part` of their chunks such as ``@2of8``.

    Different parts may be held at once; all of the features excludes every part.

    Raises
    ------
    StoreError
        If another process holds the same part, all of the features, or a part of features that are wanted whole.
    """
    section, _, key = name.partition("/")
    with locked(store, f"{name}{part}", wait_s=_PROBE_S):
        _refuse_writers(store, section, lambda other: other == key if part else other.startswith(f"{key}@"))
        yield


@contextlib.contextmanager
def locked_section(store: Path, name: str) -> Iterator[None]:
    """Hold the lock of a section of which no features are being written.

    Raises
    ------
    StoreError
        If another process writes any of its features, or changes it for two minutes.
    """
    with locked(store, name):
        _refuse_writers(store, name, lambda _: True)
        yield


def _refuse_writers(store: Path, section: str, is_meant: Callable[[str], bool]) -> None:
    """Raise StoreError if some features (or parts of them, ``uni2_112um@2of8``) of a section are being written."""
    for path in sorted((store / LOCKS / section).glob("[!.]*.lock")):
        other = path.name.removesuffix(".lock")
        if is_meant(other):
            try:
                with FileLock(path, timeout=_PROBE_S):
                    pass
            except Timeout as error:
                message = f"'{section}/{other}' in store {str(store)!r} is being written by another process. Wait for it."
                raise StoreError(message) from error


def _lock_file(store: Path, name: str) -> Path:
    return inside(
        store, f"{LOCKS}/{name if '/' in name or name.startswith('.') else f'{name}/.section'}.lock"
    )


def write_section(
    store: Path,
    meta: SectionMeta,
    *,
    ids: Array,
    xy_px: Array | None = None,
    xy_um: Array | None = None,
    counts: Any = None,
    genes: Array | None = None,
    obs: Mapping[str, Array] | None = None,
    overview: tuple[Array, float] | None = None,
    spot_diameter_px: float | None = None,
) -> None:
    """Write a section without features, in place of an older one with its features; the caller holds its lock.

    More than seven parameters, because a record of them would be one more record of a section.

    Parameters
    ----------
    store, meta
        Folder of the store; name, sizes and provenance of the section.
    ids, obs
        Names of the spots and further columns, one value per spot: numbers, booleans or strings.
    xy_px, xy_um
        Spot centres in full-resolution pixels and in µm, (n_spots, 2).
    counts, genes
        Raw counts, n_spots x n_genes, and the names of the genes.
    overview
        Small image of the slide and its scale (overview pixels per slide pixel).
    spot_diameter_px
        Diameter of a spot in full-resolution pixels; by default 0.8 of the median distance of a spot to the nearest one.
    """
    columns = {**(obs or {}), SECTION: np.full(meta.n_spots, meta.name), LIBRARY: library_column(meta)}
    if meta.donor is not None:
        columns[DONOR] = np.full(meta.n_spots, meta.donor)
    with _staged(store, meta.name) as folder:
        attributes = {
            "encoding-type": "anndata",
            "encoding-version": "0.1.0",
            SPAM: {META: meta.to_mapping()},
        }
        section = zarr.create_group(folder, zarr_format=3, attributes=attributes)
        _write_frame(section, "obs", ids, columns)
        _write_frame(section, "var", np.empty(0, dtype=str) if genes is None else genes, {})
        if counts is not None:
            _write(section, "X", counts.astype(np.int32).tocsc())
        for group in ("obsm", "obsp", "uns"):
            write_elem(section, group, {})
        for name, xy in ((SPATIAL, xy_px), (SPATIAL_UM, xy_um)):
            if xy is not None:
                _write(section, f"obsm/{name}", xy)
        if xy_px is not None and len(xy_px):  # where scanpy and squidpy look for it
            image, scale = overview or _white_canvas(meta, xy_px)
            factors = {
                "tissue_hires_scalef": scale,
                "spot_diameter_fullres": spot_diameter_px or usual_spot_diameter(xy_px),
            }
            library = {"images": {"hires": image}, "scalefactors": factors}
            _write(section, f"uns/{SPATIAL}", {meta.name: library})
            if overview is None:
                section[f"uns/{SPATIAL}/{meta.name}/images/hires"].attrs[SPAM] = {BLANK: True}
        update_index(folder, add=[path.name for path in folder.iterdir() if path.is_dir()])
        _replace(store, meta.name, folder)


def library_column(meta: SectionMeta) -> pd.Categorical:
    """Return `LIBRARY` for every spot; squidpy needs categories, and older readers need those to be plain strings."""
    return pd.Categorical.from_codes(np.zeros(meta.n_spots, np.int8), pd.Index([meta.name], dtype=object))


def usual_spot_diameter(xy_px: Array) -> float:
    """Return 0.8 of the median distance of a spot to the nearest one, in pixels; 100 for a single spot."""
    distance, _ = KDTree(xy_px).query(xy_px, k=[2])  # infinite for a single spot
    diameter_px = _DIAMETER_PER_PITCH * float(np.median(distance))
    return diameter_px if 0 < diameter_px < np.inf else 100.0


def _white_canvas(meta: SectionMeta, xy_px: Array) -> tuple[Array, float]:
    """Return a white image of the slide (if its size is unknown, of the part with spots) and its scale."""
    width, height = xy_px.max(axis=0) + usual_spot_diameter(xy_px)
    width, height = meta.slide_width_px or width, meta.slide_height_px or height
    scale = _CANVAS_PX / max(width, height, _CANVAS_PX)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)), 3)
    return np.full(shape, 255, np.uint8), float(scale)


def write_elements(
    store: Path, section: str, elements: Mapping[str, Any], *, attributes: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write AnnData elements of a section, in place of older ones; the caller holds its lock.

    Parameters
    ----------
    store, section
        Folder of the store and name of the section.
    elements
        Arrays, sparse matrices or nested mappings, by path within the section (``obsp/spatial_distances``).
    attributes
        Attributes of some of these nodes.
    """
    with _staged(store, section) as folder:
        group = zarr.create_group(folder, zarr_format=3)
        for name, value in elements.items():
            _write(group, name, value)
            group[name].attrs.update(attributes.get(name, {}))
        update_index(store / section, drop=elements)
        for name in elements:
            _replace(store, f"{section}/{name}", folder / name)
        update_index(store / section, add=elements)


def remove_nodes(store: Path, section: str, *nodes: str) -> None:
    """Remove groups or arrays from a section, first from its index; the caller holds its lock."""
    update_index(store / section, drop=nodes)
    for node in nodes:
        discard(store, f"{section}/{node}")


def write_root(folder: Path) -> None:
    """Write the root of a store with the names of the sections in the folder."""
    location = FolderLocation(folder)
    with locked(folder, ".root"):
        new = root_index(location.section_names(()))
        if new != location.read_index(""):
            write_whole(folder / INDEX, new)
        if not (folder / TABLES / INDEX).exists():
            (folder / TABLES).mkdir(exist_ok=True)
            write_whole(folder / TABLES / INDEX, TABLES_INDEX)


def root_index(names: Collection[str]) -> bytes:
    """Return the ``zarr.json`` of the root of a store with these sections."""
    attributes = {FORMAT: STORE_FORMAT, VERSION: STORE_VERSION, SPAM: {SECTIONS: sorted(names)}}
    return sealed({"zarr_format": 3, "node_type": "group", "attributes": attributes})


@contextlib.contextmanager
def _staged(store: Path, section: str) -> Iterator[Path]:
    """Give a new folder beside the sections, which is removed after the ``with`` block; the caller holds the lock."""
    # A new name each time: after an error, threads of zarr may still be writing under the old one (zarr 3.1).
    folder = store / f"{STAGING}{section}@{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(store: Path) -> None:
    """Remove the folders of `_staged` that killed writers left."""
    for folder in store.glob(f"{STAGING}*@*"):
        section = folder.name.removeprefix(STAGING).rpartition("@")[0]
        with contextlib.suppress(StoreError), locked(store, section, wait_s=0.0):  # else its writer is alive
            shutil.rmtree(inside(store, folder.name), ignore_errors=True)


def _replace(store: Path, name: str, folder: Path) -> None:
    discard(store, name)
    (store / name).parent.mkdir(parents=True, exist_ok=True)
    folder.rename(store / name)


def discard(store: Path, name: str) -> None:
    """Delete a folder; its ``zarr.json`` first, so that readers never meet half of a section."""
    folder = inside(store, name)
    (folder / INDEX).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _write_frame(section: zarr.Group, name: str, index: Array, columns: Mapping[str, Array]) -> None:
    attributes = {"_index": "_index", "column-order": list(columns)}
    encoding = {"encoding-type": "dataframe", "encoding-version": "0.2.0"}
    frame = section.create_group(name, attributes={**attributes, **encoding})
    for column, values in {"_index": index, **columns}.items():
        _write(frame, column, values)


def _write(group: zarr.Group, name: str, value: Any) -> None:
    """Write one element with checksums and compression, in chunks that make few files."""
    parent, _, name = name.rpartition("/")  # anndata 0.13 takes no path
    group = group.require_group(parent) if parent else group
    kwargs: dict[str, Any] = {"shards": None, "compressors": (ZstdCodec(), Crc32cCodec())}
    if isinstance(value, pd.Categorical):
        kwargs["chunks"] = (max(1, min(len(value), _CHUNK_ROWS)),)
    elif sparse.issparse(value):
        kwargs["chunks"] = (max(_CHUNK_ENTRIES, -(-value.nnz // _MOST_CHUNKS)),)
    elif isinstance(value, np.ndarray):
        kwargs["chunks"] = tuple(max(1, min(size, _CHUNK_ROWS)) for size in value.shape)
    elif isinstance(value, Mapping):
        write_elem(group, name, {})
        for key, item in value.items():
            _write(group[name], key, item)  # type: ignore[arg-type]
        return
    else:
        kwargs = {}
    write_elem(group, name, value, dataset_kwargs=kwargs)
