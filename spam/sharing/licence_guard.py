"""Whether the licences of a store's data and encoders permit sharing it: objections, each with its clause."""

import dataclasses
from collections.abc import Iterator, Sequence

from spam.errors import StoreError
from spam.schemas.licences import encoder_terms, known_licences, licence
from spam.schemas.store_format import FeatureMeta, SectionMeta

__all__ = [
    "Objection",
    "encoder_licences",
    "require_sharing_allowed",
    "section_licence",
    "sharing_objections",
]

_UNSTATED = ("", "unknown")
"""What stands for a licence that nobody stated, such as the default of an encoder card."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """One reason not to share a store.

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


def section_licence(section: SectionMeta) -> str | None:
    """Name the licence of a section's counts and images as it is usually written; None where nobody stated one."""
    stated = section.licence or ""
    return None if _is_unstated(stated) else _usual_name(stated)


def encoder_licences(features: FeatureMeta) -> tuple[str, ...]:
    """Name the licences that features are under: that of the encoder's card, then what its makers publish.

    Usually both are the same, and there is one name. There is none where nobody stated a licence.
    """
    stated = str(features.encoder.get("licence") or "")
    published = encoder_terms(str(features.encoder.get("source")))
    names = [] if _is_unstated(stated) else [_usual_name(stated)]
    return tuple(dict.fromkeys(names if published is None else [*names, published.licence]))


def sharing_objections(
    sections: Sequence[SectionMeta], features: Sequence[FeatureMeta]
) -> tuple[Objection, ...]:
    """List what speaks against sharing these sections and features; nothing does if it is empty.

    A section's licence is that of its counts and images. Features are judged by the licence on their encoder's card
    and, where spam knows the encoder, by what its makers publish: if the two differ, either can forbid. Whether
    features are a derivative of their encoder is not settled in law, so they are taken to be one. A licence that is
    not stated, or that spam does not know, is an objection. One that permits sharing under conditions is none: the
    conditions go into the README.

    Features of the same key and licence in several sections give one objection.
    """
    about_sections = (found for section in sections for found in _about_section(section))
    about_features = (found for meta in features for found in _about_features(meta))
    return tuple(dict.fromkeys([*about_sections, *about_features]))


def objection_lines(objections: Sequence[Objection]) -> list[str]:
    """Write objections as lines, one for all things of which the same is to be said."""
    things: dict[str, list[str]] = {}
    for objection in objections:
        things.setdefault(objection.message, []).append(objection.what)
    return [f"{', '.join(whats)}: {message}" for message, whats in things.items()]


def require_sharing_allowed(
    sections: Sequence[SectionMeta], features: Sequence[FeatureMeta], *, has_the_right: bool
) -> tuple[Objection, ...]:
    """Refuse to share what the licences forbid, unless whoever shares it has the right to.

    Returns
    -------
    tuple of Objection
        What was overridden by `has_the_right`, to be recorded with the copy; empty if nothing spoke against it.

    Raises
    ------
    StoreError
        If something speaks against sharing and `has_the_right` is False; names every objection.
    """
    objections = sharing_objections(sections, features)
    if objections and not has_the_right:
        lines = "".join(f"\n- {line}" for line in objection_lines(objections))
        message = (
            f"this store must not be shared as it is:{lines}\n"
            "spam takes the careful side: what is in a store is taken to be adapted material, though for features that "
            "is not settled in law. State a licence that nobody stated with `--licence CC-BY-4.0` (or what it is) of "
            "`spam embed` or `spam store push`; leave sections or features out with `spam store select`; or, if you "
            "have the right to share all of this, say so with `--i-have-the-right-to-share`, which is recorded in the "
            "shared copy"
        )
        raise StoreError(message)
    return objections


def _about_section(section: SectionMeta) -> Iterator[Objection]:
    what, name = f"section {section.name!r}", section_licence(section)
    if name is None:
        yield _unstated(what, "its counts and images")
    else:
        yield from _forbidden(what, "its counts and images", name)


def _about_features(features: FeatureMeta) -> Iterator[Objection]:
    source = str(features.encoder.get("source"))
    what, whose = f"features {features.key!r}", f"their encoder {source!r}"
    published = encoder_terms(source)
    terms = f"; {published.terms} ({published.url})" if published is not None and published.terms else ""
    names = encoder_licences(features)
    if not names:
        yield _unstated(what, whose)
    for name in names:
        yield from _forbidden(what, whose, name, terms)


def _unstated(what: str, whose: str) -> Objection:
    message = f"nobody stated the licence of {whose}, so nobody said that it may be shared"
    return Objection(what=what, licence=None, clause=None, message=message)


def _forbidden(what: str, whose: str, name: str, terms: str = "") -> Iterator[Objection]:
    known = licence(name)
    if known is None:
        message = (
            f"spam does not know the licence {name!r} of {whose}, so nobody said that it may be shared; it knows "
            f"{', '.join(known_licences())}"
        )
        yield Objection(what=what, licence=name, clause=None, message=message)
    elif not known.allows_sharing:
        message = f"the licence of {whose}, {known.name}, forbids it: {known.clause} ({known.url}){terms}"
        yield Objection(what=what, licence=known.name, clause=known.clause, message=message)


def _usual_name(name: str) -> str:
    known = licence(name)
    return name if known is None else known.name


def _is_unstated(name: str) -> bool:
    return name.strip().lower() in _UNSTATED
