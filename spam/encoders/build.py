"""From a card to an encoder that runs, or to a network that can be trained."""

from pathlib import Path

import torch

from spam.schemas.encoder_card import EncoderCard

from .adapter import merge_adapter, read_adapter
from .encoder import Encoder
from .lora import peft_package
from .network import TileNetwork
from .timm_models import build_timm_model

__all__ = ["build_encoder", "build_network"]


def build_network(card: EncoderCard) -> TileNetwork:
    """Build the network of a card with its pretrained weights, on the CPU, as something that can be trained.

    Raises
    ------
    EncoderError
        As `build_encoder`.
    """
    return TileNetwork(build_timm_model(card), card)


def build_encoder(
    card: EncoderCard,
    *,
    device: torch.device,
    amp: bool = False,
    is_averaged: bool = False,
    is_compiled: bool = False,
    lora: Path | None = None,
) -> Encoder:
    """Build the encoder of a card with its pretrained weights, ready to embed tiles.

    Parameters
    ----------
    card
        See `spam.encoders.encoder_card`.
    device
        Where to run, see `spam.hardware.resolve_device`.
    amp
        Run in the mixed precision of the card; features are float32 all the same.
    is_averaged, is_compiled
        See `Encoder`.
    lora
        Folder of an adapter that `spam adapt` trained for this encoder: it is merged into the weights, and the card
        of the result has a name of its own, see `adapted_card`. None for the encoder as it is.

    Raises
    ------
    EncoderError
        If the weights cannot be reached (no licence accepted, no token, no network) or do not fit the
        network; or the adapter was trained for others.
    MissingInputError
        If there is no adapter in the folder.
    """
    adapter = read_adapter(lora) if lora is not None else None
    if lora is not None:
        peft_package()  # before weights are fetched
    network = build_network(card)
    if lora is not None:
        network = merge_adapter(network, lora)
    return Encoder(
        network,
        device=device,
        is_amp=amp,
        is_averaged=is_averaged,
        is_compiled=is_compiled,
        adapter=adapter,
    )
