"""Whether the weights of encoders can be had: what is here, what the Hub would give, and what to do where it would not."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants, get_token

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

from .hub_access import ask_hub, cached_file, weights_on_hub
from .loading_errors import ASKED_HUB, Verdict, refusal
from .package_weights import package_weights_file
from .registry import OPEN_SOURCES, encoder_card, list_encoders
from .weight_files import local_weights

__all__ = ["CheckReport", "EncoderCheck", "check_encoders", "require_reachable"]

Access = Literal["here", "granted", "open", "unknown", Verdict]

_SILENT: tuple[Verdict, ...] = ("offline", "unreachable")  # what is so of one encoder is so of all


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCheck:
    """Whether the weights of one encoder can be had.

    Attributes
    ----------
    name, source, revision, is_gated
        As in its card.
    access
        ``here``: the weights are on this machine; ``granted``: the gated repository gives them to this token;
        ``open``: the Hub gives them to everybody; ``unknown``: only timm knows their address; else why they cannot be had.
    cached_bytes
        Bytes of the weights on this machine; None if they are not here.
    download_bytes
        Bytes of the download that is still to be made; None if there is none, or the size is not known.
    advice
        What to click or type next; empty where there is nothing to do, or the same as for the encoder before.
    """

    name: str
    source: str
    revision: str | None
    is_gated: bool
    access: Access
    cached_bytes: int | None = None
    download_bytes: int | None = None
    advice: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What `check_encoders` found.

    Attributes
    ----------
    encoders
        One entry per encoder.
    has_token
        Whether a token of the Hub is on this machine.
    is_offline
        Whether HF_HUB_OFFLINE forbids to ask the Hub.
    endpoint
        Address of the Hub.
    """

    encoders: tuple[EncoderCheck, ...]
    has_token: bool
    is_offline: bool
    endpoint: str

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return dataclasses.asdict(self) | {"encoders": [dataclasses.asdict(one) for one in self.encoders]}

    def summary(self) -> str:
        """Write who asks, one line per encoder, and below what to do about those that cannot be had."""
        token = "there is one" if self.has_token else "none here; `hf auth login`, or set HF_TOKEN"
        asked = "not asked, since HF_HUB_OFFLINE is set" if self.is_offline else self.endpoint
        rows = [("name", "access", "here", "download")]
        rows += [
            (one.name, one.access, _size(one.cached_bytes), _size(one.download_bytes))
            for one in self.encoders
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        advice = [f"- encoder {one.name!r}{one.advice}" for one in self.encoders if one.advice]
        return "\n".join([f"token: {token}", f"Hub: {asked}", *lines, *advice])


def check_encoders(pattern: str = "*") -> CheckReport:
    """Check for each encoder whether its weights are here, or else whether the Hub would give them.

    Nothing is downloaded: the Hub is asked for the size of each file, with the token of this machine if there is
    one, and not at all where it is set offline. Once it cannot be reached, it is not asked again, and what to do about
    that is said of the first encoder alone.

    Parameters
    ----------
    pattern
        Shell pattern of names and aliases, such as ``virchow*``; or one ``timm:``, ``hf-hub:`` or ``local:`` name.

    Raises
    ------
    EncoderError
        If the pattern fits no encoder.
    """
    cards = (encoder_card(pattern),) if pattern.startswith(OPEN_SOURCES) else list_encoders(pattern)
    if not cards:
        cards = (encoder_card(pattern),)  # its error names the nearest
    checks: list[EncoderCheck] = []
    silence: Verdict | None = None
    for card in cards:
        checks.append(_check(card, silence=silence))
        silence = next((verdict for verdict in _SILENT if verdict == checks[-1].access), silence)
    return CheckReport(
        encoders=tuple(checks),
        has_token=get_token() is not None,
        is_offline=constants.is_offline_mode(),
        endpoint=constants.ENDPOINT,
    )


def require_reachable(card: EncoderCard) -> None:
    """Make sure within seconds that the weights of a card can be had, before any work is done; nothing is downloaded.

    The Hub is asked only if they are not on this machine.

    Raises
    ------
    EncoderError
        If they cannot, with what to click or type next, in the words of `check_encoders`.
    """
    found = _check(card)
    if found.advice:
        message = f"encoder {card.name!r}{found.advice}"
        raise EncoderError(message)


def _check(card: EncoderCard, *, silence: Verdict | None = None) -> EncoderCheck:
    """Check one encoder; with `silence`, why no encoder's weights can be asked for, do not ask."""
    found = EncoderCheck(
        name=card.name, source=card.source, revision=card.revision, is_gated=card.is_gated, access="here"
    )
    kind, _, place = card.source.partition(":")
    if kind == "package":
        return _here(found, package_weights_file(place))
    if kind == "local":
        return _here(found, local_weights(card))
    file = weights_on_hub(card)
    if file is None:
        return dataclasses.replace(found, access="unknown")
    here = cached_file(file)
    if here is not None:
        return _here(found, here)
    if silence is not None:
        return dataclasses.replace(found, access=silence)
    try:
        _, size = ask_hub(file)
    except ASKED_HUB as error:
        why = refusal(error, card.source, revision=card.revision)
        return dataclasses.replace(found, access=why.verdict, advice=why.text)
    return dataclasses.replace(found, access="granted" if card.is_gated else "open", download_bytes=size)


def _here(found: EncoderCheck, file: Path) -> EncoderCheck:
    return dataclasses.replace(found, cached_bytes=file.stat().st_size)


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "-"
    amount = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
