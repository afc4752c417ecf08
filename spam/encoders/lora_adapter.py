"""LoRA adapters of encoders: adding one to a network, and writing, reading and merging adapter folders.

An adapter folder holds peft's ``adapter_config.json`` and ``adapter_model.safetensors``, which load by plain
``peft.PeftModel.from_pretrained(timm_model, folder)``, and ``spam_adapter.json``, which names the encoder. The only file
that imports peft.
"""

import dataclasses
import hashlib
import importlib.util
import json
import re
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import torch
from torch import nn

from spam.atomic import write_text
from spam.errors import EncoderError, MissingInputError, shortened
from spam.schemas.encoder_card import AdapterCard, EncoderCard

from .tile_network import TileNetwork, weights_digest

CARD, CONFIG, WEIGHTS = "spam_adapter.json", "adapter_config.json", "adapter_model.safetensors"
# Entries of peft's configuration that do not change the merged weights; all others are part of the digest.
_DESCRIPTIVE = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version"),
    *("revision", "task_type"),
)
# What peft raises on an adapter that was edited together with its digest; a warning says that weights are missing.
_PEFT_ERRORS = (
    ValueError, TypeError, LookupError, RuntimeError, AttributeError, ArithmeticError, re.error, safetensors.SafetensorError,
    UserWarning,
)  # fmt: skip
_STEM = re.compile(r"(^|\.)(\w*stem|patch_embed|embeds)(\.|$)")  # pixels to tokens, the same for all tissue


def peft_package() -> ModuleType:
    """Import peft, which takes seconds and few runs need.

    Raises
    ------
    EncoderError
        If it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        message = "Adapters need peft, which is not installed. Run: pip install 'spam-st[lora]'"
        raise EncoderError(message)
    import peft

    return peft


def lora_targets(network: TileNetwork) -> tuple[str, ...]:
    """Name the layers of the backbone that LoRA updates: linear layers and pointwise (1 x 1) convolutions.

    They are read from the built network, so the rule holds for vision transformers, Swin and convolutional networks. Left
    out are the stem, subclasses of the two layer types, and layers that a forward pass does not call (some networks use
    only a layer's weight, where an update would have no effect).

    Raises
    ------
    EncoderError
        If the network has no such layer.
    """
    layers = {
        name: module
        for name, module in network.backbone.named_modules()
        if not _STEM.search(name)
        and (
            type(module) is nn.Linear
            or (type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1)
        )
    }
    called: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in layers.items()
    ]
    px, was_training = network.card.input_px, network.training
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, px, px, device=network.mean.device))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    if not called:
        message = f"Encoder {network.card.name!r} has no layers that LoRA can update. Choose another encoder."
        raise EncoderError(message)
    return tuple(name for name in layers if name in called)


def add_lora(network: TileNetwork, *, r: int, alpha: float, dropout: float) -> Any:
    """Add a new adapter to the backbone, in place, and freeze everything else; untrained it changes nothing.

    An updated layer computes ``W x + alpha / r * B A dropout(x)``; `A` is random (PyTorch's generator), `B` zero.

    Source: Hu et al., LoRA, arXiv 2106.09685. Relative to the paper: every linear layer and pointwise convolution is
    updated (`lora_targets`), not only those of the attention.

    Returns
    -------
    PeftModel
        peft's view of the backbone, which can save the adapter.
    """
    peft = peft_package()
    targets = "|".join(map(re.escape, lora_targets(network)))  # peft matches a list by the ends of names
    config = peft.LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    network.requires_grad_(requires_grad=False)
    return peft.get_peft_model(network.backbone, config)


def write_adapter(folder: Path, adapted: Any, card: AdapterCard) -> AdapterCard:
    """Write an adapter folder, the card last, and return the card with its digest filled in.

    Parameters
    ----------
    adapted
        Result of `add_lora`, trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)  # without a card, a folder is not an adapter
    with tempfile.TemporaryDirectory(dir=folder, prefix=".adapter-") as staging:
        adapted.save_pretrained(staging)  # also writes a README of empty headings, which is dropped
        for name in (CONFIG, WEIGHTS):
            (Path(staging) / name).replace(folder / name)
    written = dataclasses.replace(card, adapter_sha256=_digest(folder))
    write_text(folder / CARD, json.dumps(written.to_mapping(), indent=1))
    return written


def read_adapter(folder: Path | str) -> AdapterCard:
    """Read the card of an adapter, and check the digest of its files.

    Raises
    ------
    MissingInputError
        If the folder or one of its three files does not exist.
    EncoderError
        If the files are damaged, changed or of another version.
    """
    folder = Path(folder)
    subject = f"--lora {str(folder)!r}"
    if missing := [name for name in (CARD, CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        message = f"{subject} is not an adapter, it lacks {', '.join(missing)}. Give the --save-dir of `spam adapt`."
        raise MissingInputError(message)
    try:
        card = AdapterCard.from_mapping(_read_object(folder / CARD))
        digest = _digest(folder)
    except (ValueError, TypeError, RecursionError) as error:
        message = f"{subject}: {CARD} or {CONFIG} is damaged ({error}). Copy the folder again, or repeat `spam adapt`."
        raise EncoderError(message) from error
    if digest != card.adapter_sha256:
        message = f"{subject}: the digest in {CARD} is not that of its files. Copy the whole folder again."
        raise EncoderError(message)
    return card


def adapted_card(card: EncoderCard, adapter: AdapterCard) -> EncoderCard:
    """Return the card of an encoder with a merged adapter: the same, named ``<encoder>-lora-<digest>``.

    Raises
    ------
    EncoderError
        If the adapter was trained for another encoder.
    """
    if card.name != adapter.encoder["name"]:
        trained = adapter.encoder["name"]
        message = f"--lora was trained for {trained!r}, not for {card.name!r}. Use --enc-name {trained}."
        raise EncoderError(message)
    return dataclasses.replace(card, name=adapter.encoder_name, aliases=())


def frozen_name(name: str) -> str | None:
    """Return the name of the encoder that an adapted one was made from; None for other names."""
    found = re.fullmatch(r"(.+)-lora-[0-9a-f]{8}", name)
    return None if found is None else found[1]


def merge_adapter(network: TileNetwork, folder: Path | str) -> TileNetwork:
    """Add an adapter's updates to the weights of its encoder, in place; the card gets the adapted name.

    Features equal those with a separate adapter except for rounding, at no extra cost.

    Raises
    ------
    MissingInputError
        As `read_adapter`.
    EncoderError
        If the adapter belongs to other weights or is damaged, or peft is missing.
    """
    folder = Path(folder)
    adapter = read_adapter(folder)
    card = adapted_card(network.card, adapter)
    needed, found = adapter.weights_sha256, weights_digest(network.backbone)
    if needed != found:
        message = f"--lora {str(folder)!r} fits weights {needed[:8]}, not {found[:8]}. See --revision."
        raise EncoderError(message)
    peft = peft_package()
    # Only what the digest covers reaches peft.
    known = {field.name for field in dataclasses.fields(peft.LoraConfig) if field.init}
    try:
        config = peft.LoraConfig(**{key: value for key, value in _shaping(folder).items() if key in known})
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = peft.PeftModel.from_pretrained(network.backbone, folder, config=config)
        network.backbone, network.card = adapted.merge_and_unload(), card
    except _PEFT_ERRORS as error:
        message = (
            f"--lora {str(folder)!r} does not fit the encoder: {shortened(str(error))}. Repeat `spam adapt`."
        )
        raise EncoderError(message) from error
    return network


def _read_object(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        message = f"{path.name} is not a JSON object"
        raise TypeError(message)
    return values


def _shaping(folder: Path) -> dict[str, Any]:
    """Read the entries of peft's configuration that change the merged weights."""
    config = _read_object(folder / CONFIG)
    return {key: value for key, value in config.items() if key not in _DESCRIPTIVE}


def _digest(folder: Path) -> str:
    """Hash the bytes of the weights, and the configuration that shapes the merge."""
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes())
    digest.update(json.dumps(_shaping(folder), sort_keys=True).encode())
    return digest.hexdigest()
