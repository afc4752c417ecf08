"""Building the networks of cards, most of them with timm."""

from typing import Any

import timm
from timm.layers.mlp import SwiGLUPacked
from torch import nn

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

from .architectures import create
from .loading_errors import explained
from .package_weights import read_package_weights, rename_by_position
from .weight_files import find_weights, read_weights
from .weight_layouts import to_timm

__all__ = ["build_timm_model", "create_network", "n_registers"]

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


def n_registers(model: nn.Module) -> int:
    """Count the register tokens of a network; those that know none have none."""
    return int(getattr(model, "num_reg_tokens", 0) or 0)


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
    classifier = (config and config.classifier) or "head"
    first = classifier if isinstance(classifier, str) else classifier[0]
    # Classifiers that pool are newer than some files: head.fc was head.
    heads = [
        weights[name]
        for name in (f"{first}.weight", f"{first.removesuffix('.fc')}.weight")
        if name in weights
    ]
    # With as many classes as the file has: then timm takes all weights or none.
    n_classes = len(heads[0]) if heads else 0
    overlay = {"state_dict": weights, "num_classes": n_classes, "label_offset": 0}
    model: Any = timm.create_model(
        architecture, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=n_classes, **_kwargs(card)
    )
    if model.num_classes:
        model.reset_classifier(0)
    built: nn.Module = model
    return built


def _checked(model: nn.Module, card: EncoderCard) -> nn.Module:
    if n_registers(model) != card.n_registers:
        message = (
            f"encoder {card.name!r} was built with {n_registers(model)} register tokens, and its card says "
            f"{card.n_registers}; correct n_registers or kwargs of the card"
        )
        raise EncoderError(message)
    return model
