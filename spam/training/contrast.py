"""The contrastive loss of each pair of embeddings, and the figures that judge an alignment on held-out spots."""

import math

import numpy as np
import torch

from spam.models import Embeddings, info_nce, recall_at_k
from spam.schemas.training_config import PretrainConfig

__all__ = ["RECALLS", "contrast_figures", "pair_losses"]

RECALLS = (1, 5, 10)


def pair_losses(embedded: Embeddings, config: PretrainConfig) -> dict[str, torch.Tensor]:
    """Contrast the image with each other embedding that there is: ``gene``, ``coord``."""
    pairs = {"gene": embedded.gene, "coord": embedded.coord}
    return {
        pair: info_nce(embedded.image, other, temperature=config.temperature, mixing=config.mixing)
        for pair, other in pairs.items()
        if other is not None
    }


def contrast_figures(batches: list[Embeddings], config: PretrainConfig) -> dict[str, float]:
    """Loss over batches beside ln(batch), and recall over all their spots.

    Parameters
    ----------
    batches
        Embeddings of held-out spots, in random order; all but the last, which may be smaller, of one size. A smaller
        last one is left out of the loss.
    """
    size = len(batches[0].image)
    losses = [pair_losses(batch, config) for batch in batches if len(batch.image) == size]
    figures = {f"{pair}_loss": float(np.mean([float(part[pair]) for part in losses])) for pair in losses[0]}
    figures |= {"loss": sum(figures.values()), "ln_batch": math.log(size)}
    image = torch.cat([batch.image for batch in batches])
    for pair in losses[0]:
        other = torch.cat([getattr(batch, pair) for batch in batches])
        for k in RECALLS:
            figures[f"{pair}_recall_{k}"] = recall_at_k(image, other, k=min(k, len(image)))
    return figures
