"""Attributes of a store's root and of its sections: the shapes that hold the metadata of ``store_meta.py``."""

import dataclasses
from typing import Literal

from .store_index import FileEntry
from .store_meta import SectionMeta

__all__ = ["RootAttributes", "RootIndex", "SectionAttribute"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RootIndex:
    """Attribute ``spam`` of a store's root.

    Attributes
    ----------
    sections
        Names of the sections, for readers that cannot list folders.
    digest
        SHA-256 of the root's ``zarr.json``, taken with 64 zeros in the place of the digest.
    """

    sections: tuple[str, ...]
    digest: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RootAttributes:
    """All attributes of a store's root.

    Attributes
    ----------
    spam_format
        What kind of store this is.
    spam_version
        Version of the format.
    spam
        Index of the sections.
    """

    spam_format: Literal["spam-store"]
    spam_version: Literal[1]
    spam: RootIndex


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionAttribute:
    """Attribute ``spam`` of a section: its index, beside the ``consolidated_metadata`` of the same file.

    Attributes
    ----------
    meta
        Metadata of the section.
    files
        Size and digest of every file of the section but the index itself, by its path.
    digest
        SHA-256 of the section's ``zarr.json``, taken with 64 zeros in the place of the digest.
    """

    meta: SectionMeta
    files: dict[str, FileEntry]
    digest: str
