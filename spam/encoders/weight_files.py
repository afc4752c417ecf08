"""Files of weights: found on this machine or fetched, and read without running anything that is in them."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

from .hub_access import WEIGHTS_FILES, fetch_file, weights_on_hub

__all__ = ["find_weights", "local_weights", "read_weights"]

PICKLES = (".bin", ".pth", ".pt")


def find_weights(card: EncoderCard) -> Path | None:
    """Find the file with the weights of a card, and fetch it if need be; None where only timm knows its address.

    Raises
    ------
    EncoderError
        If a local folder holds none.
    huggingface_hub.errors.HfHubHTTPError, OSError
        The Hub's own errors, see `explained`.
    """
    if card.source.startswith("local:"):
        return local_weights(card)
    file = weights_on_hub(card)
    return fetch_file(file) if file else None


def local_weights(card: EncoderCard) -> Path:
    """Find the weights of a card whose source is ``local:<folder or file>``.

    Raises
    ------
    EncoderError
        If there are none.
    """
    place = Path(card.source.removeprefix("local:"))
    names = (card.weights_file,) if card.weights_file else WEIGHTS_FILES
    for file in (place, *(place / name for name in names)):
        if file.is_file():
            return file
    message = (
        f"encoder {card.name!r}: {str(place)!r} holds no weights; expected {' or '.join(names)} beside config.json, or "
        "name the file itself: local:<file>"
    )
    raise EncoderError(message)


def read_weights(file: Path, *, encoder: str) -> dict[str, Any]:
    """Read a file of weights: safetensors, or a pickle that holds nothing but tensors and plain values.

    Parameters
    ----------
    file
        ``.safetensors``, ``.bin``, ``.pth`` or ``.pt``.
    encoder
        Encoder as the user knows it.

    Returns
    -------
    dict
        What the file holds: name -> tensor, or an envelope around it.

    Raises
    ------
    EncoderError
        If the file is damaged, empty, of another kind, or would run code if it was read.
    """
    content = _content(file, encoder)
    if not isinstance(content, dict) or not content:
        what = "no weights" if content == {} else f"a {type(content).__name__}"
        message = (
            f"encoder {encoder!r}: {file.name!r} holds {what}, expected named weights; take another file"
        )
        raise EncoderError(message)
    return content


def _content(file: Path, encoder: str) -> Any:
    if file.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(file)
        except (safetensors.SafetensorError, OSError) as error:
            raise EncoderError(_damaged(file, encoder, error)) from error
    if file.suffix not in PICKLES:
        message = (
            f"encoder {encoder!r}: cannot read weights from {file.name!r}; expected a file that ends in .safetensors, "
            f"{', '.join(PICKLES)}"
        )
        raise EncoderError(message)
    try:
        # Only archives can be mapped into memory, which saves a second copy of them.
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))  # what the file would import
        if asked is None:
            raise EncoderError(_damaged(file, encoder, error)) from error
        message = (
            f"encoder {encoder!r}: {file.name!r} holds more than weights, and reading it would run {asked[1]!r} out of it; "
            "ask its makers for a .safetensors file, or write one where you trust it, and give it as local:<file>"
        )
        raise EncoderError(message) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise EncoderError(_damaged(file, encoder, error)) from error


def _damaged(file: Path, encoder: str, error: Exception) -> str:
    return (
        f"encoder {encoder!r}: the weights {file.name!r} are damaged ({_first_line(error)}); delete {str(file)!r} and run "
        "the same command again"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
