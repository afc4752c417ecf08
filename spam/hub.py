"""Errors of the Hugging Face Hub, as messages with the next step.

Used for the weights of encoders and for stores that are pushed, pulled or read from the Hub. Import this module where
the Hub is used: it imports huggingface_hub, which `import spam` does not.
"""

import re
from typing import Literal, NamedTuple

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

HUB_ERRORS = (  # everything that a request to the Hub raises
    HTTPError,  # parent of the Hub's HTTP errors
    EntryNotFoundError,
    HFValidationError,
    LocalTokenNotFoundError,
    ConnectionError,
    TimeoutError,
)
_LOG_IN = "run `hf auth login` (or set HF_TOKEN)"
_TOKENS = "https://huggingface.co/settings/tokens"
_COPY = "copy the Hub cache (HF_HOME) from another machine."

Verdict = Literal[
    "needs token", "not granted", "token refused", "not found", "try later", "offline", "unreachable"
]


class HubRefusal(NamedTuple):
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
    detail = f" ({_line(getattr(error, 'server_message', None) or str(error), 0)})"
    accept = f"The repository is gated. Accept the licence at {page}"
    # Order matters: each of these classes is a child of a later one.
    match error:
        case GatedRepoError() if status == 403:
            grant = f"{accept} (some owners approve by hand). A fine-grained token needs access to gated repositories"
            return HubRefusal("not granted", f"{grant}: {_TOKENS}.")
        case GatedRepoError():
            return HubRefusal("needs token", f"{accept}, then {_LOG_IN}.")
        case RepositoryNotFoundError():
            advice = f"No repository at {page}, or it is private. Check the spelling, or {_LOG_IN}."
            return HubRefusal("not found", advice)
        case RevisionNotFoundError():
            advice = f"{page} has no revision {revision!r}. Check --revision, or the part after '@'."
            return HubRefusal("not found", advice)
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            detail = ""
        case EntryNotFoundError() | HFValidationError():
            return HubRefusal("not found", f"Not found in {page} ({_line(str(error), -1)}).")
        case LocalTokenNotFoundError():
            return HubRefusal("needs token", f"This needs a token of the Hub: {_LOG_IN}.")
    if status in (401, 403):
        advice = f"The Hub refused your token for {page}{detail}. Create one with access at {_TOKENS}, then {_LOG_IN}."
        return HubRefusal("token refused", advice)
    if status is not None:
        limit = f" The rate limit is higher with a token: {_LOG_IN}." if status == 429 else ""
        busy = f"{constants.ENDPOINT} answered with status {status} for {page}{detail}. Try again in a few minutes."
        return HubRefusal("try later", f"{busy}{limit} Status of the Hub: https://status.huggingface.co")
    uncached = f"{page} is not in the local cache, and"
    if constants.is_offline_mode():
        return HubRefusal("offline", f"{uncached} HF_HUB_OFFLINE is set. Unset it, or {_COPY}")
    away = f"{uncached} {constants.ENDPOINT} cannot be reached{detail}. Check network and proxy, or {_COPY}"
    return HubRefusal("unreachable", away)


def _line(text: str, number: int) -> str:
    """Return one line of a message, without tokens and signed queries."""
    line = (text.strip().splitlines() or [""])[number]
    return re.sub(r"\?[^\s'\"]+|\bhf_\w+|Bearer \S+", "…", line)[:300]
