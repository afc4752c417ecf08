"""`spam adapt`: low-rank updates (LoRA) of an encoder, trained on the tiles and counts of a cohort."""

import dataclasses
from typing import Any

from spam.progress import Progress
from spam.schemas.adapt_config import UNUSED_BY_ADAPT, AdaptConfig
from spam.schemas.embed_config import EmbedConfig

from .command import Command, Report
from .options import options_of

__all__ = ["ADAPT", "adapt_values"]

_OPTIONS = options_of(AdaptConfig, leave_out=UNUSED_BY_ADAPT)
_OWN = {option.name for option in _OPTIONS}
# What a tile is and where it comes from; the rest of `spam embed` is about features.
_TILES = (
    *(
        "h5ad",
        "csv",
        "root",
        "section",
        "donor",
        "mpp",
        "counts_layer",
        "coordinates",
        "swap_xy",
        "id_offset",
    ),
    *("id_strip_suffix", "allow_missing_tiles", "manifest", "tile_px", "revision"),
    "skip_bad_tiles",
)


def adapt_values(values: dict[str, Any]) -> tuple[AdaptConfig, EmbedConfig]:
    """Sort options into those of the training and those of the tiles; some are of both."""
    shared = {field.name for field in dataclasses.fields(EmbedConfig)} & {
        "store",
        "enc_name",
        "tile_um",
        "num_workers",
        "dihedral",
    }
    training = {name: value for name, value in values.items() if name in _OWN}
    tiles = {name: value for name, value in values.items() if name in {*_TILES, *shared}}
    return AdaptConfig.from_mapping(training), EmbedConfig.from_mapping(tiles)


def _work(values: dict[str, Any], progress: Progress) -> Report:
    config, tiles = adapt_values(values)
    from spam.adaptation import adapt

    return adapt(config, tiles, progress=progress)


ADAPT = Command(
    name="adapt",
    does="Adapt an encoder to a cohort by LoRA. Starts from the frozen features in the store; embed again with its result. "
    "The encoder sees the counts of --sections and --val-sections: leave out what you mean to predict.",
    example="spam adapt --store cohort.zarr --manifest sections.csv --root images --sections C2,C3,C4,C5 --save-dir lora\n"
    "spam embed --store cohort.zarr --manifest sections.csv --root images --lora lora",
    options=(*_OPTIONS, *(option for option in options_of(EmbedConfig) if option.name in _TILES)),
    work=_work,
)
