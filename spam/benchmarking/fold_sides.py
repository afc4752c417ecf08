"""The two sides of a fold: whole sections, or a lone section that is cut with a buffer between."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from spam.errors import ConfigError, StoreError
from spam.graphs import knn, spatial_knn_graph
from spam.store import StoredSection
from spam.training.cohort import SpotData
from spam.training.groups import N_BLOCKS, spatial_blocks
from spam.typing import Array, Bool

from .folds import Fold

__all__ = ["FoldSides", "block_roles", "part_of", "split_fold", "tile_width"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldSides:
    """The two sides of a fold, both with all that was measured.

    Attributes
    ----------
    fold
        Its plan.
    train, test
        Sections, or parts of a lone section.
    n_dropped
        Spots of a lone section that are on neither side, see `block_roles`.
    buffer
        Least distance of training and test spots of one section, in the unit of its coordinates; 0 between sections.
    """

    fold: Fold
    train: tuple[SpotData, ...]
    test: tuple[SpotData, ...]
    n_dropped: int = 0
    buffer: float = 0.0


def split_fold(
    fold: Fold, spots: Mapping[str, SpotData], *, k: int, tile_widths: Mapping[str, float]
) -> FoldSides:
    """Take the sections of both sides, or cut a lone section into them with a buffer between.

    Parameters
    ----------
    spots
        Sections of the benchmark by name, with counts.
    k
        Spatial neighbours in the graphs of the parts.
    tile_widths
        Side of the largest tile of each section that is cut, in the unit of its coordinates.

    Raises
    ------
    ConfigError
        If the buffer leaves fewer than two training spots.
    """
    if fold.block is None:
        return FoldSides(
            fold=fold,
            train=tuple(spots[name] for name in fold.train),
            test=tuple(spots[name] for name in fold.test),
        )
    section = spots[fold.test[0]]
    # Tiles whose centres are a diagonal apart share no pixel, whichever way they lie.
    buffer = float(np.sqrt(2)) * tile_widths[section.name]
    is_train, is_test = block_roles(section, fold.block, buffer)
    if is_train.sum() < 2:
        message = (
            f"fold {fold.name!r}: a buffer of {buffer:.0f} {section.graph.meta.unit} and the neighbours in the graph around "
            f"the held-out block leave {int(is_train.sum())} of {section.n_spots} spots to train on; use smaller tiles "
            "(--tile-um), fewer neighbours (--k), a larger section, or hold out whole sections"
        )
        raise ConfigError(message)
    return FoldSides(
        fold=fold,
        train=(part_of(section, is_train, k=k),),
        test=(part_of(section, is_test, k=k),),
        n_dropped=int((~is_train & ~is_test).sum()),
        buffer=buffer,
    )


def part_of(section: SpotData, rows: Bool[Array, " n_spots"], *, k: int) -> SpotData:
    """Take some spots of a section, as if it had no others: their graph joins them alone."""
    return dataclasses.replace(
        section,
        features=section.features[rows],
        xy=section.xy[rows],
        graph=spatial_knn_graph(
            section.xy[rows], k=k, unit="px" if section.graph.meta.unit == "px" else "um"
        ),
        counts=None if section.counts is None else section.counts[rows],
        totals=None if section.totals is None else section.totals[rows],
    )


def block_roles(
    section: SpotData, block: int, buffer: float
) -> tuple[Bool[Array, " n_spots"], Bool[Array, " n_spots"]]:
    """Tell which spots of a section are trained on and which are tested.

    Neither are those that lie closer than `buffer` to a tested spot, or are joined with one in the section's graph.
    """
    is_test = spatial_blocks(section.xy, N_BLOCKS) == block
    edges = section.graph.distances
    pattern = csr_matrix((np.ones(len(edges.indices)), edges.indices, edges.indptr), shape=edges.shape)
    is_joined = (pattern + pattern.T) @ is_test.astype(np.float64) > 0
    distance = knn(section.xy[is_test], section.xy, k=1).distances[:, 0]
    return ~is_test & ~is_joined & (distance >= buffer), is_test


def tile_width(section: StoredSection, keys: Sequence[str]) -> float:
    """Side of the largest tile of some features, in the unit of the section's coordinates (µm, or pixels without µm).

    Raises
    ------
    StoreError
        If it is not known.
    """
    mpp = section.meta.mpp if section.xy_um is not None else None
    widths = []
    for key in keys:
        tile = section.feature_meta(key).tile
        um, px = tile["tile_um"], tile["tile_px"]
        width = (um if um else px * mpp) if mpp else px
        if width is None:
            message = (
                f"the width of the tiles of {key!r} of section {section.meta.name!r} is known in µm and its coordinates in "
                "pixels alone, so a buffer between blocks cannot be kept; embed the section with --mpp"
            )
            raise StoreError(message)
        widths.append(float(width))
    return max(widths)
