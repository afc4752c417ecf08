"""What the fusion model looks at, resident on the device: built alike for training and for a new section."""

import dataclasses

import numpy as np
import torch
from scipy.sparse import csr_matrix

from spam.models import FusionBatch, closure
from spam.typing import Array, Float, Float32, Int64

from .dataset import References
from .neighbours import NeighbourTable

__all__ = ["FusionInputs"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusionInputs:
    """Inputs of all spots of a cohort or a section; nothing in here depends on a spot's own counts.

    Attributes
    ----------
    inputs
        Image inputs, (n, q), on the device.
    weights
        Spatial weights, (n, n).
    neighbours
        Spatial neighbours as rows of `inputs`.
    references
        Reference spots as rows of `bank`.
    bank
        Expression of the references relative to their group, (m, n_genes), on the device.
    """

    inputs: Float[torch.Tensor, "n q"]
    weights: csr_matrix
    neighbours: NeighbourTable
    references: References
    bank: Float[torch.Tensor, "m n_genes"]

    @classmethod
    def to_device(
        cls,
        inputs: Float32[Array, "n q"],
        weights: csr_matrix,
        neighbours: NeighbourTable,
        references: References,
        bank: Float32[Array, "m n_genes"],
        *,
        device: torch.device,
    ) -> "FusionInputs":
        """Move the large arrays to the device, once; an empty bank gets a row that nobody looks at."""
        if not len(bank):
            bank = np.zeros((1, bank.shape[1]), dtype=np.float32)  # unused places point at row 0
        return cls(
            inputs=torch.from_numpy(inputs).to(device),
            weights=weights,
            neighbours=neighbours,
            references=references,
            bank=torch.from_numpy(bank).to(device),
        )

    def batch(self, rows: Int64[Array, " b"]) -> FusionBatch:
        """Gather the batch of these rows, with the exact two-hop neighbourhood of every token."""
        device = self.inputs.device
        tokens, position = np.unique(self.neighbours.index[rows], return_inverse=True)
        blocks = closure(self.weights, tokens).to(device)
        referred, where = np.unique(self.references.index[rows], return_inverse=True)
        return FusionBatch(
            image=self.inputs[torch.from_numpy(rows).to(device)],
            graph=blocks.gather(self.inputs),
            neighbour_index=torch.from_numpy(position.reshape(self.neighbours.index[rows].shape)).to(device),
            neighbour_offset=torch.from_numpy(self.neighbours.offset[rows]).to(device),
            neighbour_mask=torch.from_numpy(self.neighbours.is_usable[rows]).to(device),
            reference_expression=self.bank[torch.from_numpy(referred).to(device)],
            reference_index=torch.from_numpy(where.reshape(self.references.index[rows].shape)).to(device),
            reference_similarity=torch.from_numpy(self.references.similarity[rows][:, :, None]).to(device),
            reference_mask=torch.from_numpy(self.references.is_usable[rows]).to(device),
        )
