"""From a card to an encoder that runs."""

import torch

from spam.schemas.encoder_card import EncoderCard

from .encoder import Encoder
from .timm_models import build_timm_model

__all__ = ["build_encoder"]


def build_encoder(card: EncoderCard, *, device: torch.device, amp: bool = False) -> Encoder:
    """Build the encoder of a card with its pretrained weights, ready to embed tiles.

    Parameters
    ----------
    card
        See `spam.encoders.encoder_card`.
    device
        Where to run, see `spam.hardware.resolve_device`.
    amp
        Run in mixed precision (bfloat16); features are float32 all the same.

    Raises
    ------
    EncoderError
        If the weights cannot be reached (no licence accepted, no token, no network) or do not fit the
        network.
    """
    return Encoder(build_timm_model(card), card, device=device, is_amp=amp)
