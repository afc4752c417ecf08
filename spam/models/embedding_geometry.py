"""What the shape of an embedding says about the training that made it."""

import torch
from torch import nn

from spam.typing import Float

__all__ = ["alignment", "effective_rank", "uniformity"]


@torch.no_grad()
def effective_rank(embedding: Float[torch.Tensor, "n d"]) -> float:
    r"""Count the dimensions that an embedding makes use of, between 1 and min(n, d).

    .. math::
        \exp\left(-\sum_k p_k \ln p_k\right), \qquad p_k = \sigma_k / \sum_l \sigma_l

    with the singular values of the rows, scaled to unit length as the contrast does. It is 1 where all rows are equal
    (collapse), and d for the rows of an orthogonal basis. Rows are **not centred**: of a collapsed embedding centring would
    leave the rounding noise alone, which has full rank. Rows of zeros stay so; an embedding of zeros has rank 1.

    Source: Roy & Vetterli, EUSIPCO 2007. As a check of embeddings: RankMe, Garrido et al., arXiv 2210.02885.
    """
    singular = torch.linalg.svdvals(nn.functional.normalize(embedding.double(), dim=1))
    share = singular / singular.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(share).sum().exp())


@torch.no_grad()
def alignment(a: Float[torch.Tensor, "n d"], b: Float[torch.Tensor, "n d"]) -> float:
    """Mean squared distance of partners, in [0, 4]: 0 where each row equals its partner, 2 where they are unrelated.

    Rows are scaled to unit length.

    Source: Wang & Isola, arXiv 2005.10242, with their exponent of 2.
    """
    unit_a, unit_b = (nn.functional.normalize(x.double(), dim=1) for x in (a, b))
    return float(((unit_a - unit_b) ** 2).sum(dim=1).mean())


@torch.no_grad()
def uniformity(embedding: Float[torch.Tensor, "n d"]) -> float:
    r"""Tell how evenly an embedding covers the sphere: :math:`\ln E \exp(-2 \|x - y\|^2)` over pairs of rows.

    From 0, where all rows are equal, down to about -4, where they are far apart in all directions. Rows are scaled to unit
    length; a single row gives 0. Distances need n² numbers.

    Source: Wang & Isola, arXiv 2005.10242, with their t = 2. Relative to the paper: all pairs of two different rows.
    """
    if len(embedding) < 2:
        return 0.0
    distances = nn.functional.pdist(nn.functional.normalize(embedding.double(), dim=1))
    return float((-2.0 * distances**2).exp().mean().log())
