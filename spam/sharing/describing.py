"""The library twin of `spam store info` and `spam store ls`: what a store holds."""

import dataclasses
from typing import Any

from spam.errors import StoreError
from spam.progress import SILENT, Progress
from spam.schemas.store_config import InfoConfig
from spam.schemas.store_format import FeatureDtype
from spam.store import Store, StoredSection, flagged_spots, open_store
from spam.store.feature_format import cut
from spam.store.location import FolderLocation
from spam.store.lock import live_locks
from spam.store.staged_chunks import StagedChunks

from .listing import staged_folders
from .validate_metadata import metadata_faults

__all__ = ["FeatureInfo", "InfoReport", "SectionInfo", "UnfinishedInfo", "describe"]

_SHORT = 12
"""Digits of a digest that are shown: two digests that differ are told apart, and a line stays a line."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureInfo:
    """Finished features of a section.

    Attributes
    ----------
    key, dim, dtype
        Name, length of a vector, stored number format.
    encoder, revision, licence
        Encoder that made them, as its card says; None where it does not.
    identity
        First digits of the digest of what they were made from and how.
    content
        First digits of the digest of their bytes.
    n_bytes
        Size of their files.
    tiles
        Spots by the flags of the tiles (`spam.schemas.tile_spec.tile_flags`); None where no quality was measured.
    """

    key: str
    dim: int
    dtype: FeatureDtype
    encoder: str | None
    revision: str | None
    licence: str | None
    identity: str
    content: str
    n_bytes: int
    tiles: dict[str, int] | None

    def __str__(self) -> str:
        made_by = " ".join(filter(None, (self.encoder, self.revision and f"at {self.revision[:_SHORT]}")))
        return (
            f"{self.key}: {self.dim} x {self.dtype}, {_size(self.n_bytes)}, {made_by or 'encoder unknown'}, "
            f"licence {self.licence or 'unknown'}, identity {self.identity}, content {self.content}"
        )

    def tile_line(self, n_spots: int) -> str | None:
        """Say how many tiles have which flag; None where no quality was measured."""
        if self.tiles is None:
            return None
        counted = ", ".join(f"{n} {flag}" for flag, n in self.tiles.items())
        return f"{self.key}: tiles {counted} of {n_spots}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedInfo:
    """Features that a writer began and did not finish; `n_chunks` is None where what it left cannot be read."""

    key: str
    n_done: int
    n_chunks: int | None

    def __str__(self) -> str:
        of = "" if self.n_chunks is None else f" of {self.n_chunks}"
        return f"{self.key}: unfinished, {self.n_done}{of} chunks are done"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionInfo:
    """A section: what `SectionMeta` says of it, and what it holds.

    Attributes
    ----------
    name, donor, n_spots, n_genes, has_counts, has_coordinates, mpp, licence, redacted
        As in `SectionMeta`.
    content
        First digits of the digest of all its bytes.
    features, graphs, unfinished
        Finished features, names of the neighbour graphs, features that were begun.
    writing
        What other processes are writing of it in this moment.
    n_files, n_bytes
        Its size.
    """

    name: str
    donor: str | None
    n_spots: int
    n_genes: int
    has_counts: bool
    has_coordinates: bool
    mpp: float | None
    licence: str | None
    redacted: tuple[str, ...]
    content: str
    features: tuple[FeatureInfo, ...]
    graphs: tuple[str, ...]
    unfinished: tuple[UnfinishedInfo, ...]
    writing: tuple[str, ...]
    n_files: int
    n_bytes: int

    def lines(self) -> list[str]:
        """Write a paragraph: the section, then each thing that it holds, indented."""
        genes = f"{self.n_genes} genes" if self.has_counts else "no counts"
        mpp = "µm/px unknown" if self.mpp is None else f"{self.mpp:g} µm/px"
        parts = [
            f"{self.name}: donor {self.donor or 'unknown'}",
            f"{self.n_spots} spots",
            genes,
            mpp if self.has_coordinates else "no coordinates",
            f"licence {self.licence or 'unknown'}",
            f"content {self.content}",
        ]
        if self.redacted:
            parts.append(f"shared without original {', '.join(self.redacted)}")
        tiles = [line for feature in self.features if (line := feature.tile_line(self.n_spots))]
        more = [*map(str, self.features), *tiles, *map(str, self.unfinished)]
        if self.graphs:
            more.append(f"graphs: {', '.join(self.graphs)}")
        more += [f"{name}: being written by another process" for name in self.writing]
        return [", ".join(parts), *(f"    {line}" for line in more)]

    def line(self) -> str:
        """Write one line: what somebody who looks for a section wants to see."""
        keys = [feature.key for feature in self.features]
        keys += [f"{begun.key} (unfinished)" for begun in self.unfinished]
        genes = f"{self.n_genes} genes" if self.has_counts else "no counts"
        return f"{self.name}: {self.n_spots} spots, {genes}, {', '.join(keys) or 'no features'}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InfoReport:
    """What a store holds.

    Attributes
    ----------
    store
        Its address.
    n_files, n_bytes
        Its size, without what is unfinished.
    sections
        Its sections, sorted by name.
    """

    store: str
    n_files: int
    n_bytes: int
    sections: tuple[SectionInfo, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """Write one paragraph per section."""
        lines = [line for section in self.sections for line in section.lines()]
        return "\n".join([self._head(), *lines])

    def names_only(self) -> str:
        """Write one line per section."""
        return "\n".join([self._head(), *(section.line() for section in self.sections)])

    def _head(self) -> str:
        size = f"{self.n_files} files, {_size(self.n_bytes)}"
        return f"{self.store}: {len(self.sections)} sections, {size}"


def describe(config: InfoConfig, *, progress: Progress = SILENT) -> InfoReport:
    """Tell what a store holds; of a remote store only the indexes are fetched, and the quality of tiles.

    Parameters
    ----------
    config
        Which store.
    progress
        Who watches; steps are sections.

    Raises
    ------
    StoreError
        If there is no store, or metadata of the root or of a section are damaged, or not as the format says.
    """
    assert config.store is not None  # held by __post_init__
    store = open_store(config.store)
    names = store.section_names
    sections = []
    with progress.task("reading indexes", len(names)) as advance:
        for name in names:
            sections.append(_section(store, store.section(name)))
            advance(note=name)
    return InfoReport(
        store=store.address,
        n_files=1 + sum(section.n_files for section in sections),
        n_bytes=len(store.location.read_index("") or b"") + sum(section.n_bytes for section in sections),
        sections=tuple(sections),
    )


def _section(store: Store, section: StoredSection) -> SectionInfo:
    meta, index, location = section.meta, section.index, store.location
    _refuse(metadata_faults(meta.to_mapping(), "section"), f"section {meta.name!r}")
    writing = live_locks(location.path, meta.name) if isinstance(location, FolderLocation) else []
    return SectionInfo(
        name=meta.name,
        donor=meta.donor,
        n_spots=meta.n_spots,
        n_genes=meta.n_genes,
        has_counts=meta.has_counts,
        has_coordinates=meta.has_coordinates,
        mpp=meta.mpp,
        licence=meta.licence,
        redacted=meta.redacted,
        content=index.digest[:_SHORT],
        features=tuple(_feature(section, key) for key in section.feature_keys),
        graphs=section.graph_keys,
        unfinished=tuple(
            _unfinished(StagedChunks(folder), folder.name, meta.n_spots)
            for folder in staged_folders(location, meta.name)
        ),
        writing=tuple(writing),
        n_files=1 + len(index.files),
        n_bytes=len(index.data) + sum(entry.n_bytes for entry in index.files.values()),
    )


def _feature(section: StoredSection, key: str) -> FeatureInfo:
    meta, node = section.feature_meta(key), f"obsm/{key}"
    _refuse(
        metadata_faults(meta.to_mapping(), "feature"), f"features {key!r} of section {section.meta.name!r}"
    )
    card = meta.encoder
    flags = flagged_spots(section, [key])
    return FeatureInfo(
        key=key,
        dim=meta.dim,
        dtype=meta.dtype,
        encoder=_text(card.get("name")),
        revision=_text(card.get("revision")),
        licence=_text(card.get("licence")),
        identity=section.feature_identity(key)[:_SHORT],
        content=section.content_digest(node)[:_SHORT],
        n_bytes=sum(entry.n_bytes for entry in section.index.below(node).values()),
        tiles={flag: int(is_flagged.sum()) for flag, is_flagged in flags.items()} or None,
    )


def _unfinished(chunks: StagedChunks, key: str, n_spots: int) -> UnfinishedInfo:
    n_done = len(chunks.done())
    try:
        meta = chunks.described().meta
    except StoreError:  # `spam embed` says so when it is to go on with them
        return UnfinishedInfo(key=key, n_done=n_done, n_chunks=None)
    n_chunks = len(cut(n_spots, meta.dim, meta.dtype, chunk_rows=meta.chunk_rows).chunks)
    return UnfinishedInfo(key=key, n_done=n_done, n_chunks=n_chunks)


def _refuse(faults: list[str], what: str) -> None:
    if faults:
        message = (
            f"the metadata of {what} are not as the format says: {'; '.join(faults[:3])}; look at all of the store with "
            "`spam store validate`"
        )
        raise StoreError(message)


def _text(entry: object) -> str | None:
    """Take an entry of an encoder card, in which the format allows anything, if it is a text."""
    return entry if isinstance(entry, str) else None


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"
