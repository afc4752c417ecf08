"""Options by which features of a store are chosen."""

import dataclasses
from pathlib import Path

from .config import Config, option
from .graph_config import DEFAULT_K

__all__ = ["FeatureOptions"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureOptions(Config):
    """A store, and which of its features and graphs are used."""

    store: Path | str | None = option(None, "feature store (folder, packed store, or address) with counts")
    enc_name: str | None = option(None, "encoder whose features to use (default: the only one in the store)")
    tile_um: tuple[float, ...] = option(
        (), "tile sizes to use together, in µm (default: all that every section has)"
    )
    dihedral: bool = option(
        False,  # noqa: FBT003
        "use features averaged over the symmetries of the tile (default: the only kind in the store)",
    )
    k: int = option(DEFAULT_K, "spatial neighbours of a spot in the graph")
