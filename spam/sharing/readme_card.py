"""The README of a shared store: a Hugging Face dataset card that says what is in it, from where, and under which terms."""

import shlex
from collections.abc import Iterable, Mapping, Sequence

from huggingface_hub import DatasetCardData

from spam.schemas.store_format import FeatureMeta, SectionMeta, feature_identity

from .licence_guard import Objection, encoder_licences, section_licence
from .licence_text import hub_licence, licence_list, licences_of, override_list
from .markdown import inline, one_line, table

__all__ = ["readme_card"]

_TAGS = ["spatial-transcriptomics", "histology", "pathology", "biology", "zarr", "anndata", "spam"]
_LEFT_OUT = {
    "counts": "the raw counts",
    "coordinates": "the coordinates of the spots",
    "ids": "the spots' own ids",
    "genes": "some of the genes",
}
_DIGITS = 12
"""Digits of a digest in a table: enough to tell two apart by eye; the store holds all 64."""


def readme_card(
    name: str,
    sections: Sequence[SectionMeta],
    features_by_section: Mapping[str, Sequence[FeatureMeta]],
    *,
    address: str,
    overridden: Sequence[Objection],
) -> str:
    """Write the README of a shared store.

    Names, licences and everything else that was read from the store are a stranger's words: they are escaped, so
    that they show as they are and cannot become a link, markup, another row or another entry of the YAML header.

    Parameters
    ----------
    name
        Title of the data set.
    sections
        Sections of the shared copy, as they are in it.
    features_by_section
        Features of each, by the section's name.
    address
        Where the store is shared, as a reader would type it.
    overridden
        Objections that `require_sharing_allowed` returned; they are recorded in the card.
    """
    features = [(section, meta) for section in sections for meta in features_by_section.get(section.name, ())]
    blocks = [
        f"---\n{_header(name, sections, [meta for _, meta in features])}\n---",
        f"# {inline(name)}",
        "A SPAM feature store: tiles of H&E histology, embedded once, beside the "
        "spatial gene expression of the same spots. It is a Zarr v3 folder in which each section is in AnnData's format.",
        "## Sections",
        _section_table(sections),
        "## Features",
        _feature_table(features),
        "Digests are shortened here; the store holds them in full.",
        "## Provenance",
        _source_table(sections),
        _software(sections, [meta for _, meta in features]),
        "## Licences",
        licence_list(sections, [meta for _, meta in features]),
        override_list(overridden),
        _left_out(sections),
        "## How to load it",
        _loading(address, sections),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _header(name: str, sections: Sequence[SectionMeta], features: Sequence[FeatureMeta]) -> str:
    hub_names = sorted({hub_licence(licence) for licence in licences_of(sections, features)})
    return str(
        DatasetCardData(
            pretty_name=one_line(name),
            license=hub_names[0] if len(hub_names) == 1 else hub_names,
            tags=_TAGS,
            size_categories=_size_category(sum(section.n_spots for section in sections)),
        ).to_yaml()
    )


def _size_category(n_spots: int) -> str:
    """Name the Hub's size category: ``n<1K``, ``1K<n<10K``, and so on; each begins at its lower bound."""
    bounds = [("1K", 10**3), ("10K", 10**4), ("100K", 10**5), ("1M", 10**6), ("10M", 10**7), ("100M", 10**8)]
    below = "n<1K"
    for (low, at), (high, _) in zip(bounds, [*bounds[1:], ("1B", 10**9)], strict=True):
        below = f"{low}<n<{high}" if n_spots >= at else below
    return below


def _section_table(sections: Sequence[SectionMeta]) -> str:
    rows = [
        (
            section.name,
            f"{section.n_spots:,}",
            f"{section.n_genes:,}" if section.has_counts else None,
            section.donor,
            None if section.mpp is None else f"{section.mpp:g}",
            section_licence(section),
            ", ".join(section.redacted) or None,
        )
        for section in sections
    ]
    return table(("section", "spots", "genes", "donor", "µm per pixel", "licence", "left out"), rows)


def _feature_table(features: Iterable[tuple[SectionMeta, FeatureMeta]]) -> str:
    rows = [
        (
            section.name,
            meta.key,
            meta.encoder.get("name"),
            meta.encoder.get("source"),
            meta.encoder.get("revision"),
            _digest(meta.weights_sha256),
            _digest(meta.lora_sha256),
            _tile(meta),
            f"{meta.dim} × {meta.dtype}",
            " and ".join(encoder_licences(meta)) or None,
            _digest(feature_identity(section, meta)),
        )
        for section, meta in features
    ]
    columns = (
        "section",
        "features",
        "encoder",
        "source",
        "revision",
        "weights",
        "LoRA",
        "tile",
        "numbers",
        "licence",
        "identity",
    )
    return table(columns, rows)


def _tile(meta: FeatureMeta) -> str:
    um, px, out_px = (meta.tile.get(key) for key in ("tile_um", "tile_px", "out_px"))
    return f"{um} µm as {out_px} px" if um is not None else f"{px} slide px as {out_px} px"


def _digest(digest: str | None) -> str | None:
    return None if digest is None else digest[:_DIGITS]


def _source_table(sections: Sequence[SectionMeta]) -> str:
    rows = [
        (section.name, source.role, source.name, f"{source.n_bytes:,}", source.sha256)
        for section in sections
        for source in section.sources
    ]
    return table(("section", "role", "file", "bytes", "SHA-256"), rows)


def _software(sections: Sequence[SectionMeta], features: Sequence[FeatureMeta]) -> str:
    software = [*(section.software for section in sections), *(meta.software for meta in features)]
    used = {f"{package} {version}" for versions in software for package, version in versions.items()}
    return f"Made with {', '.join(map(inline, sorted(used)))}." if used else ""


def _left_out(sections: Sequence[SectionMeta]) -> str:
    lines = [
        f"- Section {inline(section.name)}: {', '.join(_LEFT_OUT[part] for part in section.redacted)}."
        for section in sections
        if section.redacted
    ]
    return "## Left out before sharing\n\n" + "\n".join(lines) if lines else ""


def _loading(address: str, sections: Sequence[SectionMeta]) -> str:
    address = one_line(address)
    quoted = shlex.quote(address)
    first = sections[0].name if sections else "SECTION"
    training = (
        f"\nspam pretrain --store {quoted} --save-dir run" if any(s.has_counts for s in sections) else ""
    )
    return f"""\
```bash
pip install spam-st
spam store info {quoted}{training}
spam store pull {quoted} cohort.zarr
```

```python
import anndata
import spam

store = spam.open_store({address!r})  # fetches what is asked for, and no more
section = anndata.read_zarr({f"cohort.zarr/{first}"!r})  # a section of the copy that was pulled
```"""
