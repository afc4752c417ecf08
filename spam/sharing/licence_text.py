"""What the README of a shared store says about licences: their names, terms, and what was overridden."""

from collections.abc import Sequence

from spam.schemas.licences import encoder_terms, licence
from spam.schemas.store_format import FeatureMeta, SectionMeta

from .licence_guard import Objection, encoder_licences, objection_lines, section_licence
from .markdown import inline

__all__ = ["hub_licence", "licence_list", "licences_of", "override_list"]


def licences_of(
    sections: Sequence[SectionMeta], features: Sequence[FeatureMeta]
) -> dict[str | None, list[str]]:
    """Name each licence with what is under it, in order of appearance; None is what nobody stated a licence for."""
    covers: dict[str | None, dict[str, None]] = {}
    for section in sections:
        covers.setdefault(section_licence(section), {})[f"section {section.name}"] = None
    for meta in features:
        for name in encoder_licences(meta) or (None,):
            covers.setdefault(name, {})[f"features {meta.key}"] = None
    return {name: [*things] for name, things in covers.items()}


def hub_licence(name: str | None) -> str:
    """Name a licence as the Hub's header does: SPDX in small letters, ``other`` for one of somebody's own."""
    if name is None:
        return "unknown"
    known = licence(name)
    return known.name.lower() if known is not None and known.is_spdx else "other"


def licence_list(sections: Sequence[SectionMeta], features: Sequence[FeatureMeta]) -> str:
    """List the licences with their conditions, and what the makers of the encoders ask beyond them."""
    lines = [
        f"- **{inline(name or 'Not stated')}** ({inline(', '.join(things))}): {_terms(name)}."
        for name, things in licences_of(sections, features).items()
    ]
    sources = dict.fromkeys(str(meta.encoder.get("source", "")) for meta in features)
    lines += [
        f"- Encoder {inline(source)}: {published.terms} (<{published.url}>)."
        for source in sources
        if (published := encoder_terms(source)) is not None and published.terms is not None
    ]
    return "\n".join(lines) or "None."


def override_list(overridden: Sequence[Objection]) -> str:
    """List what spoke against sharing and was overridden; empty text if nothing was."""
    if not overridden:
        return ""
    head = "### Shared on the word of whoever pushed it\n\nThey stated that they have the right to share it, although:\n\n"
    return head + "\n".join(f"- {inline(line)}" for line in objection_lines(overridden))


def _terms(name: str | None) -> str:
    if name is None:
        return "nobody said under which licence this is"
    known = licence(name)
    if known is None:
        return "spam does not know its terms"
    return f"{'; '.join([known.clause, *known.conditions])} (<{known.url}>)"
