"""Sections as reading a laboratory's files would give them."""

from typing import Any

import numpy as np

from spam.sections import JoinReport, Section, TileFiles


def lab_section(name: str, *, ids: np.ndarray, xy_px: np.ndarray, **changes: Any) -> Section:
    """Make a section of tile files; `changes` are fields of `Section`."""
    source = None if changes.get("mpp") is None else "option"
    values: dict[str, Any] = {"mpp_source": source, "obs": {}, "tiles": TileFiles(paths=()), "sources": ()}
    return Section(name=name, ids=ids, xy_px=xy_px, join=JoinReport(n_matched=len(ids)), **(values | changes))
