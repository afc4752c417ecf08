"""Retrieval in a space where images and expression profiles were aligned by contrast: the idea of BLEEP."""

import torch
from torch import nn
from torch.nn.functional import normalize

from spam.benchmarking.method_inputs import InputView
from spam.benchmarking.method_training import Schedule
from spam.typing import Float, Int64

from .fitting import Peer, PeerNetwork, References
from .fold_tensors import FoldTensors

__all__ = ["BLEEP", "ContrastiveRetrieval", "soft_target_contrast"]

_DIM = 256
_DROPOUT = 0.1
_TEMPERATURE = 1.0
_N_RETRIEVED = 50


class ContrastiveRetrieval(PeerNetwork):
    """Aligns images with expression; a new image gets the mean profile of the 50 spots whose profiles lie nearest.

    Nearness is the cosine between the image's embedding and those of the reference *profiles*. All references are
    averaged where there are fewer.

    Source: BLEEP, Xie et al., NeurIPS 2023, arXiv 2306.01859; code of the authors at github.com/bowang-lab/BLEEP.
    Relative to the paper: the same projection heads (width 256, one hidden layer, residual, layer norm), soft targets,
    temperature 1 and average of the top 50; the image encoder is frozen and shared by all methods, with all tile sizes,
    instead of a ResNet-50 that is trained; profiles are centred within their section instead of aligned by Harmony.
    """

    def __init__(self, fold: FoldTensors, n_genes: int) -> None:
        super().__init__(fold)
        self.image_head = _ProjectionHead(fold.inputs.shape[1])
        self.profile_head = _ProjectionHead(n_genes)

    def loss(
        self, rows: Int64[torch.Tensor, " b"], expression: Float[torch.Tensor, "b n_genes"]
    ) -> Float[torch.Tensor, ""]:
        """Contrast the images of these rows with their profiles."""
        return soft_target_contrast(
            self.image_head(self.fold.inputs[rows]), self.profile_head(expression), temperature=_TEMPERATURE
        )

    def predict(
        self, rows: Int64[torch.Tensor, " b"], references: References
    ) -> Float[torch.Tensor, "b n_genes"]:
        """Mean profile of the nearest references."""
        query = normalize(self.image_head(self.fold.inputs[rows]), dim=1)
        bank = normalize(self.profile_head(references.expression), dim=1)
        nearest = (query @ bank.T).topk(min(_N_RETRIEVED, len(bank)), dim=1).indices
        return references.expression[nearest].mean(dim=1)


def soft_target_contrast(
    image: Float[torch.Tensor, "b d"], profile: Float[torch.Tensor, "b d"], *, temperature: float
) -> Float[torch.Tensor, ""]:
    r"""Symmetric contrast whose targets are soft, so that look-alikes are no negatives.

    .. math::
        L = \tfrac12 H(T, P I^\top / \tau) + \tfrac12 H(T, I P^\top / \tau), \qquad
        T = \mathrm{softmax}(\tau (I I^\top + P P^\top) / 2)

    with images `I`, profiles `P` and the row-wise cross-entropy `H`, a mean over rows.

    Relative to BLEEP: the authors' code takes the transpose of `T` as the targets of the second direction, whose rows
    do not sum to 1; the similarities are symmetric, so `T` itself is what a softmax in that direction gives.
    """
    logits = profile @ image.T / temperature
    targets = ((image @ image.T + profile @ profile.T) / 2 * temperature).softmax(dim=1)
    by_profile = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
    by_image = -(targets * logits.T.log_softmax(dim=1)).sum(dim=1)
    return (by_profile + by_image).mean() / 2


class _ProjectionHead(nn.Module):
    """Linear map, then a residual layer and layer norm."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.project = nn.Linear(n_inputs, _DIM)
        self.refine = nn.Sequential(nn.GELU(), nn.Linear(_DIM, _DIM), nn.Dropout(_DROPOUT))
        self.norm = nn.LayerNorm(_DIM)

    def forward(self, x: Float[torch.Tensor, "b n_inputs"]) -> Float[torch.Tensor, "b d"]:
        projected = self.project(x)
        out: torch.Tensor = self.norm(projected + self.refine(projected))
        return out


BLEEP = Peer(
    name="BLEEP",
    view=InputView(),
    build=ContrastiveRetrieval,
    schedule=Schedule(epochs=40, lr=1e-3, weight_decay=1e-3, batch_size=128),
)
