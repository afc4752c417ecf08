"""Building networks with timm, and describing those without a card."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.layers.mlp import SwiGLUPacked
from torch import nn

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

from .architectures import create
from .hub_access import HubFile, fetch_file
from .loading_errors import explained
from .package_weights import read_package_weights, rename_by_position
from .weight_files import find_weights, read_weights
from .weight_layouts import to_timm

__all__ = ["build_timm_model", "create_network", "describe_timm_model", "timm_repository"]

LAYERS = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}  # layers that a card names
OWN_ARCHITECTURES = "spam/"


def create_network(card: EncoderCard, **changed: Any) -> nn.Module:
    """Build the network of a card with random weights, and without its classifier.

    Parameters
    ----------
    card
        What it is.
    **changed
        Keyword arguments that differ from those of the card, such as ``depth=2`` for a small twin.

    Raises
    ------
    EncoderError
        If the card names no architecture that can be built, or states another number of registers.
    """
    kwargs = {**_kwargs(card), **changed}
    with explained(card.name, card.source):
        architecture = _architecture(card)
        if architecture.startswith(OWN_ARCHITECTURES):
            return _checked(create(architecture, kwargs), card)
        return _checked(timm.create_model(architecture, num_classes=0, **kwargs), card)


def build_timm_model(card: EncoderCard) -> nn.Module:
    """Build the network of a card with its pretrained weights, and without its classifier.

    Every weight of the network is loaded and none of the file is left over but a classifier's, so nothing stays
    random.

    Raises
    ------
    EncoderError
        If the weights cannot be reached or do not fit the network.
    """
    kind, _, place = card.source.partition(":")
    with explained(card.name, card.source, revision=card.revision):
        if kind == "package":
            model: Any = timm.create_model(_architecture(card), **_kwargs(card))
            model.load_state_dict(rename_by_position(read_package_weights(place), model.state_dict()))
            model.reset_classifier(0)
            return _checked(model, card)
        file = find_weights(card)
        if file is None:  # a few of timm's models lie where only timm finds them
            model = timm.create_model(place, pretrained=True)
            model.reset_classifier(0)
            return _checked(model, card)
        weights = read_weights(file, encoder=card.name)
        if card.layout == "timm":
            return _checked(_with_timm_weights(card, weights), card)
        model = create_network(card)
        model.load_state_dict(to_timm(card.layout, weights, model))
        built: nn.Module = model
        return built


def describe_timm_model(name: str, revision: str | None = None) -> EncoderCard:
    """Make the card of ``timm:<model>``, ``hf-hub:<organisation>/<name>`` or ``local:<folder or file>``.

    Sizes, channel statistics and licence are those of timm's configuration of the pretrained weights. A folder or
    file is named in the card by its last part alone, so that no store carries a path of the machine that wrote it.

    Parameters
    ----------
    name
        Name of the encoder.
    revision
        Branch, tag or commit, where the weights lie on the Hub; None for the main branch.

    Raises
    ------
    EncoderError
        If there is no such model, it has no pretrained weights, or its configuration cannot be reached or
        used.
    """
    kind, _, place = name.partition(":")
    if kind == "local" and revision:
        message = (
            f"encoder {name!r} lies in a folder, which has no revisions; leave out --revision {revision!r}"
        )
        raise EncoderError(message)
    if kind == "timm" and not timm.is_model(place):
        near = difflib.get_close_matches(place, timm.list_models(pretrained=True), n=3)
        hint = f"did you mean {' or '.join(f'timm:{m}' for m in near)}?" if near else "see timm.list_models()"
        message = f"timm {timm.__version__} has no model {place!r}; {hint}"
        raise EncoderError(message)
    shown = f"{name}@{revision}" if revision and kind == "hf-hub" else name
    with explained(shown, name, revision=revision):
        folder = _config_folder(kind, place, revision)
        with torch.device("meta"):  # shapes alone; a billion weights would take a minute
            model: Any = timm.create_model(place if folder is None else f"local-dir:{folder}")
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
            f"encoder {shown!r} takes {height} x {width} pixels resampled by {data['interpolation']!r}; "
            "expected square tiles and bicubic or bilinear; choose another model"
        )
        raise EncoderError(message)
    tag = f".{config['tag']}" if config.get("tag") else ""
    return EncoderCard(
        name=f"local:{Path(place).resolve().name}" if kind == "local" else shown,
        source=f"timm:{config['architecture']}{tag}" if kind == "timm" else name,
        revision=revision,
        architecture=config["architecture"],
        kwargs=tuple(_model_args(folder).items()) if folder else (),
        dim=int(getattr(model, "head_hidden_size", None) or model.num_features),
        n_registers=_n_registers(model),
        input_px=height,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        licence=config.get("license") or "unknown",
    )


def timm_repository(model: str) -> str | None:
    """Name the repository of the Hub that holds the weights of one of timm's models; None if it is elsewhere."""
    config = timm.get_pretrained_cfg(model)
    repository: str | None = config.hf_hub_id if config else None
    return repository or None


def _architecture(card: EncoderCard) -> str:
    if card.architecture is None:
        message = (
            f"encoder {card.name!r} names no architecture to build; add one of timm's to its card, or ask for it "
            f"by its source, {card.source!r}, whose own configuration names it"
        )
        raise EncoderError(message)
    return card.architecture


def _kwargs(card: EncoderCard) -> dict[str, Any]:
    return {key: LAYERS.get(value, value) if isinstance(value, str) else value for key, value in card.kwargs}


def _with_timm_weights(card: EncoderCard, weights: dict[str, Any]) -> nn.Module:
    """Let timm load weights, with the renaming that it knows for each architecture, and drop their classifier."""
    # With its tag: the name of a classifier is that of the weights.
    architecture = (
        card.source.removeprefix("timm:") if card.source.startswith("timm:") else _architecture(card)
    )
    config = timm.get_pretrained_cfg(architecture)
    classifier = config.classifier if config else None
    first = classifier if isinstance(classifier, str) or classifier is None else classifier[0]
    head = weights.get(f"{first}.weight")
    # With as many classes as the file has: then timm takes all weights or none.
    n_classes = 0 if head is None else len(head)
    overlay = {"state_dict": weights, "num_classes": n_classes, "label_offset": 0}
    model: Any = timm.create_model(
        architecture, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=n_classes, **_kwargs(card)
    )
    if model.num_classes:
        model.reset_classifier(0)
    built: nn.Module = model
    return built


def _checked(model: nn.Module, card: EncoderCard) -> nn.Module:
    if _n_registers(model) != card.n_registers:
        message = (
            f"encoder {card.name!r} was built with {_n_registers(model)} register tokens, and its card says "
            f"{card.n_registers}; correct n_registers or kwargs of the card"
        )
        raise EncoderError(message)
    return model


def _n_registers(model: nn.Module) -> int:
    return int(getattr(model, "num_reg_tokens", 0) or 0)


def _config_folder(kind: str, place: str, revision: str | None) -> Path | None:
    """Find the folder with timm's configuration of a model, and fetch it from the Hub if need be; None for timm's own."""
    if kind == "timm":
        return None
    if kind == "hf-hub":
        return fetch_file(HubFile(repository=place, revision=revision, names=("config.json",))).parent
    path = Path(place)
    return path.parent if path.is_file() else path


def _model_args(folder: Path) -> Mapping[str, Any]:
    """Read the arguments that a model is built with besides the name of its architecture."""
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_args", {})
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in stated.items()
        if key != "num_classes"
    }
