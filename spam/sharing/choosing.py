"""Which sections, features, graphs and genes of a store go into a copy of it."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from spam.errors import ConfigError, MissingInputError, StoreError
from spam.schemas.store_format import quality_key
from spam.store import Store, StoredSection

from .redacting import Redaction
from .same_section import Part

__all__ = ["FEATURE_GRAPH", "chosen_sections", "kept_parts", "read_genes", "require_chosen"]

FEATURE_GRAPH = "features_"
"""Beginning of the keys of graphs over features (docs/format.md); the features' key follows."""


def read_genes(path: Path) -> tuple[str, ...]:
    """Read the names of genes, one a line.

    Raises
    ------
    MissingInputError
        If there is no such file.
    ConfigError
        If it names no gene.
    """
    if not path.is_file():
        message = (
            f"--genes-file {str(path)!r} is not there; give a text file with the name of one gene a line"
        )
        raise MissingInputError(message)
    # What is no UTF-8 is no gene either, and is reported as such.
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    genes = tuple(line.strip() for line in lines if line.strip())
    if not genes:
        message = f"--genes-file {str(path)!r} names no gene; write the name of one gene a line"
        raise ConfigError(message)
    return genes


def chosen_sections(store: Store, names: Sequence[str]) -> list[StoredSection]:
    """Open the sections of those names, or all if none is named.

    Raises
    ------
    StoreError
        If one is not there (says which are), or is damaged.
    """
    there = store.section_names
    unknown = [name for name in dict.fromkeys(names) if name not in there]
    _refuse(store, [f"it has no sections {unknown} (it has: {', '.join(there)})"] if unknown else [])
    return [store.section(name) for name in there if not names or name in names]


def require_chosen(
    store: Store, sections: Sequence[StoredSection], features: Sequence[str], redaction: Redaction
) -> None:
    """Refuse names of features and genes that no section has, and sections that would be left without genes.

    Raises
    ------
    StoreError
        If there are such; names them all.
    """
    _refuse(store, [*_feature_faults(sections, features), *_gene_faults(sections, redaction)])


def kept_parts(section: StoredSection, names: Sequence[str], redaction: Redaction) -> list[Part]:
    """List the features and graphs of a section that go into the copy, features first.

    The quality of the tiles that features were made from goes where they go.
    """
    features = [
        key for key in section.feature_keys if not names or key in names or _encoder(section, key) in names
    ]
    graphs = [
        key
        for key in section.graph_keys
        if (
            key.removeprefix(FEATURE_GRAPH) in features
            if key.startswith(FEATURE_GRAPH)
            else not redaction.without_coordinates
        )
    ]
    return [
        *(Part(kind="features", key=key) for key in features),
        *(
            Part(kind="features", key=quality_key(key))
            for key in features
            if quality_key(key) in section.quality_keys
        ),
        *(Part(kind="graph", key=key) for key in graphs),
    ]


def _encoder(section: StoredSection, key: str) -> str:
    return str(section.feature_meta(key).encoder.get("name"))


def _feature_faults(sections: Sequence[StoredSection], names: Sequence[str]) -> Iterator[str]:
    there = {key: _encoder(section, key) for section in sections for key in section.feature_keys}
    unknown = [name for name in dict.fromkeys(names) if name not in {*there, *there.values()}]
    if unknown:
        keys = ", ".join(f"{key} of encoder {encoder}" for key, encoder in sorted(there.items())) or "none"
        yield f"no section that is kept has features {unknown} (they have: {keys})"


def _gene_faults(sections: Sequence[StoredSection], redaction: Redaction) -> Iterator[str]:
    if redaction.genes is None:
        return
    there = {gene for section in sections if section.genes is not None for gene in section.genes.tolist()}
    unknown = sorted(redaction.genes - there)
    if unknown:
        near = {match for gene in unknown[:3] for match in difflib.get_close_matches(gene, there, n=2)}
        hint = f"; near to them are {sorted(near)}" if near else ""
        yield (
            f"no section that is kept has {len(unknown)} of {len(redaction.genes)} genes, such as {unknown[:3]} "
            f"(they have {len(there)}, such as {sorted(there)[:3]}{hint})"
        )
    bare = [
        section.meta.name
        for section in sections
        if section.meta.has_counts and not redaction.kept_genes(section)
    ]
    if bare and not unknown:
        yield f"sections {bare} have none of the genes: leave them out, or ask for --without-counts"


def _refuse(store: Store, found: Iterable[str]) -> None:
    faults = list(found)
    if faults:
        message = (
            f"nothing was copied of store {store.address!r}: {'; '.join(faults)}; ask for what is there, see `spam store "
            f"ls {store.address}`"
        )
        raise StoreError(message)
