"""Options of `spam graph`."""

import dataclasses
from pathlib import Path

from .config import Config, check, folder_fault, option

__all__ = ["DEFAULT_K", "GraphConfig"]

DEFAULT_K = 12  # two rings of a hexagonal lattice, less its corners; the published default


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GraphConfig(Config):
    """Options of `spam graph`."""

    store: Path | None = option(None, "feature store to build the graphs in")
    sections: tuple[str, ...] = option(
        (), "sections to build them for, e.g. C2,C3 (default: all of the store)"
    )
    k_spatial: int = option(DEFAULT_K, "spatial neighbours of a spot")
    k_features: int = option(15, "neighbours of a spot by the features of its tile")
    overwrite: bool = option(False, "build again what is there already")  # noqa: FBT003

    def __post_init__(self) -> None:
        check(
            [
                "--store is missing: give the feature store that `spam embed` wrote"
                if self.store is None
                else None,
                folder_fault("store", self.store),
                f"--k-spatial must be at least 1, not {self.k_spatial}" if self.k_spatial < 1 else None,
                f"--k-features must be at least 1, not {self.k_features}" if self.k_features < 1 else None,
            ]
        )
