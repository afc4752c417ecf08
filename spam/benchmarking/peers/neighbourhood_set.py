"""A spot and the set of its neighbours, with their relative positions: the idea of DeepSpot and STFlow."""

import torch
from torch import nn
from torch.nn.functional import mse_loss

from spam.benchmarking.method_inputs import InputView
from spam.benchmarking.method_training import Schedule
from spam.models.networks import CrossAttention
from spam.typing import Float, Int64

from .fitting import Peer, PeerNetwork, References
from .fold_tensors import FoldTensors

__all__ = ["NEIGHBOURHOOD_SET", "NeighbourhoodSet"]

_DIM = 128
_HEADS = 4
_DROPOUT = 0.3


class NeighbourhoodSet(PeerNetwork):
    r"""Predicts from a spot, the maximum over its neighbours, and attention to them by content and relative position.

    .. math:: \hat y_i = \rho\big(\phi(x_i),\ \max_j \phi(x_j),\ \mathrm{attend}(\phi(x_i), \{\phi(x_j), r_{ij}\})\big)

    where `j` runs over the ``task.k`` nearest spots of the section. A spot without neighbours has zeros in their place.

    Source: DeepSpot, Nonchev et al. 2025, doi 10.1101/2025.02.09.25321567; STFlow, Huang et al., ICML 2025, arXiv
    2506.05361. Relative to the papers: DeepSpot sums over tiles inside the spot too, takes the median of ten `phi` and
    the mean of ten `rho`; here other tile sizes are part of each spot's input, and whole networks are averaged. STFlow
    refines a joint sample of the whole slide by flow matching, with attention that is invariant to rotations; here its
    attention over near spots is kept, and expression is regressed in one step by squared error.
    """

    def __init__(self, fold: FoldTensors, n_genes: int) -> None:
        super().__init__(fold)
        self.phi = nn.Sequential(nn.Linear(fold.inputs.shape[1], _DIM), nn.GELU(), nn.Dropout(_DROPOUT))
        self.attend = CrossAttention(_DIM, _DIM, _DIM, _HEADS, bias_dim=fold.offset.shape[2], dropout=0.0)
        self.rho = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(3 * _DIM, n_genes))

    def forward(self, rows: Int64[torch.Tensor, " b"]) -> Float[torch.Tensor, "b n_genes"]:
        """Centred expression of these rows."""
        fold = self.fold
        is_usable = fold.is_usable[rows]
        spot = self.phi(fold.inputs[rows])
        tokens = self.phi(fold.inputs[fold.neighbours[rows]])  # (b, t, dim)
        attended = self.attend(spot, tokens, fold.offset[rows], is_usable)
        # Phi ends above -1 (GELU), so where a spot has a neighbour an unused place is never the maximum.
        masked = tokens.masked_fill(~is_usable[:, :, None], -1.0)
        has_any = is_usable.any(dim=1, keepdim=True)
        largest = masked.amax(dim=1) * has_any if masked.shape[1] else torch.zeros_like(spot)
        out: torch.Tensor = self.rho(torch.cat([spot, largest, attended], dim=1))
        return out

    def loss(
        self, rows: Int64[torch.Tensor, " b"], expression: Float[torch.Tensor, "b n_genes"]
    ) -> Float[torch.Tensor, ""]:
        """Squared error, a mean over rows and genes."""
        return mse_loss(self(rows), expression)

    def predict(
        self, rows: Int64[torch.Tensor, " b"], references: References
    ) -> Float[torch.Tensor, "b n_genes"]:
        """Centred expression; `references` are not looked at."""
        out: torch.Tensor = self(rows)
        return out


NEIGHBOURHOOD_SET = Peer(
    name="STFlow/DeepSpot-style set",
    view=InputView(),
    build=NeighbourhoodSet,
    schedule=Schedule(epochs=40, lr=1e-3),
)
