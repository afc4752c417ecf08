"""Sections as reading a laboratory's files would give them."""

from typing import Any

import numpy as np

from spam.sections import JoinReport, Section, TileFiles


def lab_section(name: str, *, ids: np.ndarray, xy_px: np.ndarray, **changes: Any) -> Section:
    """Make a section of tile files; `changes` are fields of `Section`."""
    join = {"n_matched": len(ids), "n_table_only": 0, "n_h5ad_only": 0, "n_other_sections": 0, "n_outside": 0}
    mpp = changes.get("mpp")
    values: dict[str, Any] = {
        "donor": None,
        "xy_um": None if mpp is None else xy_px * mpp,
        "mpp": None,
        "mpp_source": None if mpp is None else "option",
        "counts": None,
        "genes": None,
        "obs": {},
        "tiles": TileFiles(paths=()),
        "patch_px": None,
        "hires_scale": None,
        "join": JoinReport(**join, table_only_examples=(), h5ad_only_examples=(), notes=()),
        "sources": (),
    }
    return Section(name=name, ids=ids, xy_px=xy_px, **(values | changes))
