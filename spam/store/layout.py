"""Names of everything inside a store (the table of ``docs/format.md`` as constants), and how rows are cut into chunks."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from spam.errors import StoreError
from spam.schemas.store_format import FeatureDtype

FORMAT = "spam_format"
"""Attribute of the root: what kind of store this is."""
VERSION = "spam_version"
"""Attribute of the root: version of the format."""

SPAM = "spam"
"""Attribute with spam's own metadata on a section, a feature array or a graph.

Attributes instead of groups, because AnnData does not open a section that holds an unknown group.
"""
META = "meta"
"""Entry of `SPAM`: the metadata dataclass as a mapping."""
SECTIONS = "sections"
"""Entry of `SPAM` on the root: names of the sections, for readers that cannot list folders."""
FILES = "files"
"""Entry of `SPAM` on a section: size and SHA-256 of each of its files, by path within the section."""
DIGEST = "digest"
"""Entry of `SPAM` on the root and on a section: SHA-256 of that ``zarr.json``."""
IDENTITY = "identity"
"""Entry of `SPAM` on a feature array: `spam.schemas.store_format.feature_identity`."""
RUN = "run"
"""Entry of `SPAM` on an unfinished feature array: settings of the run, which a resumed run must share."""

INDEX = "zarr.json"
"""File that makes a folder a group or an array of Zarr v3; that of a section is its index."""
STAGING = ".unfinished-"
"""Begins the name of a folder beside the sections in which a section or a graph is written before it is renamed."""
LOCKS = ".locks"
"""Folder beside the sections with the lock files of writers."""

SPATIAL = "spatial"
"""``obsm`` key of the coordinates in full-resolution pixels, and ``uns`` key of the overview image and the spot diameter."""
SPATIAL_UM = "spatial_um"
"""``obsm`` key of the coordinates in µm."""
SECTION = "section"
"""``obs`` column with the name of the section."""
DONOR = "donor"
"""``obs`` column with the donor."""
LIBRARY = "library_id"
"""``obs`` column with the key of the section in ``uns["spatial"]``, for scanpy and squidpy: the name of the section again."""
BLANK = "is_blank"
"""Entry of `SPAM` on an overview that is only a white canvas, which scanpy and squidpy cannot plot without."""

NEIGHBORS = "_neighbors"
"""Ends the name of a graph in ``uns``, as squidpy names it."""

TABLES = "tables"
"""Folder beside the sections where readers of SpatialData look, which would find an empty object in a store."""
_MESSAGE = (
    "this is a store of spam - open a section with anndata.read_zarr or run spam export --to spatialdata"
)
_GROUP: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
_NAMED = {"kind": "inline", "must_understand": False, "metadata": {_MESSAGE: _GROUP}}
TABLES_INDEX = json.dumps({**_GROUP, "consolidated_metadata": _NAMED}).encode()
"""The ``zarr.json`` in that folder. It names a table that does not exist, so that their error is this message."""

_CHUNK_BYTES = 1 << 21
_MOST_CHUNKS = 128
"""Chunk files of one array at most, so that a section of a million tiles is fewer than 1,000 files."""


def default_chunk_rows(dim: int, dtype: FeatureDtype) -> int:
    """Return the power of two of rows that comes nearest to 2 MB."""
    return 1 << round(math.log2(_CHUNK_BYTES / (dim * np.dtype(dtype).itemsize)))


def chunk_slices(n_spots: int, chunk_rows: int) -> list[slice]:
    """Cut `n_spots` rows into chunks of equal length; the last may be shorter.

    There are as few chunks of at most `chunk_rows` rows as possible, and never more than 128: beyond
    ``128 * chunk_rows`` spots the chunks are longer.
    """
    n_chunks = min(math.ceil(n_spots / chunk_rows), _MOST_CHUNKS)
    rows = math.ceil(n_spots / n_chunks)
    return [slice(start, min(start + rows, n_spots)) for start in range(0, n_spots, rows)]


def feature_graph_key(features_key: str) -> str:
    """Name the neighbour graph of some features within a section."""
    return f"features_{features_key}"


def graph_nodes(key: str) -> tuple[str, str, str]:
    """Name the nodes of a neighbour graph within its section, as squidpy does: description, weights, distances."""
    return f"uns/{key}{NEIGHBORS}", f"obsp/{key}_connectivities", f"obsp/{key}_distances"


def inside(root: Path, name: str) -> Path:
    """Return the path of `name` inside the folder `root`.

    Raises
    ------
    StoreError
        If a link leads elsewhere: a store of unknown origin must not make spam read or write outside it.
    """
    path = root / name
    if path.resolve() != root.resolve() / name:
        message = f"{path.relative_to(root).as_posix()!r} in store {str(root)!r} leads outside. Remove the link: rm {path}"
        raise StoreError(message)
    return path
