"""Whether licences allow a store to be shared, and the README (Hugging Face dataset card) of a shared store."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from huggingface_hub import DatasetCardData

from spam.errors import StoreError
from spam.schemas.licences import encoder_terms, known_licences, licence
from spam.schemas.store_format import FeatureMeta, SectionMeta

_UNSTATED = ("", "unknown")  # the second is the default of an encoder card
_TAGS = ["spatial-transcriptomics", "histology", "pathology", "biology", "zarr", "anndata", "spam"]
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)


def section_licence(section: SectionMeta) -> str | None:
    """Return the usual name of the licence of a section's counts and images; None if unstated."""
    return _usual_name(section.licence)


def encoder_licences(features: FeatureMeta) -> tuple[str, ...]:
    """Return the licences of features: that of the encoder card, and the published one of the encoder if it differs."""
    published = encoder_terms(str(features.encoder.get("source")))
    names = [_usual_name(features.encoder.get("licence")), published.licence if published else None]
    return tuple(dict.fromkeys(name for name in names if name is not None))


def sharing_objections(sections: Iterable[SectionMeta], features: Iterable[FeatureMeta]) -> tuple[str, ...]:
    """List what the licences of data and encoders forbid (``section 'C2': …``); empty if sharing is allowed.

    Whether features are a derivative of their encoder is not settled in law; they are treated as one. An unstated or
    unknown licence is an objection. Conditions (attribution, non-commercial use) are not: they go into the README.
    """
    found = [objection for section in sections for objection in _section_objections(section)]
    found += [objection for meta in features for objection in _feature_objections(meta)]
    return tuple(dict.fromkeys(found))


def require_sharing_allowed(
    sections: Iterable[SectionMeta], features: Iterable[FeatureMeta], *, has_the_right: bool
) -> None:
    """Raise StoreError with every objection to sharing, unless the user claims the right to share."""
    objections = sharing_objections(sections, features)
    if objections and not has_the_right:
        lines = "".join(f"\n- {objection}" for objection in objections)
        message = (
            f"This store must not be shared as it is:{lines}\n"
            "State a missing licence with --licence (of `spam embed`, `spam store import` or `spam store push`), leave out "
            "sections or features with `spam store select`, or, if you have the right to share all of this, add "
            "--i-have-the-right-to-share."
        )
        raise StoreError(message)


def _section_objections(section: SectionMeta) -> Iterator[str]:
    name = section_licence(section)
    yield from _objections(
        f"section {section.name!r}", "its counts and images", () if name is None else (name,), ""
    )


def _feature_objections(features: FeatureMeta) -> Iterator[str]:
    source = str(features.encoder.get("source"))
    published = encoder_terms(source)
    terms = f"; {published.terms} ({published.url})" if published is not None and published.terms else ""
    yield from _objections(
        f"features {features.key!r}", f"their encoder {source!r}", encoder_licences(features), terms
    )


def _objections(what: str, whose: str, names: Sequence[str], terms: str) -> Iterator[str]:
    if not names:
        yield f"{what}: the licence of {whose} is not stated"
    for name in names:
        known = licence(name)
        if known is None:
            listed = ", ".join(known_licences())
            yield f"{what}: the licence {name!r} of {whose} is unknown to spam (known: {listed})"
        elif not known.allows_sharing:
            reason = f"the licence of {whose}, {known.name}, forbids it: {known.clause} ({known.url}){terms}"
            yield f"{what}: {reason}"


def _usual_name(name: object) -> str | None:
    stated = str(name or "").strip()
    if stated.lower() in _UNSTATED:
        return None
    known = licence(stated)
    return stated if known is None else known.name


def dataset_card(
    address: str, sections: Sequence[SectionMeta], features: Mapping[str, Sequence[FeatureMeta]]
) -> str:
    """Write the README of a shared store as a dataset card of the Hugging Face Hub.

    Parameters
    ----------
    address
        Where the store is shared, as a reader types it.
    sections
        All sections at the address.
    features
        Features of each section, by its name.
    """
    rows = [(section, meta) for section in sections for meta in features.get(section.name, ())]
    metas = [meta for _, meta in rows]
    covers = _licence_covers(sections, metas)
    name = address.rstrip("/").rsplit("/", 1)[-1].split("@")[0].removesuffix(".zarr")
    hub_names = sorted({_hub_licence(licence_name) for licence_name in covers})
    n_spots = sum(section.n_spots for section in sections)
    header = DatasetCardData(
        pretty_name=name,
        license=hub_names[0] if len(hub_names) == 1 else hub_names,
        tags=_TAGS,
        size_categories=next((size for most, size in _SIZES if n_spots < most), "n>10M"),
    )
    overridden = sharing_objections(sections, metas)
    quoted = shlex.quote(address)
    blocks = [
        f"---\n{header.to_yaml()}\n---",
        f"# {_inline(name)}",
        "A SPAM feature store: features of H&E tiles and the spatial gene expression of the same spots. It is a Zarr v3 "
        "folder; each section is in AnnData's format.",
        "## Sections",
        _table(
            ("section", "spots", "genes", "donor", "µm per pixel", "licence", "left out"),
            (
                (
                    s.name,
                    s.n_spots,
                    s.n_genes,
                    s.donor,
                    s.mpp,
                    section_licence(s),
                    ", ".join(s.redacted) or None,
                )
                for s in sections
            ),
        ),
        "## Features",
        _table(
            ("section", "features", "encoder", "source", "revision", "dim", "licence"),
            (
                (
                    s.name,
                    m.key,
                    *map(m.encoder.get, ("name", "source", "revision")),
                    m.dim,
                    " and ".join(encoder_licences(m)),
                )
                for s, m in rows
            ),
        ),
        "## Licences",
        "\n".join([*_licence_lines(covers), *_terms_lines(metas)]),
        *(["### Shared although"] if overridden else []),
        "\n".join(f"- {_inline(objection)}" for objection in overridden),
        "## How to load it",
        f"```bash\npip install spam-st\nspam store info {quoted}\nspam store pull {quoted} cohort.zarr\n```",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _licence_covers(
    sections: Iterable[SectionMeta], features: Iterable[FeatureMeta]
) -> dict[str | None, dict[str, None]]:
    """List what is under each licence; None for what has no stated licence."""
    covers: dict[str | None, dict[str, None]] = {}
    for section in sections:
        covers.setdefault(section_licence(section), {})[f"section {section.name}"] = None
    for meta in features:
        for name in encoder_licences(meta) or (None,):
            covers.setdefault(name, {})[f"features {meta.key}"] = None
    return covers


def _hub_licence(name: str | None) -> str:
    """Name a licence as the header of a dataset card does: SPDX in lower case, else ``other`` or ``unknown``."""
    known = licence(name) if name is not None else None
    return (
        "unknown" if name is None else known.name.lower() if known is not None and known.is_spdx else "other"
    )


def _licence_lines(covers: Mapping[str | None, Iterable[str]]) -> Iterator[str]:
    for name, things in covers.items():
        known = licence(name) if name is not None else None
        terms = (
            f"{'; '.join([known.clause, *known.conditions])} (<{known.url}>)" if known else "terms unknown"
        )
        yield f"- **{_inline(name or 'Not stated')}** ({_inline(', '.join(things))}): {terms}."


def _terms_lines(features: Iterable[FeatureMeta]) -> Iterator[str]:
    for source in dict.fromkeys(str(meta.encoder.get("source")) for meta in features):
        published = encoder_terms(source)
        if published is not None and published.terms:
            yield f"- Encoder {_inline(source)}: {published.terms} (<{published.url}>)."


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns)]
    lines += [["–" if cell is None else _inline(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _inline(value: object) -> str:
    """Escape Markdown in a value of the store, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#]|:(?=//))", r"\\\1", " ".join(str(value).split()))
