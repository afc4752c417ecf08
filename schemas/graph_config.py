"""Options of `spam graph`."""

import dataclasses
from pathlib import Path

from .config import Config, option

DEFAULT_K = 12  # two rings of a hexagonal lattice, less its corners; the published default


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GraphConfig(Config):
    """Options of `spam graph`."""

    store: Path | None = option(
        None, "feature store, which gets the graphs", required="run `spam embed` first"
    )
    sections: tuple[str, ...] = option((), "sections, e.g. C2,C3 (default: all in the store)")
    k_spatial: int = option(DEFAULT_K, "spatial neighbours per spot", limits="[1,10000]")
    k_features: int = option(15, "neighbours per spot in feature space", limits="[1,10000]")
    overwrite: bool = option(False, "rebuild existing graphs")
