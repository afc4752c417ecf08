"""Arrays of the quality of tiles beside the features of a section, as embedding writes them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from spam.schemas.store_format import QUALITY, quality_key
from spam.store import StoredSection


def good_measures(n_spots: int, unreadable: Sequence[int] = ()) -> np.ndarray:
    """Measures of tiles that are all good, but for some that could not be read."""
    measures = np.tile(np.float32([1, 0.8, 0.01, 1.1]), (n_spots, 1))
    measures[list(unreadable)] = 0
    return measures


def add_quality(
    section: StoredSection, key: str, measures: np.ndarray, *, is_overwrite: bool = False
) -> None:
    """Write the quality of the tiles that features `key` were made from."""
    meta = dataclasses.replace(
        section.feature_meta(key),
        key=quality_key(key),
        origin=QUALITY,
        encoder={"name": "tile_quality"},
        weights_sha256=None,
        precision=None,
        dim=measures.shape[1],
        dtype="float32",
    )
    writer = section.feature_writer(meta, is_overwrite=is_overwrite)
    for chunk in list(writer.pending):
        writer.write(chunk, measures[chunk])
    writer.finish()
