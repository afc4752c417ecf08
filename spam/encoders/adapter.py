"""Adapter folders: the two files of peft and a card beside them; and encoders with an adapter merged into their weights.

``adapter_config.json`` and ``adapter_model.safetensors`` are peft's own, and load by plain
``peft.PeftModel.from_pretrained(timm_model, folder)``; ``spam_adapter.json`` says what they are an adapter of.
"""

import dataclasses
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch

from spam.atomic import replacing, write_text
from spam.errors import EncoderError, MissingInputError
from spam.schemas.adapter_card import ADAPTER_FORMAT, ADAPTER_VERSION, AdapterCard
from spam.schemas.encoder_card import EncoderCard

from .lora import peft_package
from .network import TileNetwork, weights_digest

__all__ = ["adapted_card", "frozen_name", "merge_adapter", "read_adapter", "write_adapter"]

CARD, CONFIG, WEIGHTS = "spam_adapter.json", "adapter_config.json", "adapter_model.safetensors"
_ONLY_DESCRIBE = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "peft_version",
    "revision",
    "task_type",
)
"""Entries of peft's configuration that change nothing of the merged weights; all others are part of the digest."""


def write_adapter(folder: Path, adapted: Any, card: AdapterCard) -> AdapterCard:
    """Write an adapter; each file is whole or not there, and the card comes last.

    Parameters
    ----------
    folder
        Where to; made if it is not there.
    adapted
        What `add_lora` returned, trained.
    card
        What is said of it; its digest is filled in here.

    Returns
    -------
    AdapterCard
        The card as written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)  # peft's files without a card are no adapter of ours
    with tempfile.TemporaryDirectory(dir=folder, prefix=".adapter-") as staging:
        adapted.save_pretrained(staging)  # with a README of empty headings, which stays behind
        for name in (CONFIG, WEIGHTS):
            with replacing(folder / name) as partial:
                (Path(staging) / name).replace(partial)
    written = dataclasses.replace(card, adapter_sha256=_digest(folder))
    write_text(folder / CARD, json.dumps(written.to_mapping(), indent=1))
    return written


def read_adapter(folder: Path) -> AdapterCard:
    """Read the card of an adapter, and check that the files beside it are those that it was written with.

    Raises
    ------
    MissingInputError
        If there is no such folder, or it lacks one of the three files.
    EncoderError
        If the files are damaged, changed, or of a newer version.
    """
    missing = [name for name in (CARD, CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        message = (
            f"--lora {str(folder)!r} is no adapter of `spam adapt`: {', '.join(missing)} not there; give the --save-dir of "
            "a finished `spam adapt`"
        )
        raise MissingInputError(message)
    try:
        values = json.loads((folder / CARD).read_text(encoding="utf-8"))
        is_ours = values["format"] == ADAPTER_FORMAT
        if is_ours and values["version"] > ADAPTER_VERSION:
            message = (
                f"--lora {str(folder)!r} is an adapter of version {values['version']}; this SPAM reads up to version "
                f"{ADAPTER_VERSION}: update it with `pip install --upgrade spam-st`"
            )
            raise EncoderError(message)
        card = AdapterCard.from_mapping(values)
        digest = _digest(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, EncoderError):
            raise
        message = (
            f"--lora {str(folder)!r}: {CARD} or {CONFIG} is damaged ({error}); copy or make the adapter again"
        )
        raise EncoderError(message) from error
    if not is_ours or digest != card.adapter_sha256:
        message = (
            f"--lora {str(folder)!r}: the adapter's files (digest {digest[:8]}…) are not those that {CARD} was written with "
            f"({card.adapter_sha256[:8]}…); copy the folder again, all of its files together, or run `spam adapt` again"
        )
        raise EncoderError(message)
    return card


def adapted_card(card: EncoderCard, adapter: AdapterCard) -> EncoderCard:
    """Describe an encoder with an adapter merged into it: the same but for its name, ``<encoder>-lora-<digest>``.

    Raises
    ------
    EncoderError
        If the adapter was trained for another encoder.
    """
    if card.name != adapter.encoder["name"]:
        message = (
            f"the adapter was trained for encoder {adapter.encoder['name']!r}, not for {card.name!r}; give "
            f"--enc-name {adapter.encoder['name']}, or another --lora"
        )
        raise EncoderError(message)
    return dataclasses.replace(card, name=adapter.encoder_name, aliases=())


def frozen_name(name: str) -> str | None:
    """Name the encoder that an adapted one, as `adapted_card` names it, was made from; None for any other name."""
    found = re.fullmatch(r"(.+)-lora-[0-9a-f]{8}", name)
    return None if found is None else found[1]


def merge_adapter(network: TileNetwork, folder: Path) -> TileNetwork:
    """Add the updates of an adapter to the weights of the encoder that it was trained for, in place.

    Features are those of the network with its adapter apart, but for rounding, and cost no more than frozen ones.

    Returns
    -------
    TileNetwork
        The network, whose card has the name of the adapted encoder.

    Raises
    ------
    MissingInputError
        As `read_adapter`.
    EncoderError
        If the adapter was trained on other weights, does not fit the network, or is damaged; or peft is missing.
    """
    adapter = read_adapter(folder)
    card = adapted_card(network.card, adapter)
    digest = weights_digest(network.backbone)
    if digest != adapter.weights_sha256:
        message = (
            f"--lora {str(folder)!r} was trained on encoder {adapter.encoder['name']!r} with weights "
            f"{adapter.weights_sha256[:8]}…, and these are {digest[:8]}…; use the weights that it was trained on (see "
            "--revision), or run `spam adapt` again with these"
        )
        raise EncoderError(message)
    peft = peft_package()
    adapted = peft.get_peft_model(network.backbone, peft.LoraConfig.from_pretrained(folder))
    expected = peft.get_peft_model_state_dict(adapted)
    try:
        state = safetensors.torch.load_file(folder / WEIGHTS)
    except safetensors.SafetensorError as error:
        message = f"--lora {str(folder)!r}: {WEIGHTS} is damaged ({error}); copy or make the adapter again"
        raise EncoderError(message) from error
    shapes = [{name: tuple(value.shape) for name, value in one.items()} for one in (expected, state)]
    if shapes[0] != shapes[1]:
        other = sorted(dict(shapes[0].items() ^ shapes[1].items()))
        message = (
            f"--lora {str(folder)!r}: {len(other)} of its arrays do not fit encoder {network.card.name!r}, first "
            f"{other[0]!r}; peft or timm builds the network in another way than when the adapter was made (see 'software' "
            f"in {CARD}): use those versions, or run `spam adapt` again"
        )
        raise EncoderError(message)
    peft.set_peft_model_state_dict(adapted, state)
    network.backbone = adapted.merge_and_unload()
    network.card = card
    return network


def _digest(folder: Path) -> str:
    """Hash the weights' file, byte by byte, and what of the configuration shapes the merge."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    shaping = {key: value for key, value in config.items() if key not in _ONLY_DESCRIBE}
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes())
    digest.update(json.dumps(shaping, sort_keys=True).encode())
    return digest.hexdigest()
