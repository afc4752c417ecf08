"""Building blocks of both stages: projection, gene encoder, graph convolution, attention and merges."""

import dataclasses
import itertools
import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import nn

from spam.errors import ConfigError
from spam.typing import Array, Bool, Float, Int

from .linear import CsrMatrix

Merge: TypeAlias = Literal["gated-sum", "concat-proj"]
Adjacency: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Row-normalised sparse weights (m, s) as CSR: columns, row starts, values."""

_BIAS_HIDDEN = 16  # the bias reads one to three numbers per token; a wider layer would only fit noise


class ImageProjector(nn.Module):
    """Project image inputs into the shared space: ``LayerNorm(p + Linear(Dropout(GELU(p))))`` with ``p = Linear(x)``.

    Source: the projection head of BLEEP, Xie et al., arXiv 2306.01859. Relative to the paper: dropout stands before the
    second linear layer instead of after it, so that the residual path stays whole.
    """

    def __init__(self, in_dim: int, out_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(in_dim, out_dim)
        self.refine = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(out_dim, out_dim))
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Float[torch.Tensor, "b in_dim"]) -> Float[torch.Tensor, "b out_dim"]:
        """Embed image inputs."""
        projected = self.project(x)
        out: torch.Tensor = self.norm(projected + self.refine(projected))
        return out


class GeneEncoder(nn.Module):
    """Encode expression profiles (log1p of counts per 10k, centred per gene) with a self-normalising network.

    Source: Klambauer et al., arXiv 1706.02515: SELU, alpha dropout, LeCun-normal weights, zero biases.
    Relative to the paper: two hidden layers, twice as wide as the output, and a linear output; the input is centred but
    not scaled to unit variance, so that genes with little variation contribute little.
    """

    def __init__(self, n_genes: int, out_dim: int, *, dropout: float) -> None:
        super().__init__()
        sizes = (n_genes, 2 * out_dim, 2 * out_dim, out_dim)
        linear = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        between = [layer for _ in range(2) for layer in (nn.SELU(), nn.AlphaDropout(dropout))]
        self.layers = nn.Sequential(linear[0], *between[:2], linear[1], *between[2:], linear[2])
        for layer in linear:
            nn.init.normal_(layer.weight, std=1.0 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)

    def forward(self, expression: Float[torch.Tensor, "*b n_genes"]) -> Float[torch.Tensor, "*b out_dim"]:
        """Embed expression profiles; leading axes are kept."""
        out: torch.Tensor = self.layers(expression)
        return out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphInputs:
    """Input of `SpatialGCN` for the tokens of `t` spots.

    Attributes
    ----------
    x_inputs
        Image inputs of the `s` spots within two hops, or of `m` spots, each already averaged over its neighbours.
    adj1, adj2
        Weights (m, s) of the first layer (None for averaged inputs) and (t, m) of the second.
    """

    x_inputs: Float[torch.Tensor, "s in_dim"]
    adj1: Adjacency | None
    adj2: Adjacency


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks:
    """Exact two-hop neighbourhood of some spots.

    Attributes
    ----------
    inputs
        Rows of the section whose features enter, ascending.
    adj1, adj2
        As in `GraphInputs`.
    """

    inputs: Int[torch.Tensor, " s"]
    adj1: Adjacency
    adj2: Adjacency

    def gather(self, x: Float[torch.Tensor, "n in_dim"]) -> GraphInputs:
        """Select the features that enter from those of all spots; everything moves to their device."""
        first, second = (tuple(part.to(x.device) for part in adj) for adj in (self.adj1, self.adj2))
        return GraphInputs(x_inputs=x[self.inputs.to(x.device)], adj1=first, adj2=second)  # type: ignore[arg-type]


def closure(weights: CsrMatrix, nodes: Int[Array, " t"]) -> Blocks:
    r"""Find everything that the tokens of `nodes` depend on: their neighbours, and the neighbours of those.

    Rows of :math:`D^{-1} W` without self loops; a spot without neighbours has an empty row. No edge is dropped, so the
    tokens equal those of the whole graph. `nodes` keep their order and may repeat.
    """
    outer = _normalised_rows(weights, np.asarray(nodes, dtype=np.int64))
    middle = np.unique(outer.indices)
    inner = _normalised_rows(weights, middle)
    inputs = np.unique(inner.indices)
    return Blocks(
        inputs=torch.from_numpy(inputs.astype(np.int64)),
        adj1=_adjacency(inner, inputs),
        adj2=_adjacency(outer, middle),
    )


class Surroundings:
    """Image inputs of a cohort, each averaged over the spot's neighbours once: `closure` without its inner hop.

    Parameters
    ----------
    weights
        Spatial weights (n, n).
    inputs
        Image inputs (n, q) on the device.
    """

    def __init__(self, weights: CsrMatrix, inputs: Float[torch.Tensor, "n in_dim"]) -> None:
        everywhere = np.arange(len(inputs))
        self._means = _normalised_rows(weights, everywhere)
        adjacency = tuple(part.to(inputs.device) for part in _adjacency(self._means, everywhere))
        self._averaged = _aggregate(adjacency, inputs)  # type: ignore[arg-type]

    def of(self, nodes: Int[Array, " t"]) -> GraphInputs:
        """Gather what the tokens of `nodes` depend on."""
        outer = self._means[nodes]
        middle, device = np.unique(outer.indices), self._averaged.device
        adj2 = tuple(part.to(device) for part in _adjacency(outer, middle))
        x_inputs = self._averaged[torch.from_numpy(middle.astype(np.int64)).to(device)]
        return GraphInputs(x_inputs=x_inputs, adj1=None, adj2=adj2)  # type: ignore[arg-type]


def _normalised_rows(weights: CsrMatrix, rows: Int[Array, " r"]) -> sparse.csr_array:
    taken = sparse.coo_array(sparse.csr_array(weights)[rows])
    taken.data = np.where(rows[taken.row] == taken.col, 0.0, taken.data.astype(np.float64))
    taken.eliminate_zeros()
    taken.data = taken.data / np.asarray(taken.sum(axis=1)).ravel()[taken.row]
    return sparse.csr_array(taken)


def _adjacency(matrix: sparse.csr_array, columns: Int[Array, " c"]) -> Adjacency:
    """Renumber the columns, of which only `columns` (ascending) are in use."""
    indices = np.searchsorted(columns, matrix.indices).astype(np.int64)
    starts, values = matrix.indptr.astype(np.int64), matrix.data.astype(np.float32)
    return torch.from_numpy(indices), torch.from_numpy(starts), torch.from_numpy(values)


def _aggregate(adjacency: Adjacency, h: Float[torch.Tensor, "s d"]) -> Float[torch.Tensor, "m d"]:
    """Weighted sum over neighbours in float32 (or float64), also under autocast."""
    columns, starts, values = adjacency
    h = h.to(torch.promote_types(h.dtype, torch.float32))
    weights = values.to(h.dtype)
    return nn.functional.embedding_bag(
        columns, h, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


class SpatialGCN(nn.Module):
    r"""Make a token of each spot from the image inputs of its spatial neighbourhood.

    .. math:: H = \mathrm{ReLU}(\mathrm{LayerNorm}(A X W_1 + b_1)), \qquad T = A H W_2 + b_2

    with :math:`A = D^{-1} W`, see `closure`. The token of a spot without neighbours depends on the weights alone.

    Source: Kipf & Welling, arXiv 1609.02907. Relative to the paper: :math:`A` holds Gaussian weights of the
    spatial neighbours, normalised by row (a mean, whatever the degree) instead of symmetrically, and **no
    self loop**: the token is contrasted with the spot's own image, which would be trivial if it contained this image.
    (Two hops still lead back to the spot through its neighbours, with about 1/k of the weight.) LayerNorm is added.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(in_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(hidden_dim, out_dim)

    def forward(self, graph: GraphInputs) -> Float[torch.Tensor, "t out_dim"]:
        """Tokens of the spots whose `closure` this is."""
        # A (X W) = (A X) W: aggregating first multiplies fewer rows, and needs no gradient through the graph.
        averaged = graph.x_inputs if graph.adj1 is None else _aggregate(graph.adj1, graph.x_inputs)
        h = torch.relu(self.norm(self.first(averaged)))
        out: torch.Tensor = self.second(_aggregate(graph.adj2, self.dropout(h)))
        return out


class CrossAttention(nn.Module):
    r"""Let a query attend to `t` tokens by content and by their relation to it.

    .. math:: \mathrm{softmax}_t(q^\top k_t / \sqrt{d} + \mathrm{MLP}(r_t)) \, v_t

    per head, where :math:`r_t` holds the relation of token and query (relative position, or similarity).

    Source: Vaswani et al., arXiv 1706.03762; additive relative bias: Shaw et al., arXiv 1803.02155. Relative
    to the paper: the bias is a small network of continuous relations instead of a table; tokens are
    normalised first; keys and the last layer of the bias have no constant, which softmax would cancel; no
    residual connection, because the query enters the merge separately.

    Parameters
    ----------
    query_dim, token_dim
        Length of the query and of a token.
    dim, heads
        Length of the result, divided among the heads.
    bias_dim
        Number of relations per token.
    dropout
        Share of attention weights dropped in training.

    Raises
    ------
    ConfigError
        If `heads` does not divide `dim`.
    """

    def __init__(
        self, query_dim: int, token_dim: int, dim: int, heads: int, *, bias_dim: int, dropout: float
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            message = f"{heads} attention heads do not divide a width of {dim} (--heads, --fuse-dim)."
            raise ConfigError(message)
        self.heads = heads
        self.dropout = dropout
        self.token_norm = nn.LayerNorm(token_dim)
        self.query = nn.Linear(query_dim, dim)
        self.key = nn.Linear(token_dim, dim, bias=False)
        self.value = nn.Linear(token_dim, dim)
        self.bias = nn.Sequential(
            nn.Linear(bias_dim, _BIAS_HIDDEN), nn.GELU(), nn.Linear(_BIAS_HIDDEN, heads, bias=False)
        )
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        query: Float[torch.Tensor, "b query_dim"],
        tokens: Float[torch.Tensor, "b t token_dim"],
        bias_features: Float[torch.Tensor, "b t bias_dim"],
        mask: Bool[torch.Tensor, "b t"],
    ) -> Float[torch.Tensor, "b dim"]:
        """Attend to the tokens where `mask` is true; a row without any usable token gives zeros.

        The content of a masked token (NaN too) has no influence.
        """
        tokens = self.token_norm(tokens.masked_fill(~mask[..., None], 0.0))
        q = self.query(query)[:, None].unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, 1, d)
        k = self.key(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v = self.value(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        bias = self.bias(bias_features.masked_fill(~mask[..., None], 0.0)).transpose(1, 2)[:, :, None]
        # A row without usable tokens stays unmasked, because softmax over nothing is NaN; it is set to 0 below.
        is_hidden = ~mask & mask.any(dim=1, keepdim=True)
        bias = bias.to(q.dtype).masked_fill(is_hidden[:, None, None], -torch.inf)
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )
        out: torch.Tensor = self.out(attended.flatten(1))
        return out * mask.any(dim=1, keepdim=True)


class GatedSum(nn.Module):
    """Sum the parts of a spot with weights that sum to 1 and depend on all parts.

    Source: gated multimodal units, Arevalo et al., arXiv 1702.01992. Relative to the paper: one gate per part
    instead of one per channel (fewer parameters, for few spots), softmax instead of a sigmoid of two, and the
    parts are already projected.
    """

    def __init__(self, dim: int, *, n_parts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(n_parts * dim, n_parts)

    def forward(self, parts: Float[torch.Tensor, "b parts dim"]) -> Float[torch.Tensor, "b dim"]:
        """Merge the parts of each row."""
        weights: torch.Tensor = self.gate(parts.flatten(1)).softmax(dim=1)
        return (weights[..., None] * parts).sum(dim=1)


class ConcatProj(nn.Module):
    """Concatenate the parts of a spot and project them back to the width of one."""

    def __init__(self, dim: int, *, n_parts: int) -> None:
        super().__init__()
        self.project = nn.Linear(n_parts * dim, dim)

    def forward(self, parts: Float[torch.Tensor, "b parts dim"]) -> Float[torch.Tensor, "b dim"]:
        """Merge the parts of each row."""
        out: torch.Tensor = self.project(parts.flatten(1))
        return out
