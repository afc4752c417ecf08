"""`spam encoders list`, `info` and `check`: the registry's cards, and whether their weights can be had."""

import dataclasses
from typing import TYPE_CHECKING, Any

from spam.progress import Progress

from .command import Command
from .options import Option

if TYPE_CHECKING:
    from spam.encoders.weight_access import CheckReport
    from spam.schemas.encoder_card import EncoderCard

__all__ = ["ENCODERS_CHECK", "ENCODERS_INFO", "ENCODERS_LIST"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Cards:
    cards: "tuple[EncoderCard, ...]"

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {"encoders": [card.to_mapping() for card in self.cards]}

    def summary(self) -> str:
        """Write one line per card."""
        rows = [("name", "dim", "px", "µm/px", "pooling", "gated", "licence", "source")]
        for card in self.cards:
            gated = "yes" if card.is_gated else "no"
            mpp = "-" if card.native_mpp is None else f"{card.native_mpp:g}"
            sizes = (str(card.dim), str(card.input_px), mpp)
            rows.append((card.name, *sizes, card.pooling, gated, card.licence, card.source))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    card: "EncoderCard"

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return self.card.to_mapping()

    def summary(self) -> str:
        """Write one line per field."""
        return "\n".join(f"{name}: {value}" for name, value in self.to_mapping().items())


def _list(values: dict[str, Any], progress: Progress) -> _Cards:
    from spam.encoders import encoder_card, list_encoders

    pattern = values.get("pattern", "*")
    # The error of a single name that is not there tells the nearest.
    return _Cards(cards=list_encoders(pattern) or (encoder_card(pattern),))


def _info(values: dict[str, Any], progress: Progress) -> _Card:
    from spam.encoders import encoder_card
    from spam.errors import ConfigError

    if "name" not in values:
        message = "the encoder's name is missing; `spam encoders list` shows them all"
        raise ConfigError(message)
    return _Card(card=encoder_card(values["name"]))


def _check(values: dict[str, Any], progress: Progress) -> "CheckReport":
    from spam.encoders import check_encoders

    return check_encoders(values.get("pattern", "*"))


ENCODERS_LIST = Command(
    name="list",
    does="List the encoders that --enc-name takes.",
    example="spam encoders list\nspam encoders list 'virchow*'",
    options=(
        Option(name="pattern", kind=str, default="*", help="names to list, with wildcards", is_argument=True),
    ),
    work=_list,
)
ENCODERS_INFO = Command(
    name="info",
    does="Show the card of one encoder: where its weights come from, its licence, how tiles are fed to it.",
    example="spam encoders info uni_v1",
    options=(Option(name="name", kind=str | None, default=None, help="name or alias", is_argument=True),),
    work=_info,
)
ENCODERS_CHECK = Command(
    name="check",
    does="Say of each encoder whether its weights are here, or would be given to you, and what to do if not. "
    "Nothing is downloaded.",
    example="spam encoders check\nspam encoders check uni_v1",
    options=(
        Option(
            name="pattern", kind=str, default="*", help="names to check, with wildcards", is_argument=True
        ),
    ),
    work=_check,
)
