"""Writing a section: its tables and its overview, all that is there before any feature."""

from pathlib import Path

import numpy as np

from spam.typing import Array, Shaped

from .elements import write_array, write_frame, write_group, write_mapping, write_scalar, write_sparse
from .index import change_index
from .layout import (
    DONOR,
    HIRES_PATH,
    META,
    SCALES_PATH,
    SECTION,
    SPAM,
    SPATIAL,
    SPATIAL_UM,
)
from .records import SectionRecord
from .sealing import sync
from .staging import discard, move_into_place, staged

__all__ = ["write_section"]


def write_section(store: Path, record: SectionRecord) -> None:
    """Write a section without features, in place of an older one of its name; the caller holds its lock."""
    meta = record.meta
    discard(store, meta.name)
    path = staged(store, meta.name)
    section = write_group(
        path.parent,
        path.name,
        {"encoding-type": "anndata", "encoding-version": "0.1.0", SPAM: {META: meta.to_mapping()}},
    )
    columns = {**record.obs, SECTION: _repeat(meta.name, meta.n_spots)}
    if meta.donor is not None:
        columns[DONOR] = _repeat(meta.donor, meta.n_spots)
    write_frame(section, "obs", record.ids, columns)
    write_frame(section, "var", np.empty(0, dtype=str) if record.genes is None else record.genes, {})
    if record.counts is not None:
        write_sparse(section, "X", record.counts.astype(np.int32).tocsc())
    write_mapping(section, "obsp")
    obsm = write_mapping(section, "obsm")
    if record.xy_px is not None:
        write_array(obsm, SPATIAL, record.xy_px)
    if record.xy_um is not None:
        write_array(obsm, SPATIAL_UM, record.xy_um)
    uns = write_mapping(section, "uns")
    if record.overview is not None:
        library = write_mapping(write_mapping(uns, SPATIAL), meta.name)
        images, image = HIRES_PATH.split("/")
        write_array(write_mapping(library, images), image, record.overview.image)
        scales, scale = SCALES_PATH.split("/")
        write_scalar(write_mapping(library, scales), scale, record.overview.scale)
    change_index(path)
    move_into_place(store, meta.name, path)
    sync(store)


def _repeat(text: str, n: int) -> Shaped[Array, " n"]:
    return np.full(n, text)
