"""A plain regression head on one tile's frozen features: the idea of ST-Net and DeepPT."""

import torch
from torch import nn
from torch.nn.functional import mse_loss

from spam.benchmarking.method_inputs import InputView
from spam.benchmarking.method_training import Schedule
from spam.typing import Float, Int64

from .fitting import Peer, PeerNetwork, References
from .fold_tensors import FoldTensors

__all__ = ["ST_NET_MLP", "TileRegression"]

_HIDDEN = 512  # as in DeepPT
_DROPOUT = 0.3


class TileRegression(PeerNetwork):
    """One hidden layer from the components of a single tile to all genes, by squared error.

    Source: ST-Net, He et al. 2020, doi 10.1038/s41551-020-0578-x; DeepPT, Hoang et al. 2024, doi
    10.1038/s43018-024-00793-2. Relative to the papers: ST-Net fine-tunes a DenseNet-121 under a linear head, DeepPT
    squeezes 2048 frozen ResNet-50 features to 512 by an autoencoder, and fits a head of 512 hidden units, five of them
    averaged. Here features are frozen and come from the encoder that all methods share, principal components take the
    place of the autoencoder, and features and targets are relative to their section.
    """

    def __init__(self, fold: FoldTensors, n_genes: int) -> None:
        super().__init__(fold)
        self.layers = nn.Sequential(
            nn.Linear(fold.inputs.shape[1], _HIDDEN),
            nn.ReLU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_HIDDEN, n_genes),
        )

    def loss(
        self, rows: Int64[torch.Tensor, " b"], expression: Float[torch.Tensor, "b n_genes"]
    ) -> Float[torch.Tensor, ""]:
        """Squared error, a mean over rows and genes."""
        return mse_loss(self.layers(self.fold.inputs[rows]), expression)

    def predict(
        self, rows: Int64[torch.Tensor, " b"], references: References
    ) -> Float[torch.Tensor, "b n_genes"]:
        """Centred expression; `references` are not looked at."""
        out: torch.Tensor = self.layers(self.fold.inputs[rows])
        return out


ST_NET_MLP = Peer(
    name="ST-Net MLP",
    view=InputView(scales="smallest"),
    build=TileRegression,
    schedule=Schedule(epochs=40, lr=3e-4),
)
