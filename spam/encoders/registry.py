"""The encoders that can be asked for by name, as data: reading them needs neither torch nor timm."""

import dataclasses
import difflib
import fnmatch
import functools
import tomllib
from importlib import resources
from typing import Any

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

__all__ = ["encoder_card", "list_encoders"]

OPEN_SOURCES = ("timm:", "hf-hub:", "local:")
STAGES = "+stages"  # behind a name of these sources


def list_encoders(pattern: str = "*") -> tuple[EncoderCard, ...]:
    """List the known encoders whose name or alias matches a shell pattern such as ``virchow*``."""
    return tuple(
        card
        for card in _cards()
        if any(fnmatch.fnmatchcase(name, pattern) for name in (card.name, *card.aliases))
    )


def encoder_card(name: str, revision: str | None = None) -> EncoderCard:
    """Look up an encoder by name or alias, or describe a model that timm knows how to build.

    Besides the names of `list_encoders`: ``timm:<model>``, ``hf-hub:<organisation>/<name>`` (with ``@<revision>`` if
    need be) and ``local:<folder or file>``, whose cards are made from timm's own configuration of the model. The first
    builds on timm's list, the second fetches the repository's ``config.json``, the third reads it from the folder,
    or from beside the file. ``+stages`` behind any of these asks for statistics of all stages of a convolutional network,
    as the default encoder's features are, in place of its last layer.

    Parameters
    ----------
    name
        Name of the encoder.
    revision
        Branch, tag or commit of its repository on the Hub, in place of the one that its card pins.

    Raises
    ------
    EncoderError
        If the name is unknown (names the nearest ones), names a model that cannot be reached, or a revision is asked
        for where there are none.
    """
    name, _, at = name.partition("@") if name.startswith("hf-hub:") else (name, "", "")
    has_stages = name.startswith(OPEN_SOURCES) and STAGES in (name[-len(STAGES) :], at[-len(STAGES) :])
    if has_stages:  # before or behind the revision
        name, at = name.removesuffix(STAGES), at.removesuffix(STAGES)
    if at and revision and at != revision:
        message = (
            f"encoder '{name}@{at}' names its revision, and so does --revision {revision!r}; give one of them"
        )
        raise EncoderError(message)
    revision = revision or at or None
    card = _known_card(name)
    if card is None and name.startswith(OPEN_SOURCES):
        # timm and torch take seconds to import, and the names above need neither.
        from .describing import describe_timm_model

        return describe_timm_model(name, revision, has_stages=has_stages)
    if card is None:
        raise EncoderError(_unknown(name))
    if revision is None:
        return card
    if not card.source.startswith("hf-hub:"):
        message = (
            f"encoder {card.name!r} comes from {card.source!r}, which has no revisions; leave out "
            f"--revision {revision!r}"
        )
        raise EncoderError(message)
    return dataclasses.replace(card, revision=revision)


def _known_card(name: str) -> EncoderCard | None:
    return next((card for card in _cards() if name in (card.name, *card.aliases)), None)


def _unknown(name: str) -> str:
    known = sorted(n for card in _cards() for n in (card.name, *card.aliases))
    near = difflib.get_close_matches(name.lower(), known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return (
        f"there is no encoder {name!r}; {hint}known are {', '.join(card.name for card in _cards())}; "
        "any other model is asked for as timm:<model>, hf-hub:<organisation>/<name> or local:<folder or file>"
    )


@functools.cache
def _cards() -> tuple[EncoderCard, ...]:
    text = resources.files(__package__).joinpath("cards.toml").read_text(encoding="utf-8")
    cards = []
    for table in tomllib.loads(text)["encoder"]:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
        }
        values["kwargs"] = tuple(table.get("kwargs", {}).items())
        cards.append(EncoderCard(**values))
    return tuple(cards)
