"""What scanpy, squidpy and old readers of AnnData need of a file, without these packages."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr


def assert_plots(adata: Any, name: str) -> None:
    """Find all that ``sc.pl.spatial`` and ``sq.pl.spatial_scatter`` (1.11, 1.8) look up when they get no argument."""
    assert list(adata.uns["spatial"]) == [name]
    library = adata.uns["spatial"][name]
    image, factors = library["images"]["hires"], library["scalefactors"]
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert set(factors) == {"tissue_hires_scalef", "spot_diameter_fullres"}
    assert all(isinstance(value, float) and value > 0 for value in factors.values())
    assert adata.obs["library_id"].cat.categories.tolist() == [name]
    columns, rows = (adata.obsm["spatial"] * factors["tissue_hires_scalef"]).T
    assert 0 <= columns.min() <= columns.max() < image.shape[1]
    assert 0 <= rows.min() <= rows.max() < image.shape[0]


def string_encodings(path: Path) -> set[str]:
    """Encodings of all elements whose name has ``string``; anndata before 0.11 cannot read a nullable one."""
    found: set[str] = set()
    if path.is_file():
        with h5py.File(path) as file:
            file.visititems(lambda _, node: found.add(str(node.attrs.get("encoding-type"))))
    else:
        group = zarr.open_group(path, mode="r")
        found = {str(node.attrs.get("encoding-type")) for _, node in group.members(max_depth=None)}
    return {encoding for encoding in found if "string" in encoding}
