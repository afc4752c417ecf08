"""Errors of the Hugging Face Hub, as messages with the next step.

Used for the weights of encoders and for stores that are pushed, pulled or read from the Hub. Import this module where
the Hub is used: it imports huggingface_hub, which `import spam` does not.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Literal

from huggingface_hub import constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is re-exported from httpx
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import SpamError

HUB_ERRORS = (  # everything that a request to the Hub raises
    HTTPError,  # parent of the Hub's HTTP errors
    EntryNotFoundError,
    HFValidationError,
    LocalTokenNotFoundError,
    ConnectionError,
    TimeoutError,
)
LOG_IN = "run `hf auth login` (or set HF_TOKEN)"
TOKENS = "https://huggingface.co/settings/tokens"

Verdict = Literal[
    "needs token", "not granted", "token refused", "not found", "try later", "offline", "unreachable"
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HubRefusal:
    """Why the Hub did not deliver: a keyword, and advice in full sentences."""

    verdict: Verdict
    advice: str


def hub_refusal(error: BaseException, repository: str, *, revision: str | None = None) -> HubRefusal:
    """Explain an error of the Hub.

    Parameters
    ----------
    error
        One of `HUB_ERRORS`, or an error raised from one (fsspec wraps them).
    repository
        ``org/name`` of a model, or ``datasets/org/name``.
    revision
        Revision that was requested.
    """
    while not isinstance(error, HUB_ERRORS) and (inner := error.__cause__ or error.__context__):
        error = inner
    page = f"https://huggingface.co/{repository}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    detail = f"({_first_line(error)})"
    # Order matters: each of these classes is a child of a later one.
    match error:
        case GatedRepoError() if status == 403:
            return HubRefusal(
                verdict="not granted",
                advice=f"The repository is gated, and your account has no access yet. Accept the licence at {page} (some "
                "owners approve by hand). A fine-grained token also needs access to public gated repositories, "
                f"see {TOKENS}.",
            )
        case GatedRepoError():
            return HubRefusal(
                verdict="needs token",
                advice=f"The repository is gated. Accept the licence at {page}, then {LOG_IN}.",
            )
        case RepositoryNotFoundError():
            return HubRefusal(
                verdict="not found",
                advice=f"No repository at {page}, or it is private. Check the spelling, or {LOG_IN}.",
            )
        case RevisionNotFoundError():
            return HubRefusal(
                verdict="not found",
                advice=f"{page} has no revision {revision!r}. Check --revision, or the part after '@'.",
            )
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return _unreachable(page, "")
        case EntryNotFoundError() | HFValidationError():
            return HubRefusal(verdict="not found", advice=f"Not found in {page} ({_line(str(error), -1)}).")
        case LocalTokenNotFoundError():
            return HubRefusal(verdict="needs token", advice=f"This needs a token of the Hub: {LOG_IN}.")
    if status in (401, 403):
        return HubRefusal(
            verdict="token refused",
            advice=f"The Hub refused your token for {page} {detail}. Create one with the required access at {TOKENS}, then "
            f"{LOG_IN}.",
        )
    if status is not None:
        limit = f" The rate limit is higher with a token: {LOG_IN}." if status == 429 else ""
        return HubRefusal(
            verdict="try later",
            advice=f"{constants.ENDPOINT} answered with status {status} for {page} {detail}. Try again in a few minutes."
            f"{limit} Status of the Hub: https://status.huggingface.co",
        )
    return _unreachable(page, f" {detail}")


@contextlib.contextmanager
def explained_hub_errors(
    subject: str, repository: str, *, revision: str | None = None, error_type: type[SpamError]
) -> Iterator[None]:
    """Raise errors of the Hub from the ``with`` block as ``error_type("<subject>: <advice>")``."""
    try:
        yield
    except HUB_ERRORS as error:
        refusal = hub_refusal(error, repository, revision=revision)
        message = f"{subject}: {refusal.advice}"
        raise error_type(message) from error


def _unreachable(page: str, detail: str) -> HubRefusal:
    if constants.is_offline_mode():
        return HubRefusal(
            verdict="offline",
            advice=f"{page} is not in the local cache, and HF_HUB_OFFLINE is set. Unset it, or copy the Hub cache (HF_HOME) "
            "from another machine.",
        )
    return HubRefusal(
        verdict="unreachable",
        advice=f"{page} is not in the local cache, and {constants.ENDPOINT} cannot be reached{detail}. Check network and "
        "proxy, or copy the Hub cache (HF_HOME) from another machine.",
    )


def _first_line(error: BaseException) -> str:
    return _line((error.server_message if isinstance(error, HfHubHTTPError) else None) or str(error), 0)


def _line(text: str, number: int) -> str:
    """Return one line of a message, without tokens and signed queries."""
    line = (text.strip().splitlines() or [""])[number]
    return re.sub(r"\?[^\s'\"]+|\bhf_\w+|Bearer \S+", "…", line)[:300]
