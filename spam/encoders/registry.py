"""Encoders by name, as data in cards.toml; reading them needs neither torch nor timm."""

import dataclasses
import difflib
import fnmatch
import functools
import tomllib
from importlib import resources
from typing import Any

from spam.errors import EncoderError, shortened
from spam.schemas.encoder_card import EncoderCard

OPEN_SOURCES = ("timm:", "hf-hub:", "local:")
STAGES = "+stages"  # suffix of a name from these sources


def list_encoders(pattern: str = "*") -> tuple[EncoderCard, ...]:
    """List the known encoders whose name or an alias matches a shell pattern such as ``virchow*``."""
    return tuple(
        card
        for card in _cards()
        if any(fnmatch.fnmatchcase(name, pattern) for name in (card.name, *card.aliases))
    )


def encoder_card(name: str, revision: str | None = None) -> EncoderCard:
    """Look up an encoder by name or alias, or describe any model that timm can build.

    Besides the names of `list_encoders`: ``timm:<model>``, ``hf-hub:<organisation>/<name>`` (optionally
    ``@<revision>``) and ``local:<folder or file>``, whose cards are made from timm's configuration of the model.
    The suffix ``+stages`` selects the statistics of all stages of a convolutional network instead of its last layer.

    Parameters
    ----------
    revision
        Branch, tag or commit of its Hub repository, instead of the one pinned in the card.

    Raises
    ------
    EncoderError
        If the name is unknown (names the nearest ones), the model is not available, or it has no revisions.
    """
    for card in _cards():
        if name in (card.name, *card.aliases):
            _check_revision(name, revision, has_revisions=card.repository is not None)
            return dataclasses.replace(card, revision=revision or card.revision)
    if not name.startswith(OPEN_SOURCES):
        known = [n for card in _cards() for n in (card.name, *card.aliases)]
        near = " or ".join(map(repr, difflib.get_close_matches(name.lower(), known, n=3)))
        hint = f"Did you mean {near}? " if near else ""
        others = "timm:<model>, hf-hub:<organisation>/<name>, local:<folder>"
        message = (
            f"Unknown encoder {shortened(name)}. {hint}`spam encoders list` shows all; others are {others}."
        )
        raise EncoderError(message)
    has_stages, place, at = name.endswith(STAGES), name.removesuffix(STAGES), ""
    if place.startswith("hf-hub:"):
        place, _, at = place.partition("@")
    if at and revision and at != revision:
        message = f"Encoder {name!r} names another revision than --revision {revision!r}. Give one of them."
        raise EncoderError(message)
    _check_revision(name, revision, has_revisions=not place.startswith("local:"))
    # Imported late: torch and timm take seconds, and the names above need neither.
    from .timm_models import describe_timm_model

    card = describe_timm_model(place, revision or at or None, has_stages=has_stages)
    return dataclasses.replace(card, name=f"{card.name}{STAGES}") if has_stages else card


def _check_revision(name: str, revision: str | None, *, has_revisions: bool) -> None:
    if revision and not has_revisions:
        message = f"Encoder {name!r} has no revisions. Omit --revision {revision!r}."
        raise EncoderError(message)


@functools.cache
def _cards() -> tuple[EncoderCard, ...]:
    text = resources.files(__package__).joinpath("cards.toml").read_text(encoding="utf-8")
    cards = []
    for table in tomllib.loads(text)["encoder"]:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        values["kwargs"] = tuple(table.get("kwargs", {}).items())
        cards.append(EncoderCard(**values))
    return tuple(cards)
