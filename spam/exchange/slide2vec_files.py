"""Features of slide2vec: an array, its sidecar, and the coordinates of its tiles.

The layout is that of slide2vec 7.1.4 with hs2p 6.1.0: ``tile_embeddings/<sample>.pt`` (a tensor) or ``.npz`` (``features``)
with ``<sample>.meta.json``, and ``tiles/<sample>.coordinates.npz`` (``x`` and ``y``, the top-left corners at level 0, in the
order of the features) with ``<sample>.coordinates.meta.json``. Paths in the sidecars are never followed.
"""

from pathlib import Path

import numpy as np

from spam.errors import SectionError

from .numpy_files import read_npz
from .records import Found, Places
from .sidecars import positive_number, read_sidecar, sidecar_path
from .torch_files import read_tensor

__all__ = ["ARTIFACT_TYPE", "read_slide2vec_features", "read_slide2vec_places"]

ARTIFACT_TYPE = "tile_embeddings"


def read_slide2vec_features(path: Path) -> Found:
    """Read features with what their sidecar says of the encoder and of the tiles' size.

    Raises
    ------
    SectionError
        If a file cannot be read safely, or the sidecar tells of something else than tile features.
    """
    stated = read_sidecar(path)
    artifact = stated.get("artifact_type", ARTIFACT_TYPE)
    if artifact != ARTIFACT_TYPE:
        message = (
            f"{path} holds {artifact!r} according to {sidecar_path(path).name}; expected {ARTIFACT_TYPE!r}, one row a "
            f"tile: give the file from the folder {ARTIFACT_TYPE}/"
        )
        raise SectionError(message)
    features = read_tensor(path) if path.suffix != ".npz" else read_npz(path, ["features"])["features"]
    name = stated.get("encoder_name")
    side = positive_number(stated, "tile_size_lv0", where=str(sidecar_path(path)))
    notes = (
        () if stated else (f"{path.name} has no sidecar, so nothing says which encoder made these features",)
    )
    return Found(
        features=features,
        places=Places(name=sidecar_path(path).name, is_corner=True, side_px=side),
        encoder_name=name if isinstance(name, str) and name else None,
        notes=notes,
    )


def read_slide2vec_places(path: Path) -> Places:
    """Read the corners of a ``.coordinates.npz``, with side and µm per pixel of its sidecar where it has one.

    Raises
    ------
    SectionError
        If a file cannot be read safely.
    """
    arrays = read_npz(path, ["x", "y"])
    if arrays["x"].ndim != 1 or arrays["x"].shape != arrays["y"].shape:
        shapes = {name: values.shape for name, values in arrays.items()}
        message = f"{path}: x and y must be two lists of one length, not of shapes {shapes}; extract the slide again"
        raise SectionError(message)
    stated, where = read_sidecar(path), str(sidecar_path(path))
    return Places(
        name=path.name,
        xy=np.stack([arrays["x"], arrays["y"]], axis=1),
        is_corner=True,
        side_px=positive_number(stated.get("tiling"), "tile_size_lv0", where=where),
        mpp=positive_number(stated.get("slide"), "base_spacing_um", where=where),
    )
