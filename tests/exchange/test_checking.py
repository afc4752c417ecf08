"""Features and places that do not fit are refused, with every fault at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_layouts import (
    CORNERS,
    DIM,
    FEATURES,
    N,
    clam,
    clam_patches,
    faults,
    npy,
    slide2vec,
    slide2vec_places,
    table,
    trident,
)


def test_all_faults_at_once(tmp_path: Path) -> None:
    broken = FEATURES.copy()
    broken[2, 1], broken[5, 0] = np.nan, np.inf
    text = faults(
        npy(tmp_path, broken),
        coordinates=table(tmp_path, id=["a", "b", "", "c", "c"], x=[1, 2, "?", 4, 1], y=[1, 2, 3, 4, 1]),
    )
    for words in (
        "2 of 7 rows of the features hold NaN",
        "rows '2', '5'",
        "5 ids for 7 rows",
        "1 empty ids",
        "1 ids more than once ('c')",
        "5 coordinates for 7 rows",
        "1 coordinates that are no finite numbers (rows '2')",
        "1 places more than once (first (1.0, 1.0))",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (FEATURES[0], r"shape (5,) (one vector for the whole slide?)"),
        (FEATURES.reshape(N, 1, DIM), "shape (7, 1, 5)"),
        (FEATURES[:0], "at least one tile"),
        (FEATURES[:, :0], "at least one tile"),
        (FEATURES.astype(np.int32), "type int32, expected floating-point"),
        (FEATURES.astype(np.complex64), "type complex64"),
        (np.full((N, DIM), 1e300), "what float32 cannot hold"),
    ],
)
def test_arrays_that_are_no_features(tmp_path: Path, features: Any, words: str) -> None:
    assert words in faults(npy(tmp_path, features), coordinates=table(tmp_path))


def test_nothing_says_where(tmp_path: Path) -> None:
    assert "nothing says which tile a row belongs to" in faults(npy(tmp_path))
    assert "tiles/<sample>.coordinates.npz" in faults(slide2vec(tmp_path))
    assert "nothing says how large a tile is" in faults(clam(tmp_path / "C2.h5"))
    assert "nothing says how large" in faults(trident(tmp_path / "f.h5", savetodir="a", patch_size="None"))
    text = faults(npy(tmp_path), coordinates=table(tmp_path, x_um=CORNERS[:, 0], y_um=CORNERS[:, 1]))
    assert "neither by id nor by place" in text
    assert "'x_um', 'y_um'" in text


def test_side_that_is_none(tmp_path: Path) -> None:
    path = trident(tmp_path / "C2.h5", patch_size=0, level0_magnification=40, target_magnification=20)
    assert "side of 0 px" in faults(path)


def test_coordinates_of_another_slide(tmp_path: Path) -> None:
    path = clam(tmp_path / "C2.h5")
    assert "other coordinates" in faults(path, coordinates=clam_patches(tmp_path / "p.h5", CORNERS[::-1]))
    assert "other coordinates" in faults(path, coordinates=table(tmp_path))
    text = faults(slide2vec(tmp_path), coordinates=slide2vec_places(tmp_path, side=224))
    assert "side is 448 according to C2.x.meta.json and 224" in text


def test_coordinates_of_a_wrong_shape(tmp_path: Path) -> None:
    flat = trident(tmp_path / "C2.h5", corners=CORNERS[:, 0])
    assert "coordinates of shape (7,)" in faults(flat)
    places = tmp_path / "c.npz"
    np.savez(places, x=CORNERS[:, 0], y=CORNERS[:3, 1])
    assert "two lists of one length" in faults(slide2vec(tmp_path), coordinates=places)
    assert "there is no 'y.npy'" in faults(slide2vec(tmp_path), coordinates=_npz(tmp_path, x=CORNERS[:, 0]))
    assert "can be told apart (npy)" in faults(slide2vec(tmp_path), coordinates=npy(tmp_path))


def _npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "n.npz", **arrays)
    return folder / "n.npz"


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"artifact_type": "slide_embeddings"}, "holds 'slide_embeddings'"),
        ({"tile_size_lv0": -1}, "'tile_size_lv0' is -1"),
        ({"tile_size_lv0": "448"}, "'tile_size_lv0' is '448'"),
        ({"tile_size_lv0": True}, "'tile_size_lv0' is True"),
    ],
)
def test_sidecar_with_other_contents(tmp_path: Path, stated: dict[str, Any], words: str) -> None:
    assert words in faults(slide2vec(tmp_path, **stated), coordinates=slide2vec_places(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", "[" * 100_000, "{}" + " " * 2**24],
    ids=["cut short", "no object", "too deep", "too long"],
)
def test_sidecar_that_is_none(tmp_path: Path, text: str) -> None:
    path = slide2vec(tmp_path)
    (tmp_path / "C2.x.meta.json").write_text(text)
    assert "C2.x.meta.json" in faults(path, coordinates=slide2vec_places(tmp_path))
