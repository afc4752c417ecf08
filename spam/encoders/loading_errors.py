"""What can go wrong when weights are fetched and loaded, told as what to click or type next."""

import contextlib
import urllib.error
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of its HTTP client
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from spam.errors import EncoderError

__all__ = ["explained"]


@contextlib.contextmanager
def explained(name: str, source: str) -> Iterator[None]:
    """Turn what timm and the Hub raise in the ``with`` block into an `EncoderError` that says what to do.

    Parameters
    ----------
    name
        Encoder as the user knows it.
    source
        Where its weights come from, see `EncoderCard.source`.
    """
    try:
        yield
    except EncoderError:
        raise
    # The order matters: each of the Hub's errors is a child of one further down.
    except GatedRepoError as error:
        raise EncoderError(_gated(name, source)) from error
    except RepositoryNotFoundError as error:
        raise EncoderError(_not_found(name, source)) from error
    except RevisionNotFoundError as error:
        message = f"encoder {name!r}: {_page(source)} has no such revision; check what follows the '@'"
        raise EncoderError(message) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise EncoderError(_unreachable(name, source)) from error
    except (EntryNotFoundError, HFValidationError) as error:
        message = (
            f"encoder {name!r}: {source!r} is no repository that timm can read ({_first_line(error)}); "
            "expected hf-hub:<organisation>/<name> with a config.json and a model.safetensors"
        )
        raise EncoderError(message) from error
    except (HTTPError, urllib.error.URLError, ConnectionError, TimeoutError) as error:
        message = f"{_unreachable(name, source)} ({_first_line(error)})"
        raise EncoderError(message) from error
    except (
        FileNotFoundError,
        RuntimeError,
        ValueError,
    ) as error:  # timm's own: no such file, weights do not fit
        message = (
            f"encoder {name!r} cannot be built from {source!r}: {error}; expected a timm model with "
            "all of its weights (a folder holds config.json and model.safetensors)"
        )
        raise EncoderError(message) from error


def _page(source: str) -> str:
    """Name the page of the repository where the source is one, else the source."""
    kind, _, place = source.partition(":")
    return f"https://huggingface.co/{place.partition('@')[0]}" if kind == "hf-hub" else repr(source)


def _gated(name: str, source: str) -> str:
    return (
        f"encoder {name!r} is gated: accept the licence at {_page(source)} with your Hugging Face account, "
        "then run `hf auth login` (or set HF_TOKEN to a token with read access) and try again"
    )


def _not_found(name: str, source: str) -> str:
    return (
        f"encoder {name!r}: the Hub shows no repository at {_page(source)}: it does not exist, or it is "
        "private and asks for a token; check the spelling, or run `hf auth login` (or set HF_TOKEN)"
    )


def _unreachable(name: str, source: str) -> str:
    if constants.is_offline_mode():
        return (
            f"encoder {name!r}: the weights of {source!r} are not on this machine, and HF_HUB_OFFLINE "
            "forbids to fetch them; unset it, or copy the Hub's cache here from a machine that has them"
        )
    return (
        f"encoder {name!r}: the weights of {source!r} are not on this machine, and {constants.ENDPOINT} "
        "cannot be reached; check network and proxy, or copy the Hub's cache from a machine that has them, or "
        "use the default encoder efficientnet_lite0, which needs none"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
