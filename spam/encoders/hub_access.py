"""Where the weights of a card lie: in a package, in a folder, on this machine's copy of the Hub, or on the Hub itself."""

import dataclasses
from pathlib import Path

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError

from spam.schemas.encoder_card import EncoderCard

__all__ = ["WEIGHTS_FILES", "HubFile", "ask_hub", "cached_file", "fetch_file", "weights_on_hub"]

WEIGHTS_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
)  # what timm and transformers look for, the safe one first
ANSWER_WITHIN_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a repository, under the first of several names that is there.

    Attributes
    ----------
    repository
        ``<organisation>/<name>``.
    revision
        Branch, tag or commit; None for the main branch.
    names
        Its possible names.
    """

    repository: str
    revision: str | None
    names: tuple[str, ...]


def weights_on_hub(card: EncoderCard) -> HubFile | None:
    """Name the file on the Hub that holds the weights of a card; None where they come from somewhere else."""
    kind, _, place = card.source.partition(":")
    if kind == "timm":
        # Only who has asked timm for this card has one of this kind: timm is imported already.
        from .describing import timm_repository

        place = timm_repository(place) or ""
    if kind not in ("hf-hub", "timm") or not place:
        return None
    names = (card.weights_file,) if card.weights_file else WEIGHTS_FILES
    return HubFile(repository=place, revision=card.revision, names=names)


def cached_file(file: HubFile) -> Path | None:
    """Find a file in this machine's copy of the Hub; None if it was never fetched, or in another revision."""
    for name in file.names:
        found = try_to_load_from_cache(file.repository, name, revision=file.revision)
        if isinstance(found, str):
            return Path(found)
    return None


def ask_hub(file: HubFile) -> tuple[str, int | None]:
    """Ask the Hub once for a file, which a download would do again and again: no network takes it 24 s a file.

    Returns
    -------
    tuple
        Its name and its size in bytes, where the Hub says so.

    Raises
    ------
    huggingface_hub.errors.HfHubHTTPError, OSError
        The Hub's own errors, see `explained`.
    """
    for i, name in enumerate(file.names):
        url = hf_hub_url(file.repository, name, revision=file.revision)
        try:
            answer = get_hf_file_metadata(
                url, timeout=ANSWER_WITHIN_S
            )  # with the token that a download takes
        except EntryNotFoundError:
            if i + 1 == len(file.names):
                raise
            continue
        if answer.etag is None and answer.commit_hash is None:  # as a proxy's page does that asks to log in
            message = f"what answers at {constants.ENDPOINT} is not the Hub"
            raise ConnectionError(message)
        return name, answer.size
    message = f"{file.repository}: no name of a file was given"
    raise ValueError(message)


def fetch_file(file: HubFile) -> Path:
    """Find a file on this machine, or fetch it; what is here already is taken as it is, and nobody is asked.

    Raises
    ------
    huggingface_hub.errors.HfHubHTTPError, OSError
        The Hub's own errors, see `explained`.
    """
    here = cached_file(file)
    if here is not None:
        return here
    # Offline, the download itself fails at once.
    name = file.names[0] if constants.is_offline_mode() else ask_hub(file)[0]
    return Path(hf_hub_download(file.repository, name, revision=file.revision))
