"""`spam graph`: neighbour graphs into the store."""

from typing import Any

from spam.progress import Progress
from spam.schemas.graph_config import GraphConfig

from .command import Command, Report
from .options import options_of

__all__ = ["GRAPH"]


def _work(values: dict[str, Any], progress: Progress) -> Report:
    config = GraphConfig.from_mapping(values)
    from spam.graphs import build_graphs

    return build_graphs(config, progress=progress)


GRAPH = Command(
    name="graph",
    does="Build the neighbour graphs of the sections of a store. They are kept in it.",
    example="spam graph --store cohort.zarr --k-spatial 12",
    options=options_of(GraphConfig),
    work=_work,
)
