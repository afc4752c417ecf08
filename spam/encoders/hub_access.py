"""Asking the Hub once, before a download that would try again and again."""

import contextlib

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError

__all__ = ["check_hub_access"]

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
ANSWER_WITHIN_S = 10.0


def check_hub_access(repository: str, *, revision: str | None = None) -> None:
    """Raise the Hub's error at once where a repository cannot be read: gated, not there, or no network.

    The Hub's own download tries six times, which takes 24 s a file without network. Where the weights are on
    this machine already, nobody is asked.

    Parameters
    ----------
    repository
        ``<organisation>/<name>``.
    revision
        Branch, tag or commit; None for the main branch.
    """
    is_here = any(
        isinstance(try_to_load_from_cache(repository, name, revision=revision), str) for name in WEIGHTS_FILES
    )
    if is_here or constants.is_offline_mode():
        return  # offline, the download itself fails at once
    # A repository without it is there all the same; timm has its own configuration of its models.
    with contextlib.suppress(RemoteEntryNotFoundError):
        get_hf_file_metadata(
            hf_hub_url(repository, "config.json", revision=revision), timeout=ANSWER_WITHIN_S
        )
