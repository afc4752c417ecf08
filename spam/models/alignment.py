"""The model of stage 1: image, spatial neighbourhood and expression of a spot in one shared space."""

import dataclasses
from typing import Literal, TypeAlias

import torch
from torch import nn

from spam.errors import ConfigError
from spam.typing import Float

from .encoders import GeneEncoder, ImageProjector
from .gcn import GraphInputs, SpatialGCN

__all__ = ["AlignmentMode", "AlignmentModel", "Embeddings"]

AlignmentMode: TypeAlias = Literal["joint", "img-gene", "img-coord"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings:
    """Embeddings of the same `b` spots, one row each; None where the mode does not make them."""

    image: Float[torch.Tensor, "b proj_dim"]
    gene: Float[torch.Tensor, "b proj_dim"] | None
    coord: Float[torch.Tensor, "b proj_dim"] | None


class AlignmentModel(nn.Module):
    """Embed the image of a spot, its expression, and the images of its neighbourhood.

    The parts have the names and shapes that they have in `FusionModel`, so their weights carry over by name.

    Source: CLIP, Radford et al., arXiv 2103.00020. Relative to the paper: the image encoder is frozen and
    only its projection is trained; expression (`GeneEncoder`) or spatial neighbourhood (`SpatialGCN`) stand
    in for text.

    Parameters
    ----------
    image_dim, n_genes, proj_dim
        Length of the image features, of the expression profile and of the shared space.
    mode
        ``img-gene`` builds no graph network, ``img-coord`` no gene encoder, ``joint`` both.
    dropout
        Share of activations dropped in training.

    Raises
    ------
    ConfigError
        If the mode is unknown.
    """

    def __init__(
        self, *, image_dim: int, n_genes: int, proj_dim: int, mode: AlignmentMode, dropout: float
    ) -> None:
        super().__init__()
        if mode not in ("joint", "img-gene", "img-coord"):
            message = f"mode {mode!r} is unknown; --mode is joint, img-gene or img-coord"
            raise ConfigError(message)
        self.image_projector = ImageProjector(image_dim, proj_dim, dropout=dropout)
        self.gcn = None if mode == "img-gene" else SpatialGCN(image_dim, proj_dim, proj_dim, dropout=dropout)
        self.gene_encoder = None if mode == "img-coord" else GeneEncoder(n_genes, proj_dim, dropout=dropout)

    def forward(
        self,
        image: Float[torch.Tensor, "b image_dim"],
        expression: Float[torch.Tensor, "b n_genes"] | None,
        graph: GraphInputs | None,
    ) -> Embeddings:
        """Embed a batch of spots.

        Parameters
        ----------
        image
            Image features of the spots.
        expression
            Their log1p of counts per 10k, centred; None in mode ``img-coord``.
        graph
            Their exact neighbourhood, ``closure(weights, spots).gather(features)``; None in mode
            ``img-gene``.

        Raises
        ------
        ConfigError
            If an input is missing that the mode needs, or is there though the mode does not read it.
        """
        faults = [
            f"{name} {'missing' if value is None else 'given'}"
            for name, value, part in (
                ("expression", expression, self.gene_encoder),
                ("graph", graph, self.gcn),
            )
            if (value is None) != (part is None)
        ]
        if faults:
            message = (
                f"an alignment batch does not fit its --mode: {', '.join(faults)}; joint reads expression "
                "and graph, img-gene expression alone, img-coord the graph alone"
            )
            raise ConfigError(message)
        gene = coord = None
        if self.gene_encoder is not None:
            gene = self.gene_encoder(expression)
        if self.gcn is not None and graph is not None:
            coord = self.gcn.forward_blocks(graph.x_inputs, graph.adj1, graph.adj2)
        return Embeddings(image=self.image_projector(image), gene=gene, coord=coord)
