"""The library twin of `spam store diff`: in what two stores differ."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from spam.progress import SILENT, Progress
from spam.schemas.store_config import DiffConfig
from spam.schemas.store_index import FileEntry
from spam.store import StoredSection, open_store
from spam.store.graph_elements import graph_nodes
from spam.store.index import SectionIndex
from spam.store.layout import SPATIAL, SPATIAL_UM

__all__ = ["DiffReport", "ElementDiff", "MetaDiff", "SectionDiff", "SpotsDiff", "diff"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MetaDiff:
    """An entry of a section's metadata that the two stores do not agree on."""

    entry: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.entry}: {_short(self.a)} in A, {_short(self.b)} in B"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpotsDiff:
    """Spots of a section by their ids: how many only one store has, and how many stand in another row."""

    n_only_a: int
    n_only_b: int
    n_moved: int

    def __str__(self) -> str:
        return f"spots: {self.n_only_a} only in A, {self.n_only_b} only in B, {self.n_moved} in another row"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ElementDiff:
    """A part of a section that is not the same in both stores.

    Attributes
    ----------
    name
        ``features <key>``, ``graph <key>``, or a table: ``obs``, ``var``, ``counts``, ``coordinates``, ``overview``;
        ``other`` for whatever is none of these, such as the metadata of a group.
    change
        ``only in A``, ``only in B``, ``other identity`` (features made from something else, or in another way) or
        ``other content`` (the same but for the bytes).
    largest_difference
        Of features of the same identity and shape: the largest absolute difference of two values; else None.
    """

    name: str
    change: str
    largest_difference: float | None = None

    def __str__(self) -> str:
        largest = self.largest_difference
        return f"{self.name}: {self.change}" + (
            "" if largest is None else f", values differ by up to {largest:.3g}"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionDiff:
    """In what a section differs between two stores; `spots` is None where ids and their order are the same."""

    name: str
    meta: tuple[MetaDiff, ...]
    spots: SpotsDiff | None
    elements: tuple[ElementDiff, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiffReport:
    """What `diff` found.

    Attributes
    ----------
    a, b
        Addresses of the stores.
    only_in_a, only_in_b
        Sections that one store has and the other has not.
    sections
        Sections of both that differ.
    n_equal
        Number of sections of which every byte is the same.
    """

    a: str
    b: str
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    sections: tuple[SectionDiff, ...]
    n_equal: int

    @property
    def is_equal(self) -> bool:
        """Whether both stores have the same sections, and these the same bytes."""
        return not (self.only_in_a or self.only_in_b or self.sections)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types, with ``is_equal``."""
        return {**dataclasses.asdict(self), "is_equal": self.is_equal}

    def summary(self) -> str:
        """Write one line per difference, by section."""
        if self.is_equal:
            return f"equal: {self.n_equal} sections, every byte of them"
        lines = [f"A is {self.a}", f"B is {self.b}"]
        lines += [f"{name}: only in A" for name in self.only_in_a]
        lines += [f"{name}: only in B" for name in self.only_in_b]
        for section in self.sections:
            lines.append(f"{section.name}:")
            differences = [*section.meta, *([section.spots] if section.spots else []), *section.elements]
            lines += [f"    {difference}" for difference in differences]
        lines.append(f"{len(self.sections)} sections differ, {self.n_equal} are equal")
        return "\n".join(lines)


def diff(config: DiffConfig, *, progress: Progress = SILENT) -> DiffReport:
    """Compare two stores section by section, by the digests in their indexes.

    The bytes themselves are read only where ids differ, or features that were made in the same way; damage is what
    `verify` is for. That two stores differ is no error: `spam store diff` ends with 0 either way (1 is a bug of ours, 2
    what the user can mend) and says it in its text and in ``is_equal``.

    Parameters
    ----------
    config
        Which stores.
    progress
        Who watches; steps are sections of both.

    Raises
    ------
    StoreError
        If one of them is no store, or what has to be read is damaged.
    """
    assert config.a is not None  # held by __post_init__
    assert config.b is not None
    a, b = open_store(config.a), open_store(config.b)
    both = sorted({*a.section_names} & {*b.section_names})
    sections: list[SectionDiff] = []
    with progress.task("comparing", len(both)) as advance:
        for name in both:
            in_a, in_b = a.section(name), b.section(name)
            if in_a.index.data != in_b.index.data:
                sections.append(_section(in_a, in_b))
            advance(note=name)
    return DiffReport(
        a=a.address,
        b=b.address,
        only_in_a=tuple(name for name in a.section_names if name not in both),
        only_in_b=tuple(name for name in b.section_names if name not in both),
        sections=tuple(sections),
        n_equal=len(both) - len(sections),
    )


def _section(a: StoredSection, b: StoredSection) -> SectionDiff:
    values_a, values_b = a.meta.to_mapping(), b.meta.to_mapping()
    meta = [
        MetaDiff(entry=entry, a=values_a[entry], b=values_b[entry])
        for entry in values_a
        if values_a[entry] != values_b[entry]
    ]
    elements = []
    names_a, names_b = _elements(a.index, a), _elements(b.index, b)
    for name in sorted({*names_a, *names_b}):
        files_a, files_b = names_a.get(name, {}), names_b.get(name, {})
        if files_a != files_b:
            elements.append(_element(name, a, b, files_a, files_b))
    if not (meta or elements):  # the same files under an index that is written in another way
        elements.append(ElementDiff(name="other", change="other content"))
    return SectionDiff(name=a.meta.name, meta=tuple(meta), spots=_spots(a, b), elements=tuple(elements))


def _elements(index: SectionIndex, section: StoredSection) -> dict[str, dict[str, FileEntry]]:
    """Give the files of each part of a section that has a name to the user; all others are ``other``."""
    nodes: dict[str, tuple[str, ...]] = {
        "obs": ("obs",),
        "var": ("var",),
        "counts": ("X",),
        "coordinates": (f"obsm/{SPATIAL}", f"obsm/{SPATIAL_UM}"),
        "overview": (f"uns/{SPATIAL}",),
        **{f"features {key}": (f"obsm/{key}",) for key in section.feature_keys},
        **{f"quality {key}": (f"obsm/{key}",) for key in section.quality_keys},
        **{f"graph {key}": graph_nodes(key) for key in section.graph_keys},
    }
    parts = {name: index.below(*below) for name, below in nodes.items()}
    named = {path for files in parts.values() for path in files}
    parts["other"] = {path: entry for path, entry in index.files.items() if path not in named}
    return {name: files for name, files in parts.items() if files}


def _element(
    name: str,
    a: StoredSection,
    b: StoredSection,
    files_a: Mapping[str, FileEntry],
    files_b: Mapping[str, FileEntry],
) -> ElementDiff:
    if not (files_a and files_b):
        return ElementDiff(name=name, change="only in A" if files_a else "only in B")
    key = name.removeprefix("features ")
    if key == name:
        return ElementDiff(name=name, change="other content")
    if a.feature_identity(key) != b.feature_identity(key):
        return ElementDiff(name=name, change="other identity")
    in_a, in_b = a.features(key), b.features(key)
    if in_a.shape != in_b.shape:
        return ElementDiff(name=name, change="other content")
    largest = float(np.abs(in_a - in_b).max())
    return ElementDiff(name=name, change="other content", largest_difference=largest)


def _spots(a: StoredSection, b: StoredSection) -> SpotsDiff | None:
    rows_a, rows_b = _rows(a), _rows(b)
    shared = rows_a.keys() & rows_b.keys()
    found = SpotsDiff(
        n_only_a=len(rows_a) - len(shared),
        n_only_b=len(rows_b) - len(shared),
        n_moved=sum(rows_a[spot] != rows_b[spot] for spot in shared),
    )
    return found if found.n_only_a or found.n_only_b or found.n_moved else None


def _rows(section: StoredSection) -> dict[str, int]:
    return {spot: row for row, spot in enumerate(section.ids.tolist())}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
