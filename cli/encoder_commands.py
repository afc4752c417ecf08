"""The commands of `spam encoders ...`: the cards of the registry, and access to their weights."""

from typing import Any

from spam.errors import ConfigError
from spam.progress import Progress

from .command import Command, Shown
from .options import Option

_PATTERN = Option(name="pattern", kind=str, default="*", help="names, with wildcards", is_argument=True)
_NAME = Option(name="name", kind=str | None, default=None, help="name or alias", is_argument=True)


def _list(values: dict[str, Any], progress: Progress) -> Shown:
    from spam.encoders import encoder_card, list_encoders

    pattern = values.get("pattern", "*")
    cards = list_encoders(pattern) or (encoder_card(pattern),)  # its error names the nearest encoder
    rows = [("name", "dim", "px", "µm/px", "pooling", "gated", "licence", "source")]
    for card in cards:
        mpp = "-" if card.native_mpp is None else f"{card.native_mpp:g}"
        sizes = (card.name, str(card.dim), str(card.input_px), mpp)
        rows.append((*sizes, card.pooling, "yes" if card.is_gated else "no", card.licence, card.source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return Shown(values={"encoders": [card.to_mapping() for card in cards]}, text="\n".join(lines))


def _info(values: dict[str, Any], progress: Progress) -> Shown:
    from spam.encoders import encoder_card

    if "name" not in values:
        message = "The name of an encoder is missing. Run: spam encoders list"
        raise ConfigError(message)
    card = encoder_card(values["name"]).to_mapping()
    return Shown(values=card, text="\n".join(f"{name}: {value}" for name, value in card.items()))


def _check(values: dict[str, Any], progress: Progress) -> Any:
    from spam.encoders import check_encoders

    return check_encoders(values.get("pattern", "*"))


ENCODER_COMMANDS = (
    Command(
        name="list",
        does="List the encoders that --enc-name takes.",
        example="spam encoders list\nspam encoders list 'virchow*'",
        options=(_PATTERN,),
        work=_list,
    ),
    Command(
        name="info",
        does="Show the card of one encoder: source of the weights, licence, input size and normalisation.",
        example="spam encoders info uni_v1",
        options=(_NAME,),
        work=_info,
    ),
    Command(
        name="check",
        does="Check for each encoder whether its weights are installed or can be downloaded, without downloading them.",
        example="spam encoders check\nspam encoders check uni_v1",
        options=(_PATTERN,),
        work=_check,
    ),
)
