"""What `condition` did with the measured part of a section."""

import dataclasses
from typing import Literal, TypeAlias

from .kriging import ResidualField

__all__ = ["ContextFacts", "LibrarySize"]

LibrarySize: TypeAlias = Literal["stated", "sums", "panel"]
"""Where library sizes of measured spots come from: the file states them; they are sums of its counts; or the file holds a
panel of genes, which tells none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContextFacts:
    """What was used of a context, and what was learned from it.

    Attributes
    ----------
    n_spots, n_genes
        Measured spots and modelled genes that were used.
    library_size
        How their counts were brought to 10k.
    relative_share
        What these genes make up of the file's counts, over what they make up of the reference bank's: 1 in tissue alike,
        above 1 where the file lacks genes. None where library sizes are stated, and where the bank shows none of them.
    kriging
        Covariance of what the prediction missed of the measured genes.
    panel_weights
        Weights of what images and what the panel say of the genes that were not measured; None where all were.
    panel_kriging
        Covariance of what the prediction missed of those; None likewise.
    """

    n_spots: int
    n_genes: int
    library_size: LibrarySize
    relative_share: float | None
    kriging: ResidualField
    panel_weights: tuple[float, float] | None
    panel_kriging: ResidualField | None
