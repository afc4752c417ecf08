"""Names of everything inside a store: the table of ``docs/format.md`` as constants, for writer and reader.

Every section is an AnnData group, so the names below it are those of the scverse; spam's own metadata live in
the attribute `SPAM` of the node that they describe, because a group that AnnData does not know keeps its
tools from opening the section.
"""

import unicodedata
from collections.abc import Iterable

__all__ = [
    "DIGEST",
    "DONOR",
    "FILES",
    "FORMAT",
    "HIRES_PATH",
    "IDENTITY",
    "INDEX",
    "META",
    "RESERVED_COLUMNS",
    "SCALES_PATH",
    "SECTION",
    "SECTIONS",
    "SPAM",
    "SPATIAL",
    "SPATIAL_UM",
    "STAGING",
    "VERSION",
    "connectivities_key",
    "distances_key",
    "duplicates",
    "feature_graph_key",
    "name_fault",
    "neighbors_key",
]

FORMAT = "spam_format"
"""Attribute of the root that says what kind of store this is."""
VERSION = "spam_version"
"""Attribute of the root that says which version of the format it has."""

SPAM = "spam"
"""Attribute that holds spam's own metadata on a section, a feature array or a graph."""
META = "meta"
"""Entry of `SPAM`: the metadata dataclass as a mapping."""
SECTIONS = "sections"
"""Entry of `SPAM` on the root: the names of the sections, for readers that cannot list folders."""
FILES = "files"
"""Entry of `SPAM` on a section: size and SHA-256 of each of its files, by path within the section."""
DIGEST = "digest"
"""Entry of `SPAM` on the root and on a section: the seal of that ``zarr.json``."""
IDENTITY = "identity"
"""Entry of `SPAM` on a feature array: `spam.schemas.store_meta.feature_identity`."""

INDEX = "zarr.json"
"""File that makes a folder a group or an array of Zarr v3; that of a section is its index."""
STAGING = ".unfinished"
"""Folder beside the sections in which things are written before they are renamed into place."""

SPATIAL = "spatial"
"""``obsm`` key of the coordinates in full-resolution pixels, and ``uns`` key of the overview image."""
SPATIAL_UM = "spatial_um"
"""``obsm`` key of the coordinates in µm."""

SECTION = "section"
"""``obs`` column with the name of the section."""
DONOR = "donor"
"""``obs`` column with the donor."""
RESERVED_COLUMNS = ("_index",)
"""Names that an ``obs`` column cannot have, because AnnData's data frames use them."""

HIRES_PATH = "images/hires"
"""Overview image below ``uns/spatial/<section>``, where scanpy and squidpy look for it."""
SCALES_PATH = "scalefactors/tissue_hires_scalef"
"""Overview pixels per full-resolution pixel, below ``uns/spatial/<section>``."""


def connectivities_key(graph: str) -> str:
    """Name a graph's weights in ``obsp``, as squidpy does: ``spatial`` -> ``spatial_connectivities``."""
    return f"{graph}_connectivities"


def distances_key(graph: str) -> str:
    """Name a graph's distances in ``obsp``, as squidpy does: ``spatial`` -> ``spatial_distances``."""
    return f"{graph}_distances"


def neighbors_key(graph: str) -> str:
    """Name a graph's description in ``uns``, as squidpy does: ``spatial`` -> ``spatial_neighbors``."""
    return f"{graph}_neighbors"


def feature_graph_key(features_key: str) -> str:
    """Name the graph of some features within a section."""
    return f"features_{features_key}"


def name_fault(name: str, what: str, *, reserved: Iterable[str] = ()) -> str | None:
    """Say what is wrong with `name` as the name of a group or array, or None."""
    if not name:
        return f"{what} is empty; give it a name"
    if name in reserved:
        return f"{what} {name!r} is a name that the store uses itself; choose another"
    is_taken = name.startswith((".", "__")) or name.endswith(".lock")  # files beside the sections
    if is_taken or any(c in "/\\" or _is_unseen(c) for c in name):
        return (
            f"{what} {name!r} cannot name a folder: it must not hold '/', '\\' or control or format characters, "
            "nor start with '.' or '__' or end with '.lock'; rename it"
        )
    return None


def _is_unseen(character: str) -> bool:
    """Tell whether a character is a control, format or surrogate one, which makes of a name another on a screen."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs")


def duplicates(values: Iterable[str]) -> list[str]:
    """List the values that occur more than once, each once, in order of their second occurrence."""
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for value in values:
        if value in seen:
            twice[value] = None
        seen.add(value)
    return list(twice)
