"""Attributes of a store's root and of its sections: the shapes that hold the metadata of ``store_meta.py``."""

import dataclasses
from typing import Literal

from .store_index import FileEntry
from .store_meta import MAY_BE_ABSENT, SectionMeta

__all__ = ["Override", "RootAttributes", "RootIndex", "SectionAttribute", "Sharing"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One thing that spoke against sharing a store, and was overridden by who had the right to share it.

    Attributes
    ----------
    what
        What it is about: ``section 'C2'`` or ``features 'uni_v1_112um'``.
    licence
        Name of the licence, or None where nobody stated one.
    clause
        What forbids sharing, with its number in the licence; None where the licence is unstated or unknown.
    message
        The reason in words.
    """

    what: str
    licence: str | None
    clause: str | None
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What there is to say of how a store was shared.

    Attributes
    ----------
    overridden
        What spoke against it.
    """

    overridden: tuple[Override, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RootIndex:
    """Attribute ``spam`` of a store's root.

    Attributes
    ----------
    sections
        Names of the sections, for readers that cannot list folders.
    digest
        SHA-256 of the root's ``zarr.json``, taken with 64 zeros in the place of the digest.
    shared
        In a copy that was shared though something spoke against it: what was overridden.
    """

    sections: tuple[str, ...]
    digest: str
    shared: Sharing | None = dataclasses.field(default=None, metadata={MAY_BE_ABSENT: True})


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
