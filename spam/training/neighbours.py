"""Spatial neighbours as attention tokens: which spots, and where they lie relative to the query."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from spam.store import Graph
from spam.typing import Array, Bool, Float32, Float64, Int64

from .cohort import SpotData

__all__ = ["NeighbourTable", "cohort_neighbours", "neighbour_table"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NeighbourTable:
    """The nearest neighbours of every spot, nearest first.

    Attributes
    ----------
    index
        Rows of the neighbours, (n, t); unused places hold 0.
    offset
        Column offset and row offset in units of the section's spot distance, and log1p of the distance in that unit,
        (n, t, 3).
    is_usable
        False at unused places, (n, t).
    """

    index: Int64[Array, "n t"]
    offset: Float32[Array, "n t 3"]
    is_usable: Bool[Array, "n t"]


def neighbour_table(graph: Graph, xy: Float64[Array, "n 2"], t: int) -> NeighbourTable:
    """Take the `t` nearest neighbours that the graph of one section holds for each spot.

    A spot with fewer neighbours leaves its last places unused.
    """
    n = len(xy)
    index = np.zeros((n, t), dtype=np.int64)
    is_usable = np.zeros((n, t), dtype=bool)
    distances = graph.distances.tocsr()
    for i in range(n):
        columns = distances.indices[distances.indptr[i] : distances.indptr[i + 1]]
        values = distances.data[distances.indptr[i] : distances.indptr[i + 1]]
        nearest = columns[np.lexsort((columns, values))][:t]
        index[i, : len(nearest)], is_usable[i, : len(nearest)] = nearest, True
    unit = graph.meta.sigma or 1.0
    step = (xy[index] - xy[:, None, :]) / unit
    length = np.log1p(np.linalg.norm(step, axis=2, keepdims=True))
    offset = np.concatenate([step, length], axis=2) * is_usable[:, :, None]
    return NeighbourTable(index=index, offset=offset.astype(np.float32), is_usable=is_usable)


def cohort_neighbours(spots: Sequence[SpotData], t: int) -> NeighbourTable:
    """Put the tables of several sections under one another; rows count through the cohort."""
    tables = [neighbour_table(s.graph, s.xy, t) for s in spots]
    starts = np.cumsum([0, *(s.n_spots for s in spots)])[:-1]
    return NeighbourTable(
        index=np.concatenate([table.index + start for table, start in zip(tables, starts, strict=True)]),
        offset=np.concatenate([table.offset for table in tables]),
        is_usable=np.concatenate([table.is_usable for table in tables]),
    )
