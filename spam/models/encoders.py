"""Small trainable encoders in front of the shared space: one for image features, one for expression."""

import math

import torch
from torch import nn

from spam.typing import Float

__all__ = ["GeneEncoder", "ImageProjector"]


class ImageProjector(nn.Module):
    """Project the features of a frozen image encoder into the shared space.

    ``LayerNorm(p + Linear(Dropout(GELU(p))))`` with ``p = Linear(x)``.

    Source: the projection head of BLEEP, Xie et al., arXiv 2306.01859. Relative to the paper: the same
    layers; dropout stands before the second linear layer instead of after it, so that the residual path stays
    whole.
    """

    def __init__(self, in_dim: int, out_dim: int, *, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(in_dim, out_dim)
        self.refine = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(out_dim, out_dim))
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Float[torch.Tensor, "b in_dim"]) -> Float[torch.Tensor, "b out_dim"]:
        """Embed image features."""
        projected = self.project(x)
        out: torch.Tensor = self.norm(projected + self.refine(projected))
        return out


class GeneEncoder(nn.Module):
    """Encode expression profiles (log1p of counts per 10k, centred per gene) with a self-normalising network.

    Source: Klambauer et al., arXiv 1706.02515: SELU, alpha dropout, LeCun-normal weights, zero biases.
    Relative to the paper: two hidden layers and a linear output; the input is centred but not scaled to unit
    variance, so that genes that hardly vary stay quiet.

    Parameters
    ----------
    n_genes, out_dim
        Length of the profile and of the embedding; both hidden layers are twice as wide as that.
    dropout
        Rate of alpha dropout in training.
    """

    def __init__(self, n_genes: int, out_dim: int, *, dropout: float) -> None:
        super().__init__()
        hidden_dim = 2 * out_dim
        self.layers = nn.Sequential(
            nn.Linear(n_genes, hidden_dim),
            nn.SELU(),
            nn.AlphaDropout(dropout),
            nn.Linear(hidden_dim, hidden_dim),
            nn.SELU(),
            nn.AlphaDropout(dropout),
            nn.Linear(hidden_dim, out_dim),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=1.0 / math.sqrt(layer.in_features))
                nn.init.zeros_(layer.bias)

    def forward(self, expression: Float[torch.Tensor, "*b n_genes"]) -> Float[torch.Tensor, "*b out_dim"]:
        """Embed expression profiles; leading axes are kept."""
        out: torch.Tensor = self.layers(expression)
        return out
