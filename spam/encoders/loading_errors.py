"""What can go wrong when weights are fetched and loaded, told as what to click or type next."""

import contextlib
import dataclasses
import urllib.error
from collections.abc import Iterator
from typing import Literal

from huggingface_hub import constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of its HTTP client
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from spam.errors import EncoderError

__all__ = ["ASKED_HUB", "Refusal", "Verdict", "explained", "refusal"]

Verdict = Literal[
    "needs token", "not granted", "token refused", "not found", "try later", "offline", "unreachable"
]

# What asking the Hub raises where the weights cannot be had.
ASKED_HUB = (
    HTTPError,  # the Hub's own errors are its children
    EntryNotFoundError,
    HFValidationError,
    ConnectionError,
    TimeoutError,
)
TOKENS = "https://huggingface.co/settings/tokens"
LOG_IN = "run `hf auth login` (or set HF_TOKEN to a token with read access)"

_TOO_MANY = 429  # of a machine's questions without a token, those of its neighbours behind one address are counted too
_MORE_OFTEN = f" (with a token you may ask more often: {LOG_IN})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why weights cannot be had, in a word and as what to do next (it goes on from the encoder's name)."""

    verdict: Verdict
    text: str


@contextlib.contextmanager
def explained(name: str, source: str, *, revision: str | None = None) -> Iterator[None]:
    """Turn what timm and the Hub raise in the ``with`` block into an `EncoderError` that says what to do.

    Parameters
    ----------
    name
        Encoder as the user knows it.
    source, revision
        Where its weights come from, see `EncoderCard`.
    """
    try:
        yield
    except EncoderError:
        raise
    except (*ASKED_HUB, urllib.error.URLError) as error:
        message = f"encoder {name!r}{refusal(error, source, revision=revision).text}"
        raise EncoderError(message) from error
    # timm's own: no such file, weights that do not fit, arguments that it does not know.
    except (FileNotFoundError, RuntimeError, ValueError, TypeError) as error:
        message = (
            f"encoder {name!r} cannot be built from {source!r}: {error}; expected a timm model with "
            "all of its weights (a folder holds config.json and model.safetensors)"
        )
        raise EncoderError(message) from error


def refusal(error: BaseException, source: str, *, revision: str | None = None) -> Refusal:
    """Say why the Hub did not give weights, and what helps.

    Parameters
    ----------
    error
        One of `ASKED_HUB`.
    source, revision
        What was asked for, see `EncoderCard`.
    """
    page = _page(source)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    # The order matters: each of the Hub's errors is a child of one further down.
    if isinstance(error, GatedRepoError):
        return _gated(page, is_known=status == 403)
    if isinstance(error, RepositoryNotFoundError):
        text = (
            f": the Hub shows no repository at {page}: it does not exist, or it is private and asks for a token; check the "
            f"spelling, or {LOG_IN}"
        )
        return Refusal(verdict="not found", text=text)
    if isinstance(error, RevisionNotFoundError):
        text = f": {page} has no revision {revision!r}; check --revision, or what follows the '@'"
        return Refusal(verdict="not found", text=text)
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return _unreachable(source)
    if isinstance(error, EntryNotFoundError | HFValidationError):
        text = (
            f": {source!r} is no repository that timm can read ({_first_line(error)}); expected "
            "hf-hub:<organisation>/<name> with a config.json and a model.safetensors or pytorch_model.bin"
        )
        return Refusal(verdict="not found", text=text)
    if isinstance(error, HfHubHTTPError) and status in (401, 403):
        said = error.server_message or _first_line(error)
        text = (
            f": the Hub refuses your token for {page} ({said}); make one with read access, also to public "
            f"gated repositories, at {TOKENS}, then {LOG_IN}"
        )
        return Refusal(verdict="token refused", text=text)
    if status is not None:
        text = (
            f": {constants.ENDPOINT} answered with status {status} when it was asked for {page} ({_first_line(error)}); try "
            f"again in a few minutes{_MORE_OFTEN if status == _TOO_MANY else ''}; https://status.huggingface.co says whether "
            "the Hub is well"
        )
        return Refusal(verdict="try later", text=text)
    unreachable = _unreachable(source)
    return dataclasses.replace(unreachable, text=f"{unreachable.text} ({_first_line(error)})")


def _page(source: str) -> str:
    """Name the page of the repository where the source is one, else the source."""
    kind, _, place = source.partition(":")
    return f"https://huggingface.co/{place}" if kind == "hf-hub" else repr(source)


def _gated(page: str, *, is_known: bool) -> Refusal:
    if is_known:
        text = (
            f" is gated, and the account of your token was not granted access: accept the licence at {page} with that "
            "account (where its makers decide themselves, wait for their answer), then try again; a fine-grained "
            f"token also needs access to public gated repositories, see {TOKENS}"
        )
        return Refusal(verdict="not granted", text=text)
    text = (
        f" is gated: accept the licence at {page} with your Hugging Face account, then {LOG_IN} and try again"
    )
    return Refusal(verdict="needs token", text=text)


def _unreachable(source: str) -> Refusal:
    if constants.is_offline_mode():
        text = (
            f": the weights of {source!r} are not on this machine, and HF_HUB_OFFLINE forbids to fetch them; unset it, or "
            "copy the Hub's cache here from a machine that has them"
        )
        return Refusal(verdict="offline", text=text)
    text = (
        f": the weights of {source!r} are not on this machine, and {constants.ENDPOINT} cannot be reached; check network and "
        "proxy, or copy the Hub's cache from a machine that has them, or use the default encoder, "
        "efficientnet_lite0_stages, which needs none"
    )
    return Refusal(verdict="unreachable", text=text)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
