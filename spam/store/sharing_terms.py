"""Whether licences allow a store or a checkpoint to be shared, and the README (dataset card of the Hub) of a shared store."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData

from spam.errors import StoreError
from spam.schemas.licences import encoder_terms, known_licences, licence
from spam.schemas.store_format import FeatureMeta, SectionMeta

_UNSTATED = ("", "unknown")  # the second is the default of an encoder card
_TAGS = ["spatial-transcriptomics", "histology", "pathology", "biology", "zarr", "anndata", "spam"]


def section_licence(section: SectionMeta) -> str | None:
    """Return the usual name of the licence of a section's counts and images; None if unstated."""
    return usual_name(section.licence)


def encoder_licences(encoder: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the licences of an encoder: that of its card, and the published one if it differs."""
    published = encoder_terms(str(encoder.get("source")))
    names = [usual_name(encoder.get("licence")), published.licence if published else None]
    return tuple(dict.fromkeys(name for name in names if name is not None))


def sharing_objections(sections: Iterable[SectionMeta], features: Iterable[FeatureMeta]) -> tuple[str, ...]:
    """List what the licences of data and encoders forbid (``section 'C2': …``); empty if sharing is allowed.

    Whether features are a derivative of their encoder is not settled in law; they are treated as one. An unstated or
    unknown licence is an objection. Conditions (attribution, non-commercial use) are not: they go into the README.
    """
    found = [line for section in sections for line in _data_objections(section.name, section.licence)]
    found += [
        line
        for meta in features
        for line in _encoder_objections(f"features {meta.key!r}", "their encoder", meta.encoder)
    ]
    return tuple(dict.fromkeys(found))


def model_objections(
    encoders: Iterable[Mapping[str, Any]], licences: Mapping[str, str | None]
) -> tuple[str, ...]:
    """List what the licences of encoders and data forbid for a checkpoint, as `sharing_objections` does for a store.

    A model trained on features is treated as a derivative of each of their encoders, and of the counts and images.

    Parameters
    ----------
    encoders
        Entries of the cards of the encoders: ``source`` and ``licence``.
    licences
        Licence of each section that was trained on; None if unstated.
    """
    found = [line for name, licence in licences.items() for line in _data_objections(name, licence)]
    for encoder in encoders:
        found += _encoder_objections("the trained weights", "their encoder", encoder)
    return tuple(dict.fromkeys(found))


def require_sharing_allowed(
    what: str, objections: Sequence[str], advice: str, *, has_the_right: bool
) -> None:
    """Raise StoreError with every objection to sharing, unless the user claims the right to share."""
    if objections and not has_the_right:
        lines = "".join(f"\n- {objection}" for objection in objections)
        message = (
            f"This {what} must not be shared as it is:{lines}\n{advice}, or, if you have the right to share all of this, add "
            "--i-have-the-right-to-share."
        )
        raise StoreError(message)


def _data_objections(section: str, licence: str | None) -> Iterator[str]:
    name = usual_name(licence)
    yield from _objections(
        f"section {section!r}", "its counts and images", () if name is None else (name,), ""
    )


def _encoder_objections(what: str, whose: str, encoder: Mapping[str, Any]) -> Iterator[str]:
    source = str(encoder.get("source"))
    published = encoder_terms(source)
    terms = f"; {published.terms} ({published.url})" if published is not None and published.terms else ""
    yield from _objections(what, f"{whose} {source!r}", encoder_licences(encoder), terms)


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


def usual_name(name: object) -> str | None:
    """Return the usual name of a licence; None if it is unstated."""
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
    hub_names = hub_licences(covers)
    header = DatasetCardData(
        pretty_name=name,
        license=hub_names[0] if len(hub_names) == 1 else hub_names,
        tags=_TAGS,
    )
    overridden = sharing_objections(sections, metas)
    quoted = shlex.quote(address)
    blocks = [
        f"---\n{header.to_yaml()}\n---",
        f"# {inline(name)}",
        "A SPAM feature store: features of H&E tiles and the spatial gene expression of the same spots. It is a Zarr v3 "
        "folder; each section is in AnnData's format.",
        "## Sections",
        table(
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
        table(
            ("section", "features", "encoder", "source", "revision", "dim", "licence"),
            (
                (
                    s.name,
                    m.key,
                    *map(m.encoder.get, ("name", "source", "revision")),
                    m.dim,
                    " and ".join(encoder_licences(m.encoder)),
                )
                for s, m in rows
            ),
        ),
        "## Licences",
        "\n".join([*licence_lines(covers), *terms_lines(meta.encoder for meta in metas)]),
        *(["### Shared although"] if overridden else []),
        "\n".join(f"- {inline(objection)}" for objection in overridden),
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
        for name in encoder_licences(meta.encoder) or (None,):
            covers.setdefault(name, {})[f"features {meta.key}"] = None
    return covers


def hub_licences(names: Iterable[str | None]) -> list[str]:
    """Name licences as the header of a card of the Hub does: SPDX in lower case, else ``other`` or ``unknown``; sorted."""

    def written(name: str | None) -> str:
        known = licence(name) if name is not None else None
        is_spdx = known is not None and known.is_spdx
        return "unknown" if name is None else known.name.lower() if known and is_spdx else "other"

    return sorted({written(name) for name in names})


def licence_lines(covers: Mapping[str | None, Iterable[str]]) -> Iterator[str]:
    """Write a line for each licence: what is under it, what it permits, and its conditions."""
    for name, things in covers.items():
        known = licence(name) if name is not None else None
        terms = (
            f"{'; '.join([known.clause, *known.conditions])} (<{known.url}>)" if known else "terms unknown"
        )
        yield f"- **{inline(name or 'Not stated')}** ({inline(', '.join(things))}): {terms}."


def terms_lines(encoders: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Write the published terms of encoders beyond their licences, from their cards."""
    for source in dict.fromkeys(str(encoder.get("source")) for encoder in encoders):
        published = encoder_terms(source)
        if published is not None and published.terms:
            yield f"- Encoder {inline(source)}: {published.terms} (<{published.url}>)."


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table in Markdown; None is a dash."""
    lines = [columns, ["---"] * len(columns)]
    lines += [["–" if cell is None else inline(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def inline(value: object) -> str:
    """Escape Markdown in a value that is not trusted, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#]|:(?=//))", r"\\\1", " ".join(str(value).split()))
