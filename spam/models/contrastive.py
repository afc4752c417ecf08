"""Stage 1's model and contrastive losses, and the metrics of an alignment."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from spam.typing import Bool, Float, Int64

from .networks import GeneEncoder, GraphInputs, ImageProjector, SpatialGCN

AlignmentMode: TypeAlias = Literal["joint", "img-gene", "img-coord"]

_TIE = 1e-6  # float32 rounding of a cosine: closer similarities are ties
_CHUNK_VALUES = 1 << 24  # numbers of the similarity matrix held at a time: 64 MB


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings:
    """Embeddings of the same `b` spots, one row each; None where the mode does not make them."""

    image: Float[torch.Tensor, "b proj_dim"]
    gene: Float[torch.Tensor, "b proj_dim"] | None
    coord: Float[torch.Tensor, "b proj_dim"] | None


class AlignmentModel(nn.Module):
    """Embed the image of a spot, its expression, and the images of its neighbourhood.

    The parts have the names and shapes that they have in `FusionModel`, so their weights carry over by name.

    Source: CLIP, Radford et al., arXiv 2103.00020. Relative to the paper: the image encoder is frozen and
    only its projection is trained; expression (`GeneEncoder`) or spatial neighbourhood (`SpatialGCN`) replace text.

    Parameters
    ----------
    image_dim, n_genes, proj_dim
        Length of the image inputs, of the expression profile and of the shared space.
    mode
        ``img-gene`` has no graph network, ``img-coord`` no gene encoder, ``joint`` has both.
    dropout
        Share of activations dropped in training.
    """

    def __init__(
        self, *, image_dim: int, n_genes: int, proj_dim: int, mode: AlignmentMode, dropout: float
    ) -> None:
        super().__init__()
        self.image_projector = ImageProjector(image_dim, proj_dim, dropout=dropout)
        self.gcn = None if mode == "img-gene" else SpatialGCN(image_dim, proj_dim, proj_dim, dropout=dropout)
        self.gene_encoder = None if mode == "img-coord" else GeneEncoder(n_genes, proj_dim, dropout=dropout)

    def forward(
        self,
        image: Float[torch.Tensor, "b image_dim"],
        expression: Float[torch.Tensor, "b n_genes"] | None,
        graph: GraphInputs | None,
    ) -> Embeddings:
        """Embed a batch of spots.

        Parameters
        ----------
        image
            Image inputs of the spots.
        expression
            Their log1p of counts per 10k, centred; not read in mode ``img-coord``.
        graph
            Their neighbourhood, ``closure(weights, spots).gather(inputs)``; not read in mode ``img-gene``.
        """
        return Embeddings(
            gene=None if self.gene_encoder is None else self.gene_encoder(expression),
            coord=None if self.gcn is None else self.gcn(graph),
            image=self.image_projector(image),
        )


def _chunks(a: torch.Tensor, b: torch.Tensor) -> Iterator[slice]:
    """Divide the rows of `a` such that few similarities with `b` exist at a time."""
    step = max(1, _CHUNK_VALUES // max(1, len(b)))
    yield from (slice(start, start + step) for start in range(0, len(a), step))


class _SymmetricInfoNCE(torch.autograd.Function):
    """InfoNCE of rows of unit length; the logits exist chunk by chunk (`_chunks`)."""

    @staticmethod
    def forward(
        ctx: Any, a: torch.Tensor, b: torch.Tensor, temperature: float, mixing: float
    ) -> torch.Tensor:
        row_lse = a.new_empty(len(a))
        column_lse = a.new_full((len(b),), -torch.inf)
        for rows in _chunks(a, b):
            logits = (a[rows] / temperature) @ b.T
            row_lse[rows] = logits.logsumexp(1)
            column_lse = torch.logaddexp(column_lse, logits.logsumexp(0))
        ctx.save_for_backward(a, b, row_lse, column_lse)
        ctx.settings = (temperature, mixing)
        own = (a * b).sum(1) / temperature
        return mixing * (row_lse - own).mean() + (1 - mixing) * (column_lse - own).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        a, b, row_lse, column_lse = ctx.saved_tensors
        temperature, mixing = ctx.settings
        grad_a, grad_b = -b, -a  # of the own partner's logit, in both directions
        with torch.autocast(a.device.type, enabled=False):
            for rows in _chunks(a, b):
                logits = (a[rows] / temperature) @ b.T
                # In place: at most two chunks exist at once.
                share = (logits - row_lse[rows, None]).exp_().mul_(mixing)
                share += logits.sub_(column_lse).exp_().mul_(1 - mixing)
                grad_a[rows] += share @ b
                grad_b += share.T @ a[rows]
        scale = grad / (len(a) * temperature)
        return grad_a * scale, grad_b * scale, None, None


def info_nce(
    a: Float[torch.Tensor, "b d"], b: Float[torch.Tensor, "b d"], *, temperature: float, mixing: float = 0.5
) -> Float[torch.Tensor, ""]:
    r"""Contrast each row of `a` with its partner in `b` against all other rows, in both directions.

    .. math::
        L = m \, L_{a \to b} + (1 - m) \, L_{b \to a}, \qquad
        L_{a \to b} = -\frac{1}{n} \sum_i \log
        \frac{\exp(s_{ii} / \tau)}{\sum_j \exp(s_{ij} / \tau)}

    with cosine similarities :math:`s_{ij}`. A mean over rows, computed in float32 (float64 for float64) also
    under autocast. It is ln(batch) if all similarities are equal. Memory grows with the batch size, not its square.

    Source: van den Oord et al., arXiv 1807.03748; symmetric form: Radford et al., arXiv 2103.00020. Relative
    to the paper: the temperature is fixed, and `mixing` weighs the two directions (0.5 in CLIP).

    Parameters
    ----------
    a, b
        Embeddings of at least two spots; row `i` of one belongs to row `i` of the other.
    temperature
        Positive; smaller is sharper.
    mixing
        Weight of the direction a -> b, in [0, 1].
    """
    with torch.autocast(a.device.type, enabled=False):
        loss: torch.Tensor = _SymmetricInfoNCE.apply(_unit(a), _unit(b), temperature, mixing)
    return loss


def soft_info_nce(
    a: Float[torch.Tensor, "b d"],
    b: Float[torch.Tensor, "b d"],
    *,
    temperature: float,
    mixing: float = 0.5,
    targets: Float[torch.Tensor, "b b"] | None = None,
    is_left_out: Bool[torch.Tensor, "b b"] | None = None,
) -> Float[torch.Tensor, ""]:
    r"""`info_nce` towards given targets, and without some of the pairs.

    .. math::
        L_{a \to b} = -\frac{1}{n} \sum_i \sum_{j \in N_i} t_{ij} \log
        \frac{\exp(s_{ij} / \tau)}{\sum_{l \in N_i} \exp(s_{il} / \tau)}

    with :math:`N_i` the rows that are not left out for row `i`. The other direction exchanges the roles of `a` and `b` and
    keeps the targets. Memory grows with the square of the batch size.

    Source: InfoNCE, van den Oord et al., arXiv 1807.03748. Relative to the paper: targets in place of the one partner, as
    in BLEEP, Xie et al., arXiv 2306.01859.

    Parameters
    ----------
    targets
        Rows that sum to 1 and are 0 where left out; None for the partner alone.
    is_left_out
        Pairs that are neither match nor negative: symmetric, False on the diagonal.
    """
    with torch.autocast(a.device.type, enabled=False):
        similarity = _unit(a) @ _unit(b).T / temperature
        share = torch.eye(len(a), dtype=similarity.dtype, device=a.device) if targets is None else targets
        there, back = (_cross_entropy(logits, share, is_left_out) for logits in (similarity, similarity.T))
        return mixing * there + (1 - mixing) * back


def _cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, is_left_out: torch.Tensor | None
) -> torch.Tensor:
    """Mean over rows of the cross-entropy among the pairs that are not left out."""
    if is_left_out is None:
        return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    log_share = logits.masked_fill(is_left_out, -torch.inf).log_softmax(dim=1)
    # Pairs that are left out have target 0, but 0 times minus infinity is not a number.
    return -(targets * log_share.masked_fill(is_left_out, 0.0)).sum(dim=1).mean()


def profile_targets(
    profiles: Float[torch.Tensor, "b n_genes"],
    *,
    temperature: float,
    is_left_out: Bool[torch.Tensor, "b b"] | None = None,
) -> Float[torch.Tensor, "b b"]:
    r"""Soft targets: how well each other spot of a batch would match a spot, by similarity of measured expression.

    .. math::
        t_{ij} = \frac{\exp(c_{ij} / \tau)}{\sum_{l} \exp(c_{il} / \tau)}

    with the cosine :math:`c_{ij}` of two profiles; rows sum to 1, and the partner, :math:`t_{ii}`, has the largest share.
    A profile of zeros has cosine 0 with all, so its row is uniform. Pairs that are left out get 0.

    Source: the smoothed targets of BLEEP, Xie et al., arXiv 2306.01859. Relative to the paper: similarity comes from the
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
    similarity = unit @ unit.T / temperature
    if is_left_out is not None:
        similarity = similarity.masked_fill(is_left_out, -torch.inf)
    return similarity.softmax(dim=1)


def _unit(a: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, "n d"]:
    """Rows of length 1, in float32 (float64 for float64)."""
    return nn.functional.normalize(a.to(torch.promote_types(a.dtype, torch.float32)), dim=1)


@torch.no_grad()
def partner_rank(a: Float[torch.Tensor, "b d"], b: Float[torch.Tensor, "b d"]) -> Int64[torch.Tensor, " b"]:
    """Count, for each row of `a`, the rows of `b` that are at least as similar to it (cosine) as its partner.

    The partner counts, so 1 is the best. Ties within float32 rounding count too: if all embeddings are equal, every rank
    is the number of rows.
    """
    unit_a, unit_b = _unit(a), _unit(b)
    ranks = []
    for rows in _chunks(unit_a, unit_b):
        own = (unit_a[rows] * unit_b[rows]).sum(1, keepdim=True)
        ranks.append((unit_a[rows] @ unit_b.T >= own - _TIE).sum(1))
    return torch.cat(ranks)


def recall_at_k(ranks: Int64[torch.Tensor, " b"], *, k: int) -> float:
    """Share of rows whose partner is among the `k` most similar rows, by their `partner_rank`. Chance is k / b."""
    return int((ranks <= k).sum()) / len(ranks)


@torch.no_grad()
def effective_rank(embedding: Float[torch.Tensor, "n d"]) -> float:
    r"""Count the dimensions that an embedding uses, between 1 and min(n, d).

    .. math::
        \exp\left(-\sum_k p_k \ln p_k\right), \qquad p_k = \sigma_k / \sum_l \sigma_l

    with the singular values of the rows, scaled to unit length as in the contrast. It is 1 if all rows are equal
    (collapse), and d for the rows of an orthogonal basis. Rows are **not centred**: centring a collapsed embedding would
    leave only rounding noise, which has full rank. An embedding of zeros has rank 1.

    Source: Roy & Vetterli, EUSIPCO 2007. As a check of embeddings: RankMe, Garrido et al., arXiv 2210.02885.
    """
    singular = torch.linalg.svdvals(nn.functional.normalize(embedding.double(), dim=1))
    share = singular / singular.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(share).sum().exp())
