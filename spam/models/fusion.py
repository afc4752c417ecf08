"""The model of stage 2: a spot attends to neighbours and references, and a decoder corrects the ridge."""

import dataclasses

import torch
from torch import nn

from spam.errors import ConfigError
from spam.typing import Bool, Float, Int

from .attention import CrossAttention
from .distributions import Likelihood
from .encoders import GeneEncoder, ImageProjector
from .gcn import GraphInputs, SpatialGCN
from .merge import ConcatProj, GatedSum, Merge

__all__ = ["FusionBatch", "FusionModel", "FusionOutput"]

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
        Expression of spots retrieved from other sections: log1p of counts per 10k, centred.
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
    reference_expression: Float[torch.Tensor, "b r n_genes"]
    reference_similarity: Float[torch.Tensor, "b r 1"]
    reference_mask: Bool[torch.Tensor, "b r"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionOutput:
    """Parameters of the count distribution; None where the likelihood has no such parameter.

    Attributes
    ----------
    residual
        What is added to the log-rate of the closed-form model; exactly 0 before training.
    log_theta
        Logarithm of the inverse dispersion per gene.
    zi_logits
        Log-odds of an inflated zero.
    """

    residual: Float[torch.Tensor, "b n_genes"]
    log_theta: Float[torch.Tensor, " n_genes"] | None
    zi_logits: Float[torch.Tensor, "b n_genes"] | None


class FusionModel(nn.Module):
    """Predict the residual log-rate of each gene from a spot's image, its neighbours and reference spots.

    The image queries two sets of tokens by `CrossAttention`: `SpatialGCN` tokens of spatial neighbours, and
    `GeneEncoder` embeddings of spots retrieved from other sections. The three parts are merged, normalised
    and decoded linearly. The decoder starts at zero, so that an untrained model leaves the closed-form
    prediction as it is.

    Source: the SPAM manuscript (Park, Kim, Oh; in preparation), with retrieval after BLEEP (arXiv 2306.01859)
    and the ZINB head of scVI (Lopez et al., 10.1038/s41592-018-0229-2). Relative to the paper: the gene
    branch reads reference spots, never the spot itself; several tokens per attention; the decoder corrects a
    ridge instead of replacing it; dispersion per gene.

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
        Share of activations dropped in training.
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
        self.image_projector = ImageProjector(image_dim, proj_dim, dropout=dropout)
        self.gcn = SpatialGCN(image_dim, proj_dim, proj_dim, dropout=dropout)
        self.gene_encoder = GeneEncoder(n_genes, proj_dim, dropout=dropout)
        self.query = nn.Linear(proj_dim, fuse_dim)
        self.coord_attention = CrossAttention(
            proj_dim, proj_dim, fuse_dim, heads, bias_dim=3, dropout=dropout
        )
        self.gene_attention = CrossAttention(proj_dim, proj_dim, fuse_dim, heads, bias_dim=1, dropout=dropout)
        self.merge = merges[merge](fuse_dim)
        self.after_merge = nn.Sequential(nn.LayerNorm(fuse_dim), nn.GELU(), nn.Dropout(dropout))
        self.decoder = nn.Linear(fuse_dim, n_genes)
        nn.init.zeros_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)
        self.log_theta = None if likelihood == "poisson" else nn.Parameter(torch.zeros(n_genes))
        self.zi_head = nn.Linear(fuse_dim, n_genes) if likelihood == "zinb" else None
        if self.zi_head is not None:
            nn.init.zeros_(self.zi_head.weight)
            nn.init.constant_(self.zi_head.bias, _ZI_LOGIT_START)

    def forward(self, batch: FusionBatch) -> FusionOutput:
        """Predict for a batch; rows do not influence each other."""
        image = self.image_projector(batch.image)
        graph = batch.graph
        tokens = self.gcn.forward_blocks(graph.x_inputs, graph.adj1, graph.adj2)
        coord = self.coord_attention(
            image, tokens[batch.neighbour_index], batch.neighbour_offset, batch.neighbour_mask
        )
        references = self.gene_encoder(batch.reference_expression)
        gene = self.gene_attention(image, references, batch.reference_similarity, batch.reference_mask)
        merged = self.merge(torch.stack((self.query(image), coord, gene), dim=1))
        decoded = self.after_merge(merged)
        return FusionOutput(
            residual=self.decoder(decoded),
            log_theta=self.log_theta,
            zi_logits=None if self.zi_head is None else self.zi_head(decoded),
        )
