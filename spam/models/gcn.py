"""Two-layer graph convolution over a section's spots, and the exact sub-graphs that mini-batches need."""

import dataclasses
import warnings

import numpy as np
import torch
from scipy import sparse
from torch import nn

from spam.errors import ConfigError
from spam.typing import Array, Float, Int

from .linear import CsrMatrix

__all__ = ["Blocks", "GraphInputs", "SpatialGCN", "closure", "normalised_adjacency"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphInputs:
    """What `SpatialGCN` reads to make the tokens of `t` spots.

    Attributes
    ----------
    x_inputs
        Image features of the `s` spots at the outer end of the graph.
    adj1, adj2
        Sparse row-normalised weights: (m, s) of the first layer, (t, m) of the second.
    """

    x_inputs: Float[torch.Tensor, "s in_dim"]
    adj1: torch.Tensor
    adj2: torch.Tensor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks:
    """The exact two-hop neighbourhood of some spots: which features to read, and the two adjacencies.

    Attributes
    ----------
    inputs
        Rows of the section whose features enter, ascending.
    adj1, adj2
        Sparse CSR float32 weights of shape (m, s) and (t, m).
    """

    inputs: Int[torch.Tensor, " s"]
    adj1: torch.Tensor
    adj2: torch.Tensor

    def to(self, device: torch.device | str) -> "Blocks":
        """Copy to a device."""
        return type(self)(inputs=self.inputs.to(device), adj1=self.adj1.to(device), adj2=self.adj2.to(device))

    def gather(self, x: Float[torch.Tensor, "n in_dim"]) -> GraphInputs:
        """Take the features that enter from those of the whole section, on the same device."""
        return GraphInputs(x_inputs=x[self.inputs], adj1=self.adj1, adj2=self.adj2)


def _normalised_rows(weights: CsrMatrix, rows: Int[Array, " r"]) -> sparse.csr_array:
    """Rows of the graph without self loops, each summing to 1; a row without neighbours stays empty."""
    taken = sparse.coo_array(sparse.csr_array(weights)[rows])
    taken.data = np.where(rows[taken.row] == taken.col, 0.0, taken.data.astype(np.float64))
    taken.eliminate_zeros()
    sums = np.asarray(taken.sum(axis=1)).ravel()
    taken.data = taken.data / sums[taken.row]
    return sparse.csr_array(taken)


def _check_weights(weights: CsrMatrix) -> None:
    is_fit = np.isfinite(weights.data) & (weights.data >= 0)
    if weights.shape[0] != weights.shape[1] or not is_fit.all():
        message = (
            f"a graph needs a square matrix of finite weights >= 0, not shape {weights.shape!r} with "
            f"{int((~is_fit).sum())!r} other weights; build the graph again with `spam graph`"
        )
        raise ConfigError(message)


def _to_torch(matrix: sparse.csr_array) -> torch.Tensor:
    with warnings.catch_warnings():
        # torch 2.15 says so at the first CSR tensor; we use it as a container alone.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.as_tensor(matrix.indptr, dtype=torch.int64),
            torch.as_tensor(matrix.indices, dtype=torch.int64),
            torch.as_tensor(matrix.data, dtype=torch.float32),
            size=matrix.shape,
            check_invariants=True,
        )


def normalised_adjacency(weights: CsrMatrix) -> torch.Tensor:
    """Turn a graph into the sparse CSR float32 matrix :math:`D^{-1} W`, self loops removed.

    A spot without neighbours gets a row of zeros.

    Raises
    ------
    ConfigError
        If the matrix is not square, or a weight is negative or not finite.
    """
    _check_weights(weights)
    return _to_torch(_normalised_rows(weights, np.arange(weights.shape[0])))


def closure(weights: CsrMatrix, nodes: Int[Array, " t"]) -> Blocks:
    """Find all that the tokens of `nodes` depend on: their neighbours, and the neighbours of those.

    ``gcn.forward_blocks(*)`` on the result equals ``gcn(x, normalised_adjacency(weights))[nodes]``: no edge
    is dropped. `nodes` keep their order and may repeat.

    Raises
    ------
    ConfigError
        If the matrix is not square, or a weight is negative or not finite.
    """
    _check_weights(weights)
    outer = _normalised_rows(weights, np.asarray(nodes, dtype=np.int64))
    middle = np.unique(outer.indices)
    inner = _normalised_rows(weights, middle)
    inputs = np.unique(inner.indices)
    return Blocks(
        inputs=torch.as_tensor(inputs, dtype=torch.int64),
        adj1=_to_torch(_with_columns(inner, inputs)),
        adj2=_to_torch(_with_columns(outer, middle)),
    )


def _with_columns(matrix: sparse.csr_array, columns: Int[Array, " c"]) -> sparse.csr_array:
    """Give the columns new numbers, keeping only `columns` (ascending, all that are in use)."""
    indices = np.searchsorted(columns, matrix.indices)
    return sparse.csr_array((matrix.data, indices, matrix.indptr), shape=(matrix.shape[0], len(columns)))


def _aggregate(adjacency: torch.Tensor, h: Float[torch.Tensor, "s d"]) -> Float[torch.Tensor, "m d"]:
    """Weighted sum over neighbours: ``adjacency @ h`` in float32 (or float64), also under autocast."""
    h = h.to(torch.promote_types(h.dtype, torch.float32))
    return nn.functional.embedding_bag(
        adjacency.col_indices(),
        h,
        adjacency.crow_indices(),
        mode="sum",
        per_sample_weights=adjacency.values().to(h.dtype),
        include_last_offset=True,
    )


class SpatialGCN(nn.Module):
    r"""Make a token of each spot from the image features of its spatial neighbourhood.

    .. math:: H = \mathrm{ReLU}(\mathrm{LayerNorm}(A X W_1 + b_1)), \qquad T = A H W_2 + b_2

    with :math:`A = D^{-1} W` from `normalised_adjacency`. A spot without neighbours gets a token that depends
    on the weights alone.

    Source: Kipf & Welling, arXiv 1609.02907. Relative to the paper: :math:`A` holds Gaussian weights of the
    spatial neighbours, normalised by row (a mean, whatever the degree) instead of symmetrically, and **no
    self loop**: the token is contrasted with the spot's own image, which would be trivial if the image were
    in it. (Two hops still lead back to the spot through its neighbours, with about 1/k of the weight.)
    LayerNorm is added.

    Parameters
    ----------
    in_dim, hidden_dim, out_dim
        Length of the image features, of the hidden layer and of the token.
    dropout
        Share of hidden activations dropped in training.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(in_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(hidden_dim, out_dim)

    def forward(
        self, x: Float[torch.Tensor, "n in_dim"], adjacency: torch.Tensor
    ) -> Float[torch.Tensor, "n out_dim"]:
        """Tokens of all spots of a section; `adjacency` is `normalised_adjacency` of its graph."""
        return self.forward_blocks(x, adjacency, adjacency)

    def forward_blocks(
        self, x_inputs: Float[torch.Tensor, "s in_dim"], adj1: torch.Tensor, adj2: torch.Tensor
    ) -> Float[torch.Tensor, "t out_dim"]:
        """Tokens of the `t` spots whose `closure` this is, the same as `forward` gives for them."""
        # A (X W) = (A X) W: aggregating first multiplies fewer rows, and needs no gradient through the graph.
        h = torch.relu(self.norm(self.first(_aggregate(adj1, x_inputs))))
        out: torch.Tensor = self.second(_aggregate(adj2, self.dropout(h)))
        return out
