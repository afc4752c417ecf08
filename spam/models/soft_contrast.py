"""The contrastive loss of stage 1 where a spot's partner is not the only match, or not all others are negatives."""

import torch
from torch import nn

from spam.typing import Bool, Float

from .contrastive import check_contrast, precise_directions

__all__ = ["profile_targets", "soft_info_nce"]


def profile_targets(
    profiles: Float[torch.Tensor, "b n_genes"],
    *,
    temperature: float,
    is_left_out: Bool[torch.Tensor, "b b"] | None = None,
) -> Float[torch.Tensor, "b b"]:
    r"""Say how well each other spot of a batch would do as the match of a spot: by likeness of measured expression.

    .. math::
        t_{ij} = \frac{\exp(c_{ij} / \tau)}{\sum_{l} \exp(c_{il} / \tau)}

    with the cosine :math:`c_{ij}` of two profiles; rows sum to 1, and no entry of a row is above its own, :math:`t_{ii}`.
    A profile of zeros has cosine 0 with all, itself too, so its row is uniform. Pairs that are left out get 0.

    Source: the smoothed targets of BLEEP, Xie et al., arXiv 2306.01859. Relative to the paper: likeness comes from the
    measured profiles, not from the embeddings that are being trained (there: the mean of the image-image and the
    gene-gene similarity), so it is fixed and cannot collapse with them; it is divided by the temperature (their code
    multiplies by it, which makes nearly uniform targets for unit vectors); and each direction's targets sum to 1 (there,
    one direction takes the transpose).

    Parameters
    ----------
    profiles
        Expression of the spots, centred: otherwise all cosines are near 1.
    temperature
        Positive; smaller brings the targets nearer to the partner alone.
    is_left_out
        True at pairs that are not matched; never on the diagonal.
    """
    unit = nn.functional.normalize(profiles.float(), dim=1)
    likeness = unit @ unit.T / temperature
    if is_left_out is not None:
        likeness = likeness.masked_fill(is_left_out, -torch.inf)
    return likeness.softmax(dim=1)


def soft_info_nce(
    a: Float[torch.Tensor, "b d"],
    b: Float[torch.Tensor, "b d"],
    *,
    temperature: float,
    mixing: float = 0.5,
    targets: Float[torch.Tensor, "b b"] | None = None,
    is_left_out: Bool[torch.Tensor, "b b"] | None = None,
) -> Float[torch.Tensor, ""]:
    r"""Contrast the rows of `a` and `b` as `info_nce` does, towards given targets and without some of the pairs.

    .. math::
        L = m \, L_{a \to b} + (1 - m) \, L_{b \to a}, \qquad
        L_{a \to b} = -\frac{1}{n} \sum_i \sum_{j \in N_i} t_{ij} \log
        \frac{\exp(s_{ij} / \tau)}{\sum_{l \in N_i} \exp(s_{il} / \tau)}

    with cosine similarities :math:`s_{ij}` and :math:`N_i` the rows that are not left out for row `i`. The other direction
    exchanges the roles of `a` and `b` and keeps the targets. A mean over rows, in float32 (float64 for float64) also under
    autocast. Where nothing is left out and all similarities are equal it is ln(batch), whatever the targets. Memory
    grows with b².

    Source: InfoNCE, van den Oord et al., arXiv 1807.03748. Relative to the paper: targets in place of the one partner, as
    in BLEEP, Xie et al., arXiv 2306.01859.

    Parameters
    ----------
    a, b
        Embeddings; row `i` of one belongs to row `i` of the other.
    temperature, mixing
        As in `info_nce`.
    targets
        Rows that sum to 1 and are 0 where left out; None for the partner alone.
    is_left_out
        Pairs that are neither match nor negative: symmetric, False on the diagonal. None leaves none out.

    Raises
    ------
    ConfigError
        If there is no other row to contrast with, or an argument is outside its range.
    """
    is_own_left_out = is_left_out is not None and bool(is_left_out.diagonal().any())
    fault = (
        "a spot that is left out of its own row, but each must keep its partner" if is_own_left_out else ""
    )
    check_contrast(a, b, temperature=temperature, mixing=mixing, other_fault=fault)
    with torch.autocast(a.device.type, enabled=False):
        unit_a, unit_b = precise_directions(a, b)
        similarity = unit_a @ unit_b.T / temperature
        share = (
            torch.eye(len(a), dtype=unit_a.dtype, device=a.device)
            if targets is None
            else targets.to(unit_a.dtype)
        )
        there = _cross_entropy(similarity, share, is_left_out)
        return mixing * there + (1 - mixing) * _cross_entropy(similarity.T, share, is_left_out)


def _cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, is_left_out: torch.Tensor | None
) -> torch.Tensor:
    """Mean over rows of the cross-entropy among the pairs that are not left out."""
    if is_left_out is None:
        return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    log_share = logits.masked_fill(is_left_out, -torch.inf).log_softmax(dim=1)
    # Left out pairs have target 0, but 0 times minus infinity is not a number.
    return -(targets * log_share.masked_fill(is_left_out, 0.0)).sum(dim=1).mean()
