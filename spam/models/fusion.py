"""The model of stage 2: an image that may attend to neighbours and references, and decoders that correct the path."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from spam.errors import ConfigError
from spam.typing import Bool, Float, Int

from .attention import CrossAttention
from .distributions import Likelihood
from .encoders import GeneEncoder, ImageProjector
from .gcn import GraphInputs, SpatialGCN
from .merge import ConcatProj, GatedSum, Merge

__all__ = ["Branch", "FusionBatch", "FusionEnsemble", "FusionModel", "FusionOutput"]

Branch: TypeAlias = Literal["coord", "gene"]

# sigmoid(-3) = 5 % inflated zeros to begin with: low, for most zeros of such counts are sampling zeros.
_ZI_LOGIT_START = -3.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionBatch:
    """What `FusionModel` sees of `b` spots. Nothing in it may come from the spots' own counts.

    Attributes
    ----------
    image
        Image features of the spots.
    graph
        Exact neighbourhood of the `u` spots that serve as neighbours: ``closure(weights,
        them).gather(features)``.
    neighbour_index
        Which of these `u` is the spot's n-th neighbour; any valid row where masked.
    neighbour_offset
        Position of the neighbour relative to the spot: dx, dy and log distance, in units of the pitch.
    neighbour_mask
        True where there is a neighbour.
    reference_expression
        Expression of the `v` spots of other sections that were retrieved: log1p of counts per 10k, centred.
    reference_index
        Which of these `v` is the spot's n-th reference; any valid row where masked.
    reference_similarity
        Similarity of each reference's image to the spot's.
    reference_mask
        True where there is a reference.
    """

    image: Float[torch.Tensor, "b image_dim"]
    graph: GraphInputs
    neighbour_index: Int[torch.Tensor, "b t"]
    neighbour_offset: Float[torch.Tensor, "b t 3"]
    neighbour_mask: Bool[torch.Tensor, "b t"]
    reference_expression: Float[torch.Tensor, "v n_genes"]
    reference_index: Int[torch.Tensor, "b r"]
    reference_similarity: Float[torch.Tensor, "b r 1"]
    reference_mask: Bool[torch.Tensor, "b r"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionOutput:
    """Parameters of the count distribution; None where the likelihood has no such parameter.

    Attributes
    ----------
    expression
        What is added to the path's log1p(CP10k); exactly 0 before training.
    log_rate
        What is added to the logarithm of the rate that belongs to that expression; exactly 0 before training.
    log_theta
        Logarithm of the inverse dispersion per gene.
    zi_logits
        Log-odds of an inflated zero.
    """

    expression: Float[torch.Tensor, "*members b n_genes"]
    log_rate: Float[torch.Tensor, "*members b n_genes"]
    log_theta: Float[torch.Tensor, "*members n_genes"] | None
    zi_logits: Float[torch.Tensor, "*members b n_genes"] | None


class FusionModel(nn.Module):
    """Predict each gene's expression and count distribution from a spot's image, its neighbours and references.

    The image queries two sets of tokens by `CrossAttention`: `SpatialGCN` tokens of spatial neighbours, and
    `GeneEncoder` embeddings of spots retrieved from other sections. The three parts are merged, normalised
    and decoded linearly, into log1p expression and into a correction of the rate of the counts. Both decoders start
    at zero, so that an untrained model leaves the path that it is added to as it is.

    Source: the SPAM manuscript (Park, Kim, Oh; in preparation), with retrieval after BLEEP (arXiv 2306.01859)
    and the ZINB head of scVI (Lopez et al., 10.1038/s41592-018-0229-2). Relative to the paper: the gene
    branch reads reference spots, never the spot itself; several tokens per attention; image inputs are dropped at
    random too; expression has a decoder of its own, beside that of the counts; dispersion per gene.

    Parameters
    ----------
    image_dim, n_genes
        Length of the image features and of the expression profile.
    proj_dim
        Width of the encoders that stage 1 trains; same names and shapes as in `AlignmentModel`.
    fuse_dim, heads
        Width of attention and merge, and the number of heads, which must divide it.
    merge
        ``gated-sum`` or ``concat-proj``.
    dropout
        Share of image inputs and of activations dropped in training.
    branches
        Which tokens the image queries: ``coord``, ``gene``, both or none.
    likelihood
        Decides which heads there are: ``poisson`` has neither dispersion nor zero inflation, ``nb`` no
        inflation.

    Raises
    ------
    ConfigError
        If `merge` or `likelihood` is unknown, or `heads` does not divide `fuse_dim`.
    """

    def __init__(
        self,
        *,
        image_dim: int,
        n_genes: int,
        proj_dim: int = 256,
        fuse_dim: int,
        heads: int,
        merge: Merge,
        dropout: float,
        likelihood: Likelihood,
        branches: Sequence[Branch] = ("coord", "gene"),
    ) -> None:
        super().__init__()
        merges: dict[str, type[GatedSum | ConcatProj]] = {
            "gated-sum": GatedSum,
            "concat-proj": ConcatProj,
        }
        if merge not in merges or likelihood not in ("zinb", "nb", "poisson"):
            message = (
                f"--merge {merge!r} with --likelihood {likelihood!r} is unknown; expected gated-sum or "
                "concat-proj, with zinb, nb or poisson"
            )
            raise ConfigError(message)
        self.branches = tuple(branches)
        self.drop_inputs = nn.Dropout(dropout)
        self.image_projector = ImageProjector(image_dim, proj_dim, dropout=dropout)
        self.query = nn.Linear(proj_dim, fuse_dim)
        self.gcn: SpatialGCN | None = None
        self.gene_encoder: GeneEncoder | None = None
        sizes = (proj_dim, proj_dim, fuse_dim, heads)
        if "coord" in self.branches:
            self.gcn = SpatialGCN(image_dim, proj_dim, proj_dim, dropout=dropout)
            self.coord_attention = CrossAttention(*sizes, bias_dim=3, dropout=dropout)
        if "gene" in self.branches:
            self.gene_encoder = GeneEncoder(n_genes, proj_dim, dropout=dropout)
            self.gene_attention = CrossAttention(*sizes, bias_dim=1, dropout=dropout)
        self.merge = merges[merge](fuse_dim, n_parts=1 + len(self.branches))
        self.after_merge = nn.Sequential(nn.LayerNorm(fuse_dim), nn.GELU(), nn.Dropout(dropout))
        self.expression_decoder = nn.Linear(fuse_dim, n_genes)
        self.rate_decoder = nn.Linear(fuse_dim, n_genes)
        for decoder in (self.expression_decoder, self.rate_decoder):
            nn.init.zeros_(decoder.weight)
            nn.init.zeros_(decoder.bias)
        self.log_theta = None if likelihood == "poisson" else nn.Parameter(torch.zeros(n_genes))
        self.zi_head = nn.Linear(fuse_dim, n_genes) if likelihood == "zinb" else None
        if self.zi_head is not None:
            nn.init.zeros_(self.zi_head.weight)
            nn.init.constant_(self.zi_head.bias, _ZI_LOGIT_START)

    def forward(self, batch: FusionBatch) -> FusionOutput:
        """Predict for a batch; rows do not influence each other."""
        image = self.image_projector(self.drop_inputs(batch.image))
        parts = [self.query(image)]
        if self.gcn is not None:
            graph = batch.graph
            tokens = self.gcn.forward_blocks(self.drop_inputs(graph.x_inputs), graph.adj1, graph.adj2)
            neighbours = tokens[batch.neighbour_index]
            parts.append(
                self.coord_attention(image, neighbours, batch.neighbour_offset, batch.neighbour_mask)
            )
        if self.gene_encoder is not None:
            references = self.gene_encoder(batch.reference_expression)[batch.reference_index]
            parts.append(
                self.gene_attention(image, references, batch.reference_similarity, batch.reference_mask)
            )
        merged = self.merge(torch.stack(parts, dim=1))
        decoded = self.after_merge(merged)
        # What counts ask for does not move what expression is read from: it would fit their noise.
        settled = decoded.detach()
        return FusionOutput(
            expression=self.expression_decoder(decoded),
            log_rate=self.rate_decoder(settled),
            log_theta=self.log_theta,
            zi_logits=None if self.zi_head is None else self.zi_head(settled),
        )


class FusionEnsemble(nn.Module):
    """Several `FusionModel` of different random weights, which are trained side by side and averaged.

    Lakshminarayanan et al., arXiv 1612.01474. Relative to the paper: the parameters of the distributions are averaged,
    not the distributions.

    Parameters
    ----------
    members
        Number of models.
    **settings
        Of each `FusionModel`.
    """

    def __init__(self, *, members: int, **settings: Any) -> None:
        super().__init__()
        self.members = nn.ModuleList(FusionModel(**settings) for _ in range(members))

    def each(self, batch: FusionBatch) -> FusionOutput:
        """Predict by every member: each value gets one more axis, the first."""
        outputs = [member(batch) for member in self.members]

        def stacked(name: str) -> torch.Tensor | None:
            values = [getattr(out, name) for out in outputs]
            return None if values[0] is None else torch.stack(values)

        return _output_of(stacked)

    def forward(self, batch: FusionBatch) -> FusionOutput:
        """Average what the members predict."""
        each = self.each(batch)

        def mean(name: str) -> torch.Tensor | None:
            values: torch.Tensor | None = getattr(each, name)
            return None if values is None else values.mean(dim=0)

        return _output_of(mean)


def _output_of(value: Callable[[str], torch.Tensor | None]) -> FusionOutput:
    """Fill in the fields by their names."""
    expression, log_rate = value("expression"), value("log_rate")
    assert expression is not None
    assert log_rate is not None
    return FusionOutput(
        expression=expression, log_rate=log_rate, log_theta=value("log_theta"), zi_logits=value("zi_logits")
    )
