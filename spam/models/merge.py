"""Ways to merge the parts of a spot into one vector: its image, and what it attends to."""

from typing import Literal, TypeAlias

import torch
from torch import nn

from spam.typing import Float

__all__ = ["ConcatProj", "GatedSum", "Merge"]

Merge: TypeAlias = Literal["gated-sum", "concat-proj"]


class GatedSum(nn.Module):
    """Sum the parts with weights that sum to 1 and depend on all parts of the spot.

    Source: gated multimodal units, Arevalo et al., arXiv 1702.01992. Relative to the paper: one gate per part
    instead of one per channel (fewer parameters, for few spots), softmax instead of a sigmoid of two, and the
    parts come projected already.
    """

    def __init__(self, dim: int, *, n_parts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(n_parts * dim, n_parts)

    def forward(self, parts: Float[torch.Tensor, "b parts dim"]) -> Float[torch.Tensor, "b dim"]:
        """Merge the parts of each row."""
        weights: torch.Tensor = self.gate(parts.flatten(1)).softmax(dim=1)
        return (weights[..., None] * parts).sum(dim=1)


class ConcatProj(nn.Module):
    """Concatenate the parts and project them back to the width of one."""

    def __init__(self, dim: int, *, n_parts: int) -> None:
        super().__init__()
        self.project = nn.Linear(n_parts * dim, dim)

    def forward(self, parts: Float[torch.Tensor, "b parts dim"]) -> Float[torch.Tensor, "b dim"]:
        """Merge the parts of each row."""
        out: torch.Tensor = self.project(parts.flatten(1))
        return out
