"""Low-rank updates (LoRA) of an encoder's layers: which layers, and how they are put in. The one place that imports peft."""

import importlib.util
import re
from types import ModuleType
from typing import Any

import torch
from torch import nn

from spam.errors import EncoderError

from .network import TileNetwork

__all__ = ["add_lora", "lora_targets", "peft_package", "target_patterns"]

_STEM = re.compile(
    r"(^|\.)(\w*stem|patch_embed|embeds)(\.|$)"
)  # pixels to tokens: what all tissue shares stays as it is


def peft_package() -> ModuleType:
    """Import peft, which takes seconds and few runs ask for.

    Raises
    ------
    EncoderError
        If it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        message = "adapters need peft, which is not installed; get it with `pip install 'spam-st[lora]'`"
        raise EncoderError(message)
    import peft

    return peft


def lora_targets(network: TileNetwork) -> tuple[str, ...]:
    """Name the layers of the backbone that LoRA updates: its linear layers and pointwise (1 x 1) convolutions.

    They are read off the built network, so the rule holds for vision transformers (``qkv``, ``proj``, ``fc1``, ``fc2`` of
    every block), Swin and convolutional networks alike. Left out are the stem, layers of other types that merely
    derive from these two (their arithmetic is their own), and layers that a pass over one tile does not call: some
    networks use a layer's weight without calling it, and an update of it would never be seen.

    Raises
    ------
    EncoderError
        If the network has no such layer.
    """
    layers = {
        name: module
        for name, module in network.backbone.named_modules()
        if not _STEM.search(name) and (type(module) is nn.Linear or _is_pointwise(module))
    }
    called: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in layers.items()
    ]
    px = network.card.input_px
    was_training = network.training
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, px, px, device=network.mean.device))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    if not called:
        message = (
            f"encoder {network.card.name!r} has no linear layer and no pointwise convolution that LoRA could update; "
            "choose another encoder"
        )
        raise EncoderError(message)
    return tuple(name for name in layers if name in called)


def target_patterns(network: TileNetwork) -> tuple[str, ...]:
    r"""Write `lora_targets` as a few patterns, ``blocks\.\d+\.attn\.qkv`` for all blocks, that match these layers alone."""
    targets = lora_targets(network)
    patterns = tuple(
        dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\\\.)|^\d+(?=\\\.)", r"\\d+", re.escape(t)) for t in targets)
    )
    whole = re.compile("|".join(patterns))
    matched = {name for name, _ in network.backbone.named_modules() if whole.fullmatch(name)}
    return patterns if matched == set(targets) else tuple(map(re.escape, targets))


def _is_pointwise(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1


def add_lora(network: TileNetwork, *, r: int, alpha: float, dropout: float, targets: tuple[str, ...]) -> Any:
    """Put a fresh adapter into the backbone, in place, and freeze everything else; until trained it changes nothing.

    An updated layer computes ``W x + alpha / r * B A dropout(x)``; `A` is random (from PyTorch's generator), `B` zero.

    Source: Hu et al., LoRA, arXiv 2106.09685. Relative to the paper: every linear layer and pointwise convolution is
    updated, see `lora_targets`, not the attention's alone.

    Parameters
    ----------
    r, alpha, dropout
        Rank, scale and dropout of the updates.
    targets
        The layers, as `target_patterns` gives them.

    Returns
    -------
    PeftModel
        Peft's view of the backbone, which knows how to save the adapter.

    Raises
    ------
    EncoderError
        If peft is not installed.
    """
    peft = peft_package()
    config = peft.LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules="|".join(targets))
    network.requires_grad_(requires_grad=False)
    return peft.get_peft_model(network.backbone, config)
