"""Licences and what they allow for derived data such as features; a table, looked up by name."""

import dataclasses
import functools
import re
import tomllib
from importlib import resources

from .records import Record


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Licence(Record):
    """What one licence says about sharing adapted material, such as features of images.

    Attributes
    ----------
    name
        SPDX name, or the usual name of a custom licence.
    aliases
        Other names; case, and spaces instead of hyphens, do not matter.
    allows_sharing
        Whether it permits sharing adapted material, under `conditions`.
    clause
        Clause that permits or forbids it, with its number, paraphrased.
    conditions
        Conditions of sharing: attribution, non-commercial use, share-alike.
    url
        Text of the licence.
    is_spdx
        Whether `name` is in the SPDX list.
    """

    name: str
    aliases: tuple[str, ...]
    allows_sharing: bool
    clause: str
    conditions: tuple[str, ...]
    url: str
    is_spdx: bool = True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EncoderTerms(Record):
    """Published licence of an encoder's weights, and terms beyond the licence.

    Attributes
    ----------
    sources
        Origins of the weights, as in `EncoderCard.source`.
    licence
        Name of the licence, see `Licence`.
    url
        Page with the licence.
    terms
        Terms on that page beyond the licence, paraphrased, or None.
    """

    sources: tuple[str, ...]
    licence: str
    url: str
    terms: str | None = None


def licence(name: str) -> Licence | None:
    """Look up a licence by its name or an alias: ``CC BY 4.0`` is ``cc-by-4.0`` is ``CC-BY-4.0``; None if unknown."""
    return _table()[0].get(_plain(name))


def encoder_terms(source: str) -> EncoderTerms | None:
    """Look up the published terms of an encoder by `EncoderCard.source`; None if unknown.

    Case does not matter, as in repository names of the Hub.
    """
    return _table()[1].get(source.lower())


def known_licences() -> tuple[str, ...]:
    """Names of all known licences, in the order of the table."""
    return tuple(dict.fromkeys(known.name for known in _table()[0].values()))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


@functools.cache
def _table() -> tuple[dict[str, Licence], dict[str, EncoderTerms]]:
    text = resources.files(__package__).joinpath("licences.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    licences = [Licence.from_mapping(table) for table in tables["licence"]]
    terms = [EncoderTerms.from_mapping(table) for table in tables["encoder"]]
    return (
        {_plain(name): known for known in licences for name in (known.name, *known.aliases)},
        {source.lower(): known for known in terms for source in known.sources},
    )
