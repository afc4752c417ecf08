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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Registry:
    cards: tuple[EncoderCard, ...]
    planned: dict[str, tuple[str, ...]]  # name -> alternatives


def list_encoders(pattern: str = "*") -> tuple[EncoderCard, ...]:
    """List the known encoders whose name or alias matches a shell pattern such as ``virchow*``."""
    return tuple(
        card
        for card in _registry().cards
        if any(fnmatch.fnmatchcase(name, pattern) for name in (card.name, *card.aliases))
    )


def encoder_card(name: str) -> EncoderCard:
    """Look up an encoder by name or alias, or describe a model that timm knows how to build.

    Besides the names of `list_encoders`: ``timm:<model>``, ``hf-hub:<organisation>/<name>`` and
    ``local:<folder>``, whose cards are made from timm's own configuration of the model. The first builds
    on timm's list, the second fetches the repository's ``config.json``, the third reads it from the folder.

    Raises
    ------
    EncoderError
        If the name is unknown (names the nearest ones), is not supported yet (names alternatives), or names a
        model that cannot be reached.
    """
    registry = _registry()
    for card in registry.cards:
        if name in (card.name, *card.aliases):
            return card
    if name.startswith(OPEN_SOURCES):
        # timm and torch take seconds to import, and the names above need neither.
        from .timm_models import describe_timm_model

        return describe_timm_model(name)
    if name in registry.planned:
        message = (
            f"encoder {name!r} is not supported yet in this version: its published weights do not load into "
            f"a timm model as they are; use one of {', '.join(registry.planned[name])}, or the default "
            "efficientnet_lite0"
        )
        raise EncoderError(message)
    known = sorted(n for card in registry.cards for n in (card.name, *card.aliases))
    near = difflib.get_close_matches(name.lower(), known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    message = (
        f"there is no encoder {name!r}; {hint}known are {', '.join(card.name for card in registry.cards)}; "
        "any other model is asked for as timm:<model>, hf-hub:<organisation>/<name> or local:<folder>"
    )
    raise EncoderError(message)


@functools.cache
def _registry() -> _Registry:
    text = resources.files(__package__).joinpath("cards.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    cards = []
    for table in tables["encoder"]:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
        }
        values["kwargs"] = tuple(table.get("kwargs", {}).items())
        cards.append(EncoderCard(**values))
    planned = {table["name"]: tuple(table["alternatives"]) for table in tables["planned"]}
    return _Registry(cards=tuple(cards), planned=planned)
