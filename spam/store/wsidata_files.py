"""Features of tiles as LazySlide (wsidata) stores them: a SpatialData Zarr with a table per encoder.

Layout, as of wsidata 0.12.0 and LazySlide 0.13.0, in Zarr v2 or v3: ``tables/<encoder>_<tiles>`` is an AnnData whose ``X`` are
the features, ``attrs["region"]`` the name of the tiles, and ``obs[attrs["instance_key"]]`` the id of the tile of each row;
``shapes/<tiles>/shapes.parquet`` has these ids in ``tile_id``, and the tiles as rectangles in pixels of level 0 (WKB);
``attrs["slide_properties"]["mpp"]`` of the root are µm per pixel of level 0.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import zarr

from spam.errors import ConfigError, SectionError, shortened
from spam.sections.hdf5_files import readable, refuse_claim
from spam.sections.lab_section import quoted
from spam.typing import Array, Float64

from .array_files import ForeignFeatures, stated_number

_REGION, _INSTANCE = "region", "instance_key"
# A rectangle in WKB: byte order, type 3 (polygon), one ring, five points; then x and y of each point.
_RECTANGLE = np.dtype([("order", "u1"), ("head", "<u4", 3), ("points", "<f8", (5, 2))])
_HEAD = (3, 1, 5)


def read_wsidata(path: Path, key: str | None) -> ForeignFeatures:
    """Read the features of the table `key` and the places of their tiles; without a key, the only table of tiles.

    Raises
    ------
    ConfigError
        If the table does not exist, or several do and none is chosen.
    SectionError
        If the folder has another layout or is damaged, or a tile is not there.
    """
    with readable(lambda error: f"{path} is not a complete Zarr of LazySlide: {error}. Copy it again."):
        root = zarr.open_group(path, mode="r")
        tables = {name: dict(node.attrs) for name, node in _groups(root, "tables").items()}
        names = sorted(name for name, attributes in tables.items() if _is_of_tiles(root, attributes))
        if not names or key not in (None, *names) or (key is None and len(names) > 1):
            but = "" if key is None else f", not {shortened(key)}"
            message = f"{path} has the features {quoted(names) or 'none'}{but}. Choose a table with --key."
            raise ConfigError(message)
        key = key or names[0]
        tiles, instance = str(tables[key][_REGION]), str(tables[key][_INSTANCE])
        ids = _read(root, f"tables/{key}/obs/{instance}", path)
        features = _read(root, f"tables/{key}/X", path)
        frame = pyarrow.parquet.read_table(
            path / "shapes" / tiles / "shapes.parquet", columns=["tile_id", "geometry"]
        )
        rows = pd.Index(frame["tile_id"].to_numpy()).get_indexer(pd.Index(ids))
        if (rows < 0).any():
            message = f"{path}: {int((rows < 0).sum())} rows of table {key!r} have no tile in shapes/{tiles}. Copy it again."
            raise SectionError(message)
        left, top, right, bottom = _boxes(frame["geometry"].to_pylist(), path, tiles)[rows].T
        mpp = stated_number(root.attrs.get("slide_properties"), "mpp")
        return ForeignFeatures(
            features=features,
            xy_px=np.stack([left + right, top + bottom], axis=1) / 2,
            tile_px=float(right[0] - left[0]),
            mpp=mpp if mpp is not None and 0 < mpp < np.inf else None,
            encoder_name=key.removesuffix(f"_{tiles}"),
        )


def _groups(root: zarr.Group, name: str) -> dict[str, zarr.Group]:
    node = root.get(name)
    return dict(node.groups()) if isinstance(node, zarr.Group) else {}


def _is_of_tiles(root: zarr.Group, attributes: dict[str, Any]) -> bool:
    """Tell whether a table annotates one element of shapes by an id."""
    region, instance = attributes.get(_REGION), attributes.get(_INSTANCE)
    return isinstance(region, str) and isinstance(instance, str) and region in _groups(root, "shapes")


def _read(root: zarr.Group, name: str, path: Path) -> Array:
    node = root.get(name)
    if not isinstance(node, zarr.Array):
        message = f"{path} has no dense array {name}. Write the features again."
        raise SectionError(message)
    refuse_claim(f"{path}: {name} of shape {node.shape}", node.nbytes, node.nbytes_stored())
    n_lost = (
        node.nchunks - node.nchunks_initialized
    )  # Zarr reads them as zeros, and does not write chunks of zeros
    if n_lost and node.ndim == 2:
        message = f"{path}: {name} lacks {n_lost} of {node.nchunks} chunks. Copy it again."
        raise SectionError(message)
    return np.asarray(node[...])


def _boxes(shapes: list[bytes], path: Path, tiles: str) -> Float64[Array, "n 4"]:
    """Read rectangles; the tiles of one run have one size."""
    is_whole = {len(shape) for shape in shapes} == {_RECTANGLE.itemsize}
    found = np.frombuffer(b"".join(shapes), _RECTANGLE) if is_whole else None
    if found is None or not ((found["order"] == 1).all() and (found["head"] == _HEAD).all()):
        message = f"{path}: shapes/{tiles} are not rectangles. Give the table of square tiles with --key."
        raise SectionError(message)
    boxes = np.concatenate([found["points"].min(axis=1), found["points"].max(axis=1)], axis=1)
    sides = boxes[:, 2:] - boxes[:, :2]
    if (sides != sides[0]).any() or sides[0, 0] != sides[0, 1]:
        message = f"{path}: the tiles of shapes/{tiles} are not squares of one size."
        raise SectionError(message)
    return boxes
