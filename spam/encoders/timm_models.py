"""Building networks with timm, and describing those without a card; the one place that imports timm."""

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.layers.mlp import SwiGLUPacked
from torch import nn

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

from .hub_access import check_hub_access
from .loading_errors import explained
from .package_weights import read_package_weights, rename_by_position

__all__ = ["build_timm_model", "describe_timm_model"]

LAYERS = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}  # layers that a card names


def build_timm_model(card: EncoderCard) -> nn.Module:
    """Build the network of a card with its pretrained weights, and without its classifier.

    Every weight of the network is loaded and none of the file is left over, so nothing stays random.

    Raises
    ------
    EncoderError
        If the weights cannot be reached or do not fit the network.
    """
    kind, _, place = card.source.partition(":")
    kwargs: dict[str, Any] = {
        key: LAYERS.get(value, value) if isinstance(value, str) else value for key, value in card.kwargs
    }
    model: Any
    with explained(card.name, card.source):
        if kind == "package":
            model = timm.create_model(card.architecture or card.name, **kwargs)
            weights = rename_by_position(read_package_weights(place), model.state_dict())
            model.load_state_dict(weights)
        else:
            source = f"{card.source}@{card.revision}" if card.revision else card.source
            _check_reachable(source)
            # With the classifier, which is dropped below: without it timm would load the rest unchecked.
            model = timm.create_model(_timm_name(source), pretrained=True, **kwargs)
    if model.num_classes:
        model.reset_classifier(0)
    built: nn.Module = model
    return built


def describe_timm_model(name: str) -> EncoderCard:
    """Make the card of ``timm:<model>``, ``hf-hub:<organisation>/<name>`` or ``local:<folder>``.

    Sizes, channel statistics and licence are those of timm's configuration of the pretrained weights. A
    folder is named in the card by its last part alone, so that no store carries a path of the machine that
    wrote it.

    Raises
    ------
    EncoderError
        If there is no such model, it has no pretrained weights, or its configuration cannot be reached or
        used.
    """
    kind, _, place = name.partition(":")
    if kind == "timm" and not timm.is_model(place):
        near = difflib.get_close_matches(place, timm.list_models(pretrained=True), n=3)
        hint = f"did you mean {' or '.join(f'timm:{m}' for m in near)}?" if near else "see timm.list_models()"
        message = f"timm {timm.__version__} has no model {place!r}; {hint}"
        raise EncoderError(message)
    with explained(name, name), torch.device("meta"):  # shapes alone; a billion weights would take a minute
        if kind == "hf-hub":
            _check_reachable(name)
        model: Any = timm.create_model(_timm_name(name))
        if model.num_classes:
            model.reset_classifier(0)
    config = model.pretrained_cfg
    if not any(config.get(key) for key in ("hf_hub_id", "url", "file")):
        tags = timm.list_pretrained(f"{place.split('.')[0]}*")
        hint = f"use one of {', '.join(f'timm:{t}' for t in tags[:5])}" if tags else "choose another model"
        message = f"timm has no pretrained weights for {place!r}, and a random encoder is of no use; {hint}"
        raise EncoderError(message)
    data = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    _, height, width = data["input_size"]
    if height != width or data["interpolation"] not in ("bicubic", "bilinear"):
        message = (
            f"encoder {name!r} takes {height} x {width} pixels resampled by {data['interpolation']!r}; "
            "expected square tiles and bicubic or bilinear; choose another model"
        )
        raise EncoderError(message)
    tag = f".{config['tag']}" if config.get("tag") else ""
    return EncoderCard(
        name=f"local:{Path(place).resolve().name}" if kind == "local" else name,
        source=f"timm:{config['architecture']}{tag}" if kind == "timm" else name,
        architecture=config["architecture"],
        dim=int(getattr(model, "head_hidden_size", None) or model.num_features),
        input_px=height,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        licence=config.get("license") or "unknown",
    )


def _check_reachable(source: str) -> None:
    """Raise the Hub's own error at once where the weights would come from it and cannot."""
    kind, _, place = source.partition(":")
    if kind == "timm":
        config = timm.get_pretrained_cfg(place)
        place = (config and config.hf_hub_id) or ""
    if kind in ("timm", "hf-hub") and place:
        repository, _, revision = place.partition("@")
        check_hub_access(repository, revision=revision or None)


def _timm_name(source: str) -> str:
    """Name a source as timm does."""
    return source.removeprefix("timm:").replace("local:", "local-dir:", 1)
