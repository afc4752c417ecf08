"""Features that TRIDENT, CLAM, slide2vec, LazySlide, NumPy and AnnData files hold: one row per tile, with id or coordinates.

Layouts, as of the commits that were read:

- TRIDENT (mahmoodlab/TRIDENT, ac5f46e), HDF5: ``features`` (attribute ``encoder``), and ``coords``, top-left corners at
  level 0 with ``patch_size_level0`` or ``patch_size``, ``level0_magnification``, ``target_magnification``. An attribute
  that was None is the text ``'None'``.
- CLAM (mahmoodlab/CLAM, 14fbcc4), HDF5: ``features`` and ``coords`` without attributes, or ``.pt``: one tensor. The tile
  size is in ``patches/<slide>.h5``: attributes ``patch_size``, ``patch_level``, ``downsample`` of ``coords``.
- slide2vec 7.1.4: ``<sample>.pt`` (a tensor) or ``.npz`` (``features``) with ``<sample>.meta.json``; the corners are ``x``
  and ``y`` of ``<sample>.coordinates.npz``, also with a ``.meta.json``.
- LazySlide, a SpatialData Zarr: `spam.store.wsidata_files`.

No path in a file is followed; the arrays are read by `spam.store.array_files`.
"""

import dataclasses
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import h5py
import numpy as np
import pandas as pd

from spam.errors import ConfigError, MissingInputError, SectionError, shortened
from spam.schemas.store_config import ForeignKind
from spam.sections.coordinates import CENTRE_COLUMNS, UM_COLUMNS
from spam.sections.h5ad import read_h5ad
from spam.sections.hdf5_files import attribute_text, find_node, open_hdf5, read_numbers
from spam.sections.lab_section import is_ome_zarr, quoted, text_array
from spam.sections.tile_table import BOX_COLUMNS, ID_COLUMNS, Table, first_column, read_csv_text
from spam.typing import Array

from .array_files import ForeignFeatures, read_npy, read_npz, read_tensor, stated_number
from .wsidata_files import read_wsidata

FileFormat: TypeAlias = Literal["hdf5", "npy", "npz", "torch", "zarr", "other"]

_SIGNATURES: dict[bytes, FileFormat] = {
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"\x93NUMPY": "npy",
    b"\x80\x02\x8a\x0al\xfc\x9cF": "torch",  # before PyTorch 1.6; a bare pickle starts otherwise
}
_KINDS: dict[FileFormat, ForeignKind] = {
    "npy": "npy",
    "npz": "slide2vec",
    "torch": "clam",
    "zarr": "lazyslide",
}
_TRIDENT_ATTRIBUTES = {
    "patch_size_level0",
    "level0_magnification",
    "target_magnification",
    "savetodir",
    "encoder",
}
_MOST_JSON_BYTES = 2**24  # a sidecar has about twenty entries


def read_foreign_features(
    path: Path, *, coordinates: Path | None = None, key: str | None = None, side_px: float | None = None
) -> ForeignFeatures:
    """Read the features of one slide, and where their tiles are.

    The program that wrote the file is recognised by its content. Corners become centres (corner + side / 2). No row is
    left out.

    Parameters
    ----------
    path
        File of the features.
    coordinates
        Tile positions for features without any: CLAM's ``patches/<slide>.h5``, slide2vec's ``.coordinates.npz``, or a
        CSV with one row per row of the features (ids, centres in full-resolution pixels, or both).
    key
        ``obsm`` key of the features in an h5ad; table of the features of LazySlide.
    side_px
        Side of a tile in full-resolution pixels by ``--tile-um`` or ``--tile-px``, for corners in files that state none.

    Raises
    ------
    MissingInputError
        If a file does not exist.
    ConfigError
        If an option does not apply to this kind of file.
    SectionError
        If a file is unsafe or damaged, or features and coordinates do not fit; lists every fault.
    """
    for file, flag in ((path, "the features"), (coordinates, "--coordinates")):
        if file is not None and not (file.is_file() or (flag == "the features" and is_ome_zarr(file))):
            what = "Not a file, but a folder" if file.is_dir() else "File not found"
            message = f"{what}: {file} ({flag})."
            raise MissingInputError(message)
    form = file_format(path)
    kind = _kind_of(path, form)
    has_places = kind in ("h5ad", "lazyslide")
    if (key is None and kind == "h5ad") or (key and not has_places) or (coordinates and has_places):
        message = f"{path} is of the kind {kind!r}. --key is for h5ad (needed there) and LazySlide, --coordinates for others."
        if kind == "h5ad":
            message += (
                f" Choose one of the obsm keys with --key: {', '.join(_h5ad_keys(path)) or 'there is none'}."
            )
        raise ConfigError(message)
    if has_places:
        own = _read_h5ad(path, str(key)) if kind == "h5ad" else read_wsidata(path, key)
    elif kind == "npy":
        own = ForeignFeatures(features=read_npy(path))
    else:
        own = _read_corners(path) if form == "hdf5" else _read_slide2vec(path)
    given = ForeignFeatures() if coordinates is None else _read_coordinates(coordinates)
    found, faults = _combined(own, given)
    if found.tile_px is None and found.is_corner:
        found = dataclasses.replace(found, tile_px=side_px)
    faults += _faults(found)
    if faults:
        message = f"{path} ({kind}) cannot be imported: {'; '.join(faults)}."
        raise SectionError(message)
    half = (found.tile_px or 0) / 2 if found.is_corner else 0
    return dataclasses.replace(
        found,
        name=path.name,
        kind=kind,
        features=np.ascontiguousarray(found.features, dtype=np.float32),
        xy_px=None if found.xy_px is None else np.array(found.xy_px, dtype=np.float64) + half,
        is_corner=False,
    )


def file_format(path: Path) -> FileFormat:
    """Recognise a file by its first bytes, and an archive by the names in it; a folder is a Zarr."""
    if path.is_dir():
        return "zarr"
    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith(b"PK"):
        return next((found for sign, found in _SIGNATURES.items() if start.startswith(sign)), "other")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "other"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    return "npz" if any(name.endswith(".npy") for name in names) else "other"


def _kind_of(path: Path, form: FileFormat) -> ForeignKind:
    kind = _KINDS.get(form)
    if form == "torch" and _sidecar_path(path).is_file():
        return "slide2vec"
    if form == "hdf5":
        with open_hdf5(path) as file:
            if {"obs", "obsm"} <= set(file):
                return "h5ad"
            found = [find_node(file, name) for name in ("features", "coords")]
            nodes = [node for node in found if isinstance(node, h5py.Dataset)]
            is_trident = any(name in _TRIDENT_ATTRIBUTES for node in nodes for name in node.attrs)
            kind = None if len(nodes) < len(found) else "trident" if is_trident else "clam"
    if kind is None:
        message = (
            f"{path} has no features of a known layout (TRIDENT, CLAM, slide2vec, LazySlide, .npy, .h5ad). Save them with "
            "numpy.save and give their ids or centres as a CSV with --coordinates."
        )
        raise SectionError(message)
    return kind


def _read_coordinates(path: Path) -> ForeignFeatures:
    """Read a file of coordinates by its content; a file that is not binary is read as CSV."""
    readers = {"hdf5": _read_corners, "npz": _read_slide2vec_corners, "other": _read_table}
    reader = readers.get(file_format(path))
    if reader is None:
        message = (
            f"{path} (--coordinates) is not CLAM's patches/<slide>.h5, slide2vec's .coordinates.npz or a CSV."
        )
        raise SectionError(message)
    return reader(path)


def _read_corners(path: Path) -> ForeignFeatures:
    """Read TRIDENT's or CLAM's ``coords``, and ``features`` if the file has them."""
    with open_hdf5(path) as file:
        node, coords = (find_node(file, name) for name in ("features", "coords"))
        name = None if node is None else attribute_text(node, "encoder")
        return ForeignFeatures(
            features=np.empty((0, 0)) if node is None else read_numbers(file, "features"),
            xy_px=read_numbers(file, "coords"),
            is_corner=True,
            tile_px=None if coords is None else _side_at_level_0(coords.attrs),
            encoder_name=name if name not in ("", "None") else None,
        )


def _side_at_level_0(attributes: Mapping[str, Any]) -> float | None:
    """Return the side of a tile in full-resolution pixels; None if the attributes do not define it."""
    side, size = (stated_number(attributes, name) for name in ("patch_size_level0", "patch_size"))
    if side is not None or size is None:
        return side
    magnification = stated_number(attributes, "level0_magnification")
    target = stated_number(attributes, "target_magnification")
    if magnification is not None and target:
        return size * magnification / target
    # CLAM: pixels of a pyramid level, and the downsampling of that level per axis.
    level = stated_number(attributes, "patch_level")
    downsample = attributes.get("downsample", 1.0 if level == 0 else None)
    if level is None or downsample is None:
        return None
    # the last as TRIDENT reads it
    return size * float(np.mean(downsample)) * (stated_number(attributes, "custom_downsample") or 1.0)


def _h5ad_keys(path: Path) -> list[str]:
    with open_hdf5(path) as file:
        return sorted(name for name in (find_node(file, "obsm") or ()) if name != "spatial")


def _read_h5ad(path: Path, key: str) -> ForeignFeatures:
    keys, h5ad = _h5ad_keys(path), read_h5ad(path, "FILE")
    if key not in keys:
        message = f"{path} has no features {shortened(key)} (--key). Its obsm keys: {quoted(keys) or 'none'}."
        raise ConfigError(message)
    xy = None if h5ad.spatial is None else h5ad.spatial[:, :2]
    with open_hdf5(path) as file:
        return ForeignFeatures(features=read_numbers(file, f"obsm/{key}"), xy_px=xy, ids=h5ad.ids)


def _read_slide2vec(path: Path) -> ForeignFeatures:
    """Read the features of slide2vec, or the tensor of CLAM, which has no sidecar."""
    stated = _read_sidecar(path)
    artifact = stated.get("artifact_type", "tile_embeddings")
    if artifact != "tile_embeddings":
        message = (
            f"{path} holds {artifact!r}, not features of tiles. Give the file in the folder tile_embeddings/."
        )
        raise SectionError(message)
    name = stated.get("encoder_name")
    return ForeignFeatures(
        features=read_npz(path, ["features"])[0] if path.suffix == ".npz" else read_tensor(path),
        tile_px=_sidecar_number(stated, "tile_size_lv0", path),
        encoder_name=name if isinstance(name, str) and name else None,
    )


def _read_slide2vec_corners(path: Path) -> ForeignFeatures:
    x, y = read_npz(path, ["x", "y"])
    if x.ndim != 1 or x.shape != y.shape:
        message = f"{path}: x and y have the shapes {x.shape} and {y.shape}, expected lists of one length."
        raise SectionError(message)
    stated = _read_sidecar(path)
    return ForeignFeatures(
        xy_px=np.stack([x, y], axis=1),
        is_corner=True,
        tile_px=_sidecar_number(stated.get("tiling"), "tile_size_lv0", path),
        mpp=_sidecar_number(stated.get("slide"), "base_spacing_um", path),
    )


def _sidecar_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(path.suffix) + ".meta.json")


def _read_sidecar(path: Path) -> dict[str, Any]:
    """Read the JSON beside a file of slide2vec; empty if there is none."""
    sidecar = _sidecar_path(path)
    if not sidecar.is_file():
        return {}
    try:
        values = json.loads(sidecar.read_bytes()) if sidecar.stat().st_size <= _MOST_JSON_BYTES else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        message = f"{sidecar} is not a small JSON object. Copy it again together with {path.name}."
        raise SectionError(message)
    return values


def _sidecar_number(values: Any, name: str, path: Path) -> float | None:
    """Return an entry of a sidecar; None if it is null or missing. Anything else than a number is an error."""
    number, value = stated_number(values, name), values.get(name) if isinstance(values, dict) else None
    if number is None and value is not None:
        message = f"{_sidecar_path(path)}: {name} is {shortened(value)}, expected a number."
        raise SectionError(message)
    return number


def _read_table(path: Path) -> ForeignFeatures:
    """Read ids and centres of a CSV by the column names of `spam.sections`; a box gives its centre."""
    frame = read_csv_text(path)
    columns = list(frame.columns)
    id_column = first_column(columns, ID_COLUMNS)
    in_pixels = [names for names in CENTRE_COLUMNS if names != UM_COLUMNS]
    found = next((names for names in in_pixels if all(name in columns for name in names)), None)
    if id_column is None and found is None:
        accepted = "; ".join(", ".join(names) for names in in_pixels)
        message = (
            f"{path} (--coordinates) has the columns {quoted(columns)}, expected ids ({', '.join(ID_COLUMNS)}) or centres in "
            f"full-resolution pixels ({accepted})."
        )
        raise SectionError(message)
    xy = ids = None
    if found is not None:
        xy = Table(path=path, frame=frame, id_column="", image_column="").numbers(found)
        xy = (xy[:, :2] + xy[:, 2:]) / 2 if found == BOX_COLUMNS else xy
    if id_column is not None:
        ids = text_array(frame[id_column], where=f"{path}, column {id_column!r}")
    return ForeignFeatures(xy_px=xy, ids=ids)


def _combined(own: ForeignFeatures, given: ForeignFeatures) -> tuple[ForeignFeatures, list[str]]:
    """Complete the features file by the coordinates file; list contradictions.

    Either may complete the other: CLAM states the tile size with the coordinates alone.
    """
    own, given = (
        dataclasses.replace(file, features=_squeezed(file.features), xy_px=_squeezed(file.xy_px))
        for file in (own, given)
    )
    faults = []
    if own.xy_px is not None and given.xy_px is not None:
        is_same = own.is_corner == given.is_corner and np.array_equal(own.xy_px, given.xy_px)
        faults += [] if is_same else ["--coordinates has other coordinates than the file of the features"]
    missing = {"xy_px", "is_corner"} if own.xy_px is None else set()
    for name, what in (("tile_px", "side in px"), ("mpp", "µm per pixel"), ("ids", "")):
        one, other = getattr(own, name), getattr(given, name)
        missing |= {name} if one is None else set()
        if what and None not in (one, other) and one != other:
            faults.append(f"the {what} is {one:g} in the file of the features and {other:g} in --coordinates")
    return dataclasses.replace(own, **{name: getattr(given, name) for name in missing}), faults


def _squeezed(values: Any) -> Any:
    """Drop a leading axis of one: some programs write (1, n, dim), a batch of one slide."""
    return values[0] if values is not None and values.ndim == 3 and len(values) == 1 else values


def _faults(found: ForeignFeatures) -> Iterator[str]:
    """List what is wrong with features, ids, coordinates and sizes."""
    features: Array = found.features
    n_tiles = len(features) if features.ndim else 0
    if features.ndim != 2 or not features.size or features.dtype.kind != "f":
        shape = f"{features.dtype} of shape {features.shape}"
        yield f"the features are {shape}, expected floating-point numbers (tiles, dim)"
    else:
        with np.errstate(over="ignore"):
            is_broken = ~np.isfinite(features.astype(np.float32)).all(axis=1)
        if is_broken.any():
            rows = quoted([str(row) for row in np.flatnonzero(is_broken)])
            yield f"{int(is_broken.sum())} of {n_tiles} rows of the features are not finite in float32 (rows {rows})"
    if found.xy_px is None and found.ids is None:
        yield "it has neither ids nor coordinates; give them with --coordinates"
    if found.ids is not None:
        index = pd.Index(found.ids)
        if len(index) != n_tiles:
            yield f"{len(index)} ids for {n_tiles} rows of features"
        repeated = index[index.duplicated()].unique()
        if len(repeated) or (index == "").any():
            yield f"{len(repeated)} ids occur more than once ({quoted(list(repeated))}), {(index == '').sum()} are empty"
    for what, value in (("tile size", found.tile_px), ("µm per pixel", found.mpp)):
        if value is not None and not 0 < value < math.inf:
            yield f"the {what} is {value:g}"
    xy = found.xy_px
    if xy is None:
        return
    if xy.shape != (n_tiles, 2):
        yield f"coordinates of shape {xy.shape} for {n_tiles} rows of features"
    elif not np.isfinite(xy).all():
        bad = np.flatnonzero(~np.isfinite(xy).all(axis=1))
        yield f"{len(bad)} coordinates are not finite (rows {quoted([str(row) for row in bad])})"
    elif (n_places := len(np.unique(xy, axis=0))) < n_tiles:
        yield f"{n_tiles - n_places} coordinates occur more than once; give the features of one slide, extracted once"
    if found.is_corner and found.tile_px is None:
        yield (
            "the coordinates are corners and the tile size is unknown; give it with --tile-px or --tile-um (which needs the "
            "section's µm per pixel), or with --coordinates and CLAM's patches/<slide>.h5 or slide2vec's .coordinates.npz "
            "beside its .meta.json"
        )
