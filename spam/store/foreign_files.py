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
from spam.typing import Array, Float32, Float64, Shaped

from .array_files import read_npy, read_npz, read_tensor
from .wsidata_files import read_wsidata

FileFormat: TypeAlias = Literal["hdf5", "npy", "npz", "torch", "zarr", "other"]

_SIGNATURES: dict[bytes, FileFormat] = {
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"\x93NUMPY": "npy",
    b"\x80\x02\x8a\x0al\xfc\x9cF": "torch",  # before PyTorch 1.6; a bare pickle starts otherwise
}
_KINDS: dict[FileFormat, tuple[ForeignKind, ...]] = {
    "npy": ("npy",),
    "npz": ("slide2vec",),
    "torch": ("clam", "slide2vec"),
    "zarr": ("lazyslide",),
}
_TRIDENT_ATTRIBUTES = {
    "patch_size_level0",
    "level0_magnification",
    "target_magnification",
    "savetodir",
    "encoder",
}
_MOST_JSON_BYTES = 2**24  # a sidecar has about twenty entries


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFeatures:
    """Features of tiles that another program embedded, one row per tile.

    Attributes
    ----------
    name
        Name of the file, without its folder.
    kind
        Program or file format.
    features
        Features, finite.
    xy_px
        Tile centres in full-resolution slide pixels (x = column, y = row), each once, or None.
    ids
        Spot ids (``<U``), each once, or None. At least one of `xy_px` and `ids` is known.
    tile_px
        Side of a tile in full-resolution slide pixels, or None if unknown.
    mpp
        µm per full-resolution slide pixel, or None if unknown; a nominal magnification does not count.
    encoder_name
        Name of the encoder in the file, or None.
    """

    name: str
    kind: ForeignKind
    features: Float32[Array, "n_tiles dim"]
    xy_px: Float64[Array, "n_tiles 2"] | None
    ids: Shaped[Array, " n_tiles"] | None
    tile_px: float | None
    mpp: float | None
    encoder_name: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Content of one file before the checks; a file of coordinates has no features."""

    features: Array | None = None
    xy: Array | None = None
    is_corner: bool = True
    side_px: float | None = None
    mpp: float | None = None
    ids: Array | None = None
    encoder_name: str | None = None


def read_foreign_features(
    path: Path,
    *,
    kind: ForeignKind | None = None,
    coordinates: Path | None = None,
    key: str | None = None,
    side_px: float | None = None,
) -> ForeignFeatures:
    """Read the features of one slide, and where their tiles are.

    Corners become centres (corner + side / 2). No row is left out.

    Parameters
    ----------
    path
        File of the features.
    kind
        Program that wrote it; None recognises it by its content.
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
        If the kind is ambiguous or wrong, or an option does not apply to it.
    SectionError
        If a file is unsafe or damaged, or features and coordinates do not fit; lists every fault.
    """
    for file, flag in ((path, "the features"), (coordinates, "--coordinates")):
        if file is not None and not (file.is_file() or (flag == "the features" and is_ome_zarr(file))):
            what = "Not a file, but a folder" if file.is_dir() else "File not found"
            message = f"{what}: {file} ({flag})."
            raise MissingInputError(message)
    kind = _choose_kind(path, kind)
    has_places = kind in ("h5ad", "lazyslide")
    if (key is None and kind == "h5ad") or (key and not has_places) or (coordinates and has_places):
        message = f"{path} is of the kind {kind!r}. --key is for h5ad (needed there) and LazySlide, --coordinates for others."
        if kind == "h5ad":
            message += (
                f" Choose one of the obsm keys with --key: {', '.join(_h5ad_keys(path)) or 'there is none'}."
            )
        raise ConfigError(message)
    own = _read_rows(path, kind, key)
    given = _Rows() if coordinates is None else _read_coordinates(coordinates)
    rows, faults = _combined(own, given)
    if rows.side_px is None and rows.is_corner:
        rows = dataclasses.replace(rows, side_px=side_px)
    faults += [*_feature_faults(rows.features), *_position_faults(rows)]
    if faults:
        message = f"{path} ({kind}) cannot be imported: {'; '.join(faults)}."
        raise SectionError(message)
    xy = None if rows.xy is None else np.array(rows.xy, dtype=np.float64)
    is_corner = rows.is_corner and rows.side_px is not None
    return ForeignFeatures(
        name=path.name,
        kind=kind,
        features=np.ascontiguousarray(rows.features, dtype=np.float32),
        xy_px=xy + rows.side_px / 2 if xy is not None and is_corner and rows.side_px is not None else xy,
        ids=rows.ids,
        tile_px=rows.side_px,
        mpp=rows.mpp,
        encoder_name=rows.encoder_name,
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


def _choose_kind(path: Path, kind: ForeignKind | None) -> ForeignKind:
    """Return `kind` if the content fits it, or the only kind that it fits."""
    form, has_sidecar = file_format(path), _sidecar_path(path).is_file()
    kinds: tuple[ForeignKind, ...] = _hdf5_kinds(path) if form == "hdf5" else _KINDS.get(form, ())
    if form == "torch" and has_sidecar:
        kinds = ("slide2vec",)
    if not kinds:
        message = (
            f"{path} has no features of a known layout (TRIDENT, CLAM, slide2vec, LazySlide, .npy, .h5ad). Save them with "
            "numpy.save and give their ids or centres as a CSV with --coordinates."
        )
        raise SectionError(message)
    if (kind or kinds[0]) not in kinds or (kind is None and len(kinds) > 1):
        message = f"{path} has the layout of {' or '.join(kinds)}, not {kind!r}. Set --kind to {' or '.join(kinds)}."
        raise ConfigError(message)
    return kind or kinds[0]


def _hdf5_kinds(path: Path) -> tuple[ForeignKind, ...]:
    with open_hdf5(path) as file:
        if {"obs", "obsm"} <= set(file):
            return ("h5ad",)
        found = (find_node(file, "features"), find_node(file, "coords"))
        nodes = [node for node in found if isinstance(node, h5py.Dataset)]
        if len(nodes) < len(found):
            return ()
        attributes = {name for node in nodes for name in node.attrs}
    if attributes & _TRIDENT_ATTRIBUTES:
        return ("trident",)
    return ("clam",) if "patch_level" in attributes or not attributes else ("trident", "clam")


def _read_rows(path: Path, kind: ForeignKind, key: str | None) -> _Rows:
    if kind == "h5ad":
        return _read_h5ad(path, str(key))
    if kind == "npy":
        return _Rows(features=read_npy(path))
    if kind == "lazyslide":
        found = read_wsidata(path, key)
        left, top, right, bottom = found.boxes.T
        return _Rows(
            features=found.features,
            xy=np.stack([left + right, top + bottom], axis=1) / 2,
            is_corner=False,
            side_px=float(right[0] - left[0]),
            mpp=found.mpp,
            encoder_name=found.encoder_name,
        )
    if kind == "slide2vec":
        return _read_slide2vec(path)
    return _Rows(features=read_tensor(path)) if file_format(path) == "torch" else _read_corners(path)


def _read_coordinates(path: Path) -> _Rows:
    """Read a file of coordinates by its content; a file that is not binary is read as CSV."""
    readers = {"hdf5": _read_corners, "npz": _read_slide2vec_corners, "other": _read_table}
    reader = readers.get(file_format(path))
    if reader is None:
        message = (
            f"{path} (--coordinates) is not CLAM's patches/<slide>.h5, slide2vec's .coordinates.npz or a CSV."
        )
        raise SectionError(message)
    return reader(path)


def _read_corners(path: Path) -> _Rows:
    """Read TRIDENT's or CLAM's ``coords``, and ``features`` if the file has them."""
    with open_hdf5(path) as file:
        nodes = {name: find_node(file, name) for name in ("features", "coords")}
        features = read_numbers(file, "features") if nodes["features"] is not None else None
        name = None if nodes["features"] is None else attribute_text(nodes["features"], "encoder")
        xy = read_numbers(file, "coords")
        attributes = {} if nodes["coords"] is None else dict(nodes["coords"].attrs)
    return _Rows(
        features=features,
        xy=xy,
        side_px=_side_at_level_0(attributes),
        encoder_name=name if name not in ("", "None") else None,
    )


def _side_at_level_0(attributes: Mapping[str, Any]) -> float | None:
    """Return the side of a tile in full-resolution pixels; None if the attributes do not define it."""

    def number(name: str) -> float | None:
        value = attributes.get(name)
        is_number = value is not None and np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"
        return float(value) if is_number else None  # type: ignore[arg-type]

    side, size = number("patch_size_level0"), number("patch_size")
    if side is not None or size is None:
        return side
    magnification, target = number("level0_magnification"), number("target_magnification")
    if magnification is not None and target:
        return size * magnification / target
    # CLAM: pixels of a pyramid level, and the downsampling of that level per axis.
    level = number("patch_level")
    downsample = attributes.get("downsample", 1.0 if level == 0 else None)
    if level is None or downsample is None:
        return None
    # the last as TRIDENT reads it
    return size * float(np.mean(downsample)) * (number("custom_downsample") or 1.0)


def _h5ad_keys(path: Path) -> list[str]:
    with open_hdf5(path) as file:
        return sorted(name for name in (find_node(file, "obsm") or ()) if name != "spatial")


def _read_h5ad(path: Path, key: str) -> _Rows:
    keys, h5ad = _h5ad_keys(path), read_h5ad(path, "FILE")
    if key not in keys:
        message = f"{path} has no features {shortened(key)} (--key). Its obsm keys: {quoted(keys) or 'none'}."
        raise ConfigError(message)
    xy = None if h5ad.spatial is None else h5ad.spatial[:, :2]
    with open_hdf5(path) as file:
        return _Rows(features=read_numbers(file, f"obsm/{key}"), xy=xy, is_corner=False, ids=h5ad.ids)


def _read_slide2vec(path: Path) -> _Rows:
    stated = _read_sidecar(path)
    artifact = stated.get("artifact_type", "tile_embeddings")
    if artifact != "tile_embeddings":
        message = (
            f"{path} holds {artifact!r}, not features of tiles. Give the file in the folder tile_embeddings/."
        )
        raise SectionError(message)
    name = stated.get("encoder_name")
    return _Rows(
        features=read_npz(path, ["features"])[0] if path.suffix == ".npz" else read_tensor(path),
        side_px=_positive(stated, "tile_size_lv0", path),
        encoder_name=name if isinstance(name, str) and name else None,
    )


def _read_slide2vec_corners(path: Path) -> _Rows:
    x, y = read_npz(path, ["x", "y"])
    if x.ndim != 1 or x.shape != y.shape:
        message = f"{path}: x and y have the shapes {x.shape} and {y.shape}, expected lists of one length."
        raise SectionError(message)
    stated = _read_sidecar(path)
    return _Rows(
        xy=np.stack([x, y], axis=1),
        side_px=_positive(stated.get("tiling"), "tile_size_lv0", path),
        mpp=_positive(stated.get("slide"), "base_spacing_um", path),
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


def _positive(values: Any, name: str, path: Path) -> float | None:
    """Return an entry that is a positive number; None if it is null or missing."""
    value = values.get(name) if isinstance(values, dict) else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        message = f"{_sidecar_path(path)}: {name} is {value!r}, expected a positive number."
        raise SectionError(message)
    return float(value)


def _read_table(path: Path) -> _Rows:
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
    xy = None
    if found is not None:
        xy = Table(path=path, frame=frame, id_column=id_column or "", image_column="").numbers(found)
        xy = (xy[:, :2] + xy[:, 2:]) / 2 if found == BOX_COLUMNS else xy
    return _Rows(
        xy=xy,
        is_corner=False,
        ids=None
        if id_column is None
        else text_array(frame[id_column], where=f"{path}, column {id_column!r}"),
    )


def _combined(own: _Rows, given: _Rows) -> tuple[_Rows, list[str]]:
    """Complete the metadata of the features file by those of the coordinates file; list contradictions.

    Either may complete the other: CLAM states the tile size with the coordinates alone.
    """
    own, given = (
        dataclasses.replace(rows, features=_squeezed(rows.features), xy=_squeezed(rows.xy))
        for rows in (own, given)
    )
    faults = []
    if own.xy is not None and given.xy is not None:
        is_same = own.is_corner == given.is_corner and np.array_equal(own.xy, given.xy)
        faults += [] if is_same else ["--coordinates has other coordinates than the file of the features"]
    for what, one, other in (
        ("side in px", own.side_px, given.side_px),
        ("µm per pixel", own.mpp, given.mpp),
    ):
        if one is not None and other is not None and one != other:
            faults.append(f"the {what} is {one:g} in the file of the features and {other:g} in --coordinates")
    first = own if own.xy is not None else given
    return (
        _Rows(
            features=own.features,
            xy=first.xy,
            is_corner=first.is_corner,
            side_px=given.side_px if own.side_px is None else own.side_px,
            mpp=given.mpp if own.mpp is None else own.mpp,
            ids=given.ids if own.ids is None else own.ids,
            encoder_name=own.encoder_name,
        ),
        faults,
    )


def _squeezed(values: Array | None) -> Array | None:
    """Drop a leading axis of one: some programs write (1, n, dim), a batch of one slide."""
    return values[0] if values is not None and values.ndim == 3 and len(values) == 1 else values


def _feature_faults(features: Array | None) -> Iterator[str]:
    if features is None or features.ndim != 2 or not features.size or features.dtype.kind != "f":
        what = "missing" if features is None else f"{features.dtype} of shape {features.shape}"
        yield f"the features are {what}, expected floating-point numbers (tiles, dim)"
        return
    with np.errstate(over="ignore"):
        is_broken = ~np.isfinite(features.astype(np.float32)).all(axis=1)
    if is_broken.any():
        rows = quoted([str(row) for row in np.flatnonzero(is_broken)])
        yield f"{int(is_broken.sum())} of {len(features)} rows of the features are not finite in float32 (rows {rows})"


def _position_faults(rows: _Rows) -> Iterator[str]:
    """List what is wrong with ids and coordinates."""
    n_tiles = 0 if rows.features is None or not rows.features.ndim else len(rows.features)
    if rows.xy is None and rows.ids is None:
        yield "it has neither ids nor coordinates; give them with --coordinates"
    if rows.ids is not None:
        index = pd.Index(rows.ids)
        if len(index) != n_tiles:
            yield f"{len(index)} ids for {n_tiles} rows of features"
        repeated = index[index.duplicated()].unique()
        if len(repeated) or (index == "").any():
            yield f"{len(repeated)} ids occur more than once ({quoted(list(repeated))}), {(index == '').sum()} are empty"
    if rows.xy is None:
        return
    if rows.xy.shape != (n_tiles, 2):
        yield f"coordinates of shape {rows.xy.shape} for {n_tiles} rows of features"
    elif not np.isfinite(rows.xy).all():
        bad = np.flatnonzero(~np.isfinite(rows.xy).all(axis=1))
        yield f"{len(bad)} coordinates are not finite (rows {quoted([str(row) for row in bad])})"
    elif (n_places := len(np.unique(rows.xy, axis=0))) < n_tiles:
        yield f"{n_tiles - n_places} coordinates occur more than once; give the features of one slide, extracted once"
    if rows.is_corner and rows.side_px is None:
        yield (
            "the coordinates are corners and the tile size is unknown; give it with --tile-px or --tile-um (which needs the "
            "section's µm per pixel), or with --coordinates and CLAM's patches/<slide>.h5 or slide2vec's .coordinates.npz "
            "beside its .meta.json"
        )
    elif rows.side_px is not None and not 0 < rows.side_px < math.inf:
        yield f"the tile size is {rows.side_px:g} px"
