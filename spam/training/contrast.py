"""The contrastive loss of each pair of embeddings, and the figures that judge an alignment on held-out spots."""

import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_matrix

from spam.models import Embeddings, info_nce, recall_at_k
from spam.models.contrastive import partner_rank
from spam.models.embedding_geometry import alignment, effective_rank, uniformity
from spam.models.soft_contrast import profile_targets, soft_info_nce
from spam.schemas.training_config import PretrainConfig
from spam.typing import Array, Bool, Float, Int64

__all__ = ["PAIRS", "RECALLS", "Pair", "contrast_figures", "near_pairs", "pair_losses", "training_losses"]

Pair: TypeAlias = Literal["gene", "coord"]
PAIRS: tuple[Pair, ...] = ("gene", "coord")
"""What the image is contrasted with."""
RECALLS = (1, 5, 10)
# Uniformity takes all pairs of spots; of more than these the first are enough.
_UNIFORMITY_SPOTS = 2000


def pair_losses(embedded: Embeddings, config: PretrainConfig) -> dict[str, torch.Tensor]:
    """Contrast the image with each other embedding that there is: ``gene``, ``coord``."""
    pairs = {"gene": embedded.gene, "coord": embedded.coord}
    return {
        pair: info_nce(embedded.image, other, temperature=config.temperature, mixing=config.mixing)
        for pair, other in pairs.items()
        if other is not None
    }


def near_pairs(weights: csr_matrix, rows: Int64[Array, " b"]) -> Bool[Array, "b b"]:
    """Tell which of some spots are neighbours in the graph, in either direction; never a spot of itself."""
    among = weights[rows][:, rows] > 0
    are_near: Bool[Array, "b b"] = (among + among.T).toarray()
    np.fill_diagonal(are_near, val=False)
    return are_near


def training_losses(
    embedded: Embeddings,
    config: PretrainConfig,
    *,
    expression: Float[torch.Tensor, "b n_genes"],
    weights: csr_matrix,
    rows: Int64[Array, " b"],
) -> dict[str, torch.Tensor]:
    """Contrast the pairs as ``--targets`` and ``--mask-neighbours`` ask for, to train on.

    Parameters
    ----------
    embedded
        The spots of a batch.
    expression
        Their centred log1p(CP10k), which soft targets come from; they are for the pair of image and gene alone.
    weights, rows
        Spatial graph of the cohort, and the rows of the batch in it.
    """
    if config.targets == "hard" and not config.mask_neighbours:
        return pair_losses(embedded, config)
    is_left_out = targets = None
    if config.mask_neighbours:
        is_left_out = torch.from_numpy(near_pairs(weights, rows)).to(expression.device)
    if config.targets == "soft":
        targets = profile_targets(expression, temperature=config.temperature, is_left_out=is_left_out)
    pairs = {"gene": (embedded.gene, targets), "coord": (embedded.coord, None)}
    return {
        pair: soft_info_nce(
            embedded.image,
            other,
            temperature=config.temperature,
            mixing=config.mixing,
            targets=towards,
            is_left_out=is_left_out,
        )
        for pair, (other, towards) in pairs.items()
        if other is not None
    }


def contrast_figures(batches: list[Embeddings], config: PretrainConfig) -> dict[str, float]:
    """Judge an alignment: loss over batches beside ln(batch), recall and shape of the embeddings over all their spots.

    The loss is plain InfoNCE whatever is trained on, so that runs of different ``--targets`` can be compared. Of each
    pair: ``gene_loss``, ``gene_recall_10`` (the image finds its expression), ``gene_recall_back_10`` (the expression finds
    its image) and ``gene_alignment``; of each embedding: ``image_rank`` (effective rank) and ``image_uniformity``.

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
    whole = {
        name: torch.cat([getattr(batch, name) for batch in batches]).float() for name in ("image", *losses[0])
    }
    image = whole["image"]
    for pair in losses[0]:
        there, back = partner_rank(image, whole[pair]), partner_rank(whole[pair], image)
        for k in RECALLS:
            figures[f"{pair}_recall_{k}"] = recall_at_k(there, k=k)
            figures[f"{pair}_recall_back_{k}"] = recall_at_k(back, k=k)
        figures[f"{pair}_alignment"] = alignment(image, whole[pair])
    for name, embedding in whole.items():
        figures[f"{name}_rank"] = effective_rank(embedding)
        figures[f"{name}_uniformity"] = uniformity(embedding[:_UNIFORMITY_SPOTS])
    return figures
