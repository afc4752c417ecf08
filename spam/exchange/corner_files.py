"""HDF5 files of TRIDENT and of CLAM: ``features``, and ``coords`` with the top-left corners at level 0.

TRIDENT (mahmoodlab/TRIDENT at commit ac5f46e; no package of it on PyPI) writes ``features`` with the attributes
``name``, ``savetodir`` and, since 2025, ``encoder``, and ``coords`` with ``patch_size``, ``patch_size_level0``,
``level0_magnification``, ``target_magnification``, ``overlap``, ``name``, ``savetodir``, ``level0_width`` and
``level0_height``; an attribute that was None is the text ``'None'``. Where it was given coordinates of CLAM, the
attributes of ``coords`` are those of CLAM.

CLAM (mahmoodlab/CLAM, ``extract_features_fp.py`` at 14fbcc4, ``save_hdf5`` at e033abb) writes both without
attributes; what says how large a tile is stands in the file of the coordinates, ``patches/<slide>.h5``: ``patch_size``,
``patch_level`` and ``downsample`` of ``coords``.

Paths in attributes are never followed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .hdf5_files import open_hdf5, read_numbers
from .records import Found, Places

__all__ = ["read_corner_features", "read_corner_places"]


def read_corner_features(path: Path) -> Found:
    """Read ``features`` and ``coords`` of a TRIDENT or CLAM feature file.

    Raises
    ------
    SectionError
        If the file is unsafe or lacks one of the two, see `spam.exchange.hdf5_files`.
    """
    with open_hdf5(path) as file:
        features = read_numbers(file, "features")
        encoder = file["features"].attrs.get("encoder")
    name = encoder.decode() if isinstance(encoder, bytes) else encoder
    is_named = isinstance(name, str) and name not in ("", "None")
    return Found(features=features, places=read_corner_places(path), encoder_name=name if is_named else None)


def read_corner_places(path: Path) -> Places:
    """Read ``coords`` of a feature file or of a file of coordinates, with the side that its attributes state.

    Raises
    ------
    SectionError
        If the file is unsafe or lacks ``coords``.
    """
    with open_hdf5(path) as file:
        xy = read_numbers(file, "coords")
        attributes = dict(file["coords"].attrs)
    return Places(
        name=f"'coords' of {path.name}", xy=xy, is_corner=True, side_px=_side_at_level_0(attributes)
    )


def _side_at_level_0(attributes: Mapping[str, Any]) -> float | None:
    """Return the side of a tile in full-resolution pixels; None where the attributes do not settle it."""
    stated = _number(attributes, "patch_size_level0")
    size = _number(attributes, "patch_size")
    if stated is not None or size is None:
        return stated
    magnification = _number(attributes, "level0_magnification")
    target = _number(attributes, "target_magnification")
    if magnification is not None and target:
        return size * magnification / target
    # CLAM: pixels of a pyramid level, with the downsampling of that level per axis (x, y).
    level = _number(attributes, "patch_level")
    downsample = attributes.get("downsample", 1.0 if level == 0 else None)
    if level is None or downsample is None:
        return None
    # "custom_downsample" stands in files of CLAM's relatives that resize what they read; TRIDENT reads it like this.
    return size * float(np.mean(downsample)) * (_number(attributes, "custom_downsample") or 1.0)


def _number(attributes: Mapping[str, Any], name: str) -> float | None:
    """Return an attribute that is one number; None for ``'None'`` and the like."""
    value = attributes.get(name)
    is_number = value is not None and np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"
    return float(value) if is_number else None  # type: ignore[arg-type]
