"""Stage 2's model: an image that can attend to neighbours and references, decoded into a correction of the path."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

from spam.graphs import knn
from spam.typing import Array, Bool, Float, Float32, Int, Int64

from .count_likelihood import Likelihood
from .networks import (
    ConcatProj,
    CrossAttention,
    GatedSum,
    GeneEncoder,
    GraphInputs,
    ImageProjector,
    Merge,
    SpatialGCN,
    closure,
)

Branch: TypeAlias = Literal["coord", "gene"]

# sigmoid(-3) = 5 % inflated zeros at the start: low, because most zeros of such counts are sampling zeros.
_ZI_LOGIT_START = -3.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenTable:
    """Spots that each spot may attend to, nearest or most similar first.

    Attributes
    ----------
    index
        Rows of the tokens, (n, t); unused places hold 0.
    relation
        Relation of token and spot, (n, t, r). Of a spatial neighbour (r = 3): x and y offset in units of the section's
        spot distance, and log1p of the distance in that unit. Of a reference (r = 1): cosine of the image inputs.
    is_usable
        False at unused places, (n, t).
    """

    index: Int64[Array, "n t"]
    relation: Float32[Array, "n t r"]
    is_usable: Bool[Array, "n t"]


def retrieve(queries: Float32[Array, "n q"], bank: Float32[Array, "m q"], k: int) -> TokenTable:
    """Find the k bank spots with the most similar image inputs (cosine) for each query.

    With fewer than `k` spots in the bank, the last places stay unused.
    """
    index = np.zeros((len(queries), k), dtype=np.int64)
    similarity = np.zeros((len(queries), k, 1), dtype=np.float32)
    is_usable = np.zeros((len(queries), k), dtype=bool)
    if len(bank) and len(queries):
        found = knn(bank, queries, k=min(k, len(bank)), metric="cosine")
        width = found.indices.shape[1]
        index[:, :width], is_usable[:, :width] = found.indices, True
        similarity[:, :width, 0] = 1.0 - found.distances
    return TokenTable(index=index, relation=similarity, is_usable=is_usable)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """Tokens of `b` spots.

    Attributes
    ----------
    values
        What the `u` different tokens are encoded from: their exact graph neighbourhood (``closure(weights,
        tokens).gather(features)``), or their centred log1p(CP10k), (u, n_genes).
    index, relation, mask
        As in `TokenTable`; `index` counts through the `u` tokens.
    """

    values: GraphInputs | Float[torch.Tensor, "u n_genes"]
    index: Int[torch.Tensor, "b t"]
    relation: Float[torch.Tensor, "b t r"]
    mask: Bool[torch.Tensor, "b t"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionBatch:
    """Input of `FusionModel` for `b` spots; nothing in it may come from the spots' own counts.

    Attributes
    ----------
    image
        Image inputs of the spots.
    neighbours, references
        Tokens of the branches ``coord`` and ``gene``; None if the model does not have the branch.
    """

    image: Float[torch.Tensor, "b image_dim"]
    neighbours: TokenBatch | None = None
    references: TokenBatch | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionInputs:
    """Inputs of all spots of a cohort or a section, resident on the device.

    Attributes
    ----------
    inputs
        Image inputs, (n, q), on the device.
    neighbours, weights
        Spatial neighbours as rows of `inputs`, and spatial weights, (n, n); None without branch ``coord``.
    references, bank
        Reference spots as rows of `bank`, and the bank's expression relative to its group, (m, n_genes), on the device;
        None without branch ``gene``.
    """

    inputs: Float[torch.Tensor, "n q"]
    neighbours: TokenTable | None = None
    weights: csr_matrix | None = None
    references: TokenTable | None = None
    bank: Float[torch.Tensor, "m n_genes"] | None = None

    def batch(self, rows: Int64[Array, " b"]) -> FusionBatch:
        """Gather the batch of these rows, with the exact two-hop neighbourhood of every token."""
        device = self.inputs.device
        neighbours = references = None
        if self.neighbours is not None and self.weights is not None:
            tokens, index = np.unique(self.neighbours.index[rows], return_inverse=True)
            graph = closure(self.weights, tokens).gather(self.inputs)
            neighbours = _token_batch(self.neighbours, rows, graph, index, device)
        if self.references is not None and self.bank is not None:
            tokens, index = np.unique(self.references.index[rows], return_inverse=True)
            expression = self.bank[torch.from_numpy(tokens).to(device)]
            references = _token_batch(self.references, rows, expression, index, device)
        image = self.inputs[torch.from_numpy(rows).to(device)]
        return FusionBatch(image=image, neighbours=neighbours, references=references)


def _token_batch(
    table: TokenTable, rows: Array, values: GraphInputs | torch.Tensor, index: Array, device: torch.device
) -> TokenBatch:
    return TokenBatch(
        values=values,
        index=torch.from_numpy(index.reshape(table.index[rows].shape)).to(device),
        relation=torch.from_numpy(table.relation[rows]).to(device),
        mask=torch.from_numpy(table.is_usable[rows]).to(device),
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionOutput:
    """Corrections of the path and parameters of the count distribution; None where the likelihood has no such parameter.

    Attributes
    ----------
    expression
        Added to the path's log1p(CP10k); exactly 0 before training.
    log_rate
        Added to the logarithm of the rate that belongs to that expression; exactly 0 before training.
    log_theta
        Logarithm of the inverse dispersion per gene.
    zi_logits
        Log-odds of an inflated zero.
    """

    expression: Float[torch.Tensor, "b n_genes"]
    log_rate: Float[torch.Tensor, "n_counted n_genes"]
    log_theta: Float[torch.Tensor, " n_genes"] | None
    zi_logits: Float[torch.Tensor, "n_counted n_genes"] | None


class FusionModel(nn.Module):
    """Predict each gene's expression and count distribution from a spot's image, its neighbours and references.

    The image queries two sets of tokens by `CrossAttention`: `SpatialGCN` tokens of spatial neighbours, and
    `GeneEncoder` embeddings of spots retrieved from other sections. The parts are merged, normalised and decoded
    linearly, into log1p expression and into a correction of the count rate. Both decoders start at zero, so an untrained
    model leaves the path as it is.

    Source: the SPAM manuscript (Park, Kim, Oh; in preparation), with retrieval after BLEEP (arXiv 2306.01859)
    and the ZINB head of scVI (Lopez et al., 10.1038/s41592-018-0229-2). Relative to the paper: the gene
    branch reads reference spots, never the spot itself; several tokens per attention; dropout on the image inputs too;
    expression has a separate decoder beside that of the counts; dispersion per gene.

    Parameters
    ----------
    image_dim, n_genes
        Length of the image inputs and of the expression profile.
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
        If `heads` does not divide `fuse_dim`.
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
        self.drop_inputs = nn.Dropout(dropout)
        self.image_projector = ImageProjector(image_dim, proj_dim, dropout=dropout)
        self.query = nn.Linear(proj_dim, fuse_dim)
        self.gcn: SpatialGCN | None = None
        self.gene_encoder: GeneEncoder | None = None
        sizes = (proj_dim, proj_dim, fuse_dim, heads)
        if "coord" in branches:
            self.gcn = SpatialGCN(image_dim, proj_dim, proj_dim, dropout=dropout)
            self.coord_attention = CrossAttention(*sizes, bias_dim=3, dropout=dropout)
        if "gene" in branches:
            self.gene_encoder = GeneEncoder(n_genes, proj_dim, dropout=dropout)
            self.gene_attention = CrossAttention(*sizes, bias_dim=1, dropout=dropout)
        merge_class = {"gated-sum": GatedSum, "concat-proj": ConcatProj}[merge]
        self.merge = merge_class(fuse_dim, n_parts=1 + len(branches))
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

    def forward(self, batch: FusionBatch, counted: slice = slice(None)) -> FusionOutput:
        """Predict for a batch; rows do not influence each other. Parameters of the counts are those of the rows `counted`."""
        image = self.image_projector(self.drop_inputs(batch.image))
        parts = [self.query(image)]
        if self.gcn is not None and batch.neighbours is not None:
            near, graph = batch.neighbours, batch.neighbours.values
            assert isinstance(graph, GraphInputs)
            tokens = self.gcn(dataclasses.replace(graph, x_inputs=self.drop_inputs(graph.x_inputs)))
            parts.append(self.coord_attention(image, tokens[near.index], near.relation, near.mask))
        if self.gene_encoder is not None and batch.references is not None:
            refs = batch.references
            tokens = self.gene_encoder(refs.values)
            parts.append(self.gene_attention(image, tokens[refs.index], refs.relation, refs.mask))
        decoded = self.after_merge(self.merge(torch.stack(parts, dim=1)))
        # Stop-gradient: the count likelihood does not update the shared representation, because it overfits count noise.
        stopped = decoded.detach()[counted]
        return FusionOutput(
            expression=self.expression_decoder(decoded),
            log_rate=self.rate_decoder(stopped),
            log_theta=self.log_theta,
            zi_logits=None if self.zi_head is None else self.zi_head(stopped),
        )


class FusionEnsemble(nn.Module):
    """Several `FusionModel` with different random weights, trained side by side and averaged.

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

    def each(self, batch: FusionBatch) -> tuple[Float[torch.Tensor, "members b n_genes"], FusionOutput]:
        """Return every member's expression for all rows, and one output for the likelihood of the counts.

        In that output, member i predicts the i-th part of the batch, because a likelihood of all spots by all members would be
        most of the work of a step. Training shuffles the spots, so that members get other spots in each epoch.
        """
        n, n_members = len(batch.image), len(self.members)
        shares = [slice(n * i // n_members, n * (i + 1) // n_members) for i in range(n_members)]
        outputs = [member(batch, share) for member, share in zip(self.members, shares, strict=True)]
        own = [
            dataclasses.replace(output, expression=output.expression[share])
            for output, share in zip(outputs, shares, strict=True)
        ]
        return torch.stack([output.expression for output in outputs]), _combined(own, torch.cat)

    def forward(self, batch: FusionBatch) -> FusionOutput:
        """Mean over the members."""
        return _combined([member(batch) for member in self.members], _mean)


def _combined(
    outputs: list[FusionOutput], combine: Callable[[list[torch.Tensor]], torch.Tensor]
) -> FusionOutput:
    """Combine each parameter of several outputs; of the dispersions, which no spot has alone, the mean is taken."""
    values: dict[str, Any] = {}
    for name in ("expression", "log_rate", "log_theta", "zi_logits"):
        parts = [getattr(output, name) for output in outputs]
        merge = _mean if name == "log_theta" else combine
        values[name] = None if parts[0] is None else merge(parts)
    return FusionOutput(**values)


def _mean(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(parts).mean(dim=0)
