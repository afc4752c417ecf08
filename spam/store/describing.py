"""What a store contains: `spam store info` and `spam store ls`."""

import dataclasses

from spam.errors import counted
from spam.progress import SILENT, Progress
from spam.schemas.records import Record
from spam.schemas.store_config import InfoConfig

from .feature_store import open_store
from .stored_section import StoredSection, flagged_spots

_DIGITS = 12  # of a digest: enough to tell two apart by eye


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureInfo(Record):
    """Finished features of a section.

    Attributes
    ----------
    key, dim, dtype, n_bytes
        Name, length of a vector, stored number format, size of the files.
    encoder, revision, licence
        As in the encoder card; None if unknown.
    identity, content
        First digits of the digest of what they were made from, and of their bytes.
    tiles
        Number of spots by tile flag; None if no quality was measured.
    """

    key: str
    dim: int
    dtype: str
    encoder: str | None
    revision: str | None
    licence: str | None
    identity: str
    content: str
    n_bytes: int
    tiles: dict[str, int] | None

    def lines(self, n_spots: int) -> list[str]:
        """Describe the features, and count the flagged tiles."""
        encoder = (
            f"{self.encoder or 'encoder unknown'}{f' at {self.revision[:_DIGITS]}' if self.revision else ''}"
        )
        line = (
            f"{self.key}: {self.dim} x {self.dtype}, {_size(self.n_bytes)}, {encoder}, licence "
            f"{self.licence or 'unknown'}, identity {self.identity}, content {self.content}"
        )
        if self.tiles is None:
            return [line]
        counted = ", ".join(f"{n} {flag}" for flag, n in self.tiles.items())
        return [line, f"{self.key}: tiles {counted} of {n_spots}"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionInfo(Record):
    """A section: fields of its `SectionMeta`, its features and graphs, unfinished features, content digest and size."""

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
    unfinished: tuple[str, ...]
    n_files: int
    n_bytes: int

    @property
    def _sizes(self) -> str:
        return f"{counted(self.n_spots, 'spot')}, {counted(self.n_genes, 'gene') if self.has_counts else 'no counts'}"

    def lines(self) -> list[str]:
        """Describe the section, then each thing in it, indented."""
        mpp = "µm/px unknown" if self.mpp is None else f"{self.mpp:g} µm/px"
        head = (
            f"{self.name}: donor {self.donor or 'unknown'}, {self._sizes}, "
            f"{mpp if self.has_coordinates else 'no coordinates'}, licence {self.licence or 'unknown'}, "
            f"content {self.content}"
        )
        if self.redacted:
            head += f", shared without original {', '.join(self.redacted)}"
        more = [line for feature in self.features for line in feature.lines(self.n_spots)]
        more += [f"{key}: unfinished; `spam embed` resumes it" for key in self.unfinished]
        more += [f"graphs: {', '.join(self.graphs)}"] if self.graphs else []
        return [head, *(f"    {line}" for line in more)]

    def line(self) -> str:
        """Describe the section in one line."""
        keys = [
            *(feature.key for feature in self.features),
            *(f"{key} (unfinished)" for key in self.unfinished),
        ]
        return f"{self.name}: {self._sizes}, {', '.join(keys) or 'no features'}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InfoReport(Record):
    """Address, size and sections (sorted by name) of a store."""

    store: str
    n_files: int
    n_bytes: int
    sections: tuple[SectionInfo, ...]

    def summary(self) -> str:
        """Describe each section in a paragraph."""
        return "\n".join([self._head, *(line for section in self.sections for line in section.lines())])

    def names_only(self) -> str:
        """Describe each section in a line."""
        return "\n".join([self._head, *(section.line() for section in self.sections)])

    @property
    def _head(self) -> str:
        return f"{self.store}: {counted(len(self.sections), 'section')}, {counted(self.n_files, 'file')}, {_size(self.n_bytes)}"


def describe(config: InfoConfig, *, progress: Progress = SILENT) -> InfoReport:
    """Describe a store; of a remote store only the indexes and the quality of tiles are fetched.

    Raises
    ------
    StoreError
        If there is no store, or the metadata of root or section are damaged.
    """
    assert config.store is not None  # checked by InfoConfig
    store = open_store(config.store)
    sections = []
    with progress.task("reading indexes", len(store.section_names)) as advance:
        for name in store.section_names:
            sections.append(_section(store.section(name)))
            advance(note=name)
    return InfoReport(
        store=store.address,
        n_files=1 + sum(section.n_files for section in sections),
        n_bytes=sum(section.n_bytes for section in sections),
        sections=tuple(sections),
    )


def _section(section: StoredSection) -> SectionInfo:
    index, meta = section.index, dataclasses.asdict(section.meta)
    names = {field.name for field in dataclasses.fields(SectionInfo)}
    return SectionInfo(
        **{name: value for name, value in meta.items() if name in names},
        content=index.digest[:_DIGITS],
        features=tuple(_feature(section, key) for key in section.feature_keys),
        graphs=section.graph_keys,
        unfinished=section.unfinished_keys,
        n_files=1 + len(index.files),
        n_bytes=len(index.data) + sum(entry.n_bytes for entry in index.files.values()),
    )


def _feature(section: StoredSection, key: str) -> FeatureInfo:
    meta, node = section.feature_meta(key), f"obsm/{key}"
    flags = flagged_spots(section, [key])
    return FeatureInfo(
        key=key,
        dim=meta.dim,
        dtype=meta.dtype,
        encoder=meta.encoder.get("name"),
        revision=meta.encoder.get("revision"),
        licence=meta.encoder.get("licence"),
        identity=section.feature_identity(key)[:_DIGITS],
        content=section.content_digest(node)[:_DIGITS],
        n_bytes=sum(entry.n_bytes for entry in section.index.below(node).values()),
        tiles={flag: int(is_flagged.sum()) for flag, is_flagged in flags.items()} or None,
    )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"
