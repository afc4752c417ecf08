import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spam.errors import ConfigError, MissingInputError, SectionError
from spam.schemas.embed_config import InputConfig
from spam.sections.instrument_folder import read_folder
from spam.sections.instrument_section import InstrumentSection
from tests.reference.instrument_folders import GENES, N_SPOTS, read_dense, write_xenium, xenium_id

PIXEL_UM = 0.2125
# H&E pixel -> morphology pixel: 60 degrees, 1.3 times as large, shifted
ANGLE = np.deg2rad(60)
TURN = 1.3 * np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
SHIFT = np.array([807.98, -1309.7])


def found_in(folder: Path, **options: object) -> InstrumentSection:
    return read_folder(InputConfig(from_=folder, **options))[1]


def write_alignment(path: Path, turn: np.ndarray = TURN, shift: np.ndarray = SHIFT) -> Path:
    rows = [[*turn[0], shift[0]], [*turn[1], shift[1]], [0.0, 0.0, 1.0]]
    path.write_text("\n".join(",".join(map(repr, map(float, row))) for row in rows) + "\n")
    return path


def on_the_image(xy_um: np.ndarray) -> np.ndarray:
    """Solve M xy_he = xy_um / pixel_size for each cell."""
    return np.array([np.linalg.solve(TURN, one / PIXEL_UM - SHIFT) for one in xy_um])


def test_the_real_lung_section(shared_data: Path) -> None:
    outs = shared_data / "xenium_lung_ncbi858" / "outs_rewritten"
    dense, barcodes, names = read_dense(outs / "cell_feature_matrix.h5")
    cells = pd.read_csv(outs / "cells.csv.gz").set_index("cell_id").loc[barcodes]
    found = found_in(outs, image=outs / "he_image.ome.tif")
    np.testing.assert_array_equal(found.counts.toarray(), dense)
    assert (found.ids.tolist(), found.genes.tolist()) == (barcodes, names)
    np.testing.assert_allclose(found.xy_px, cells[["x_centroid", "y_centroid"]], rtol=0, atol=1e-9)
    assert found.mpp == pytest.approx(1.0)
    assert "cells.parquet" in found.found()


def test_the_real_breast_subset_without_an_image(shared_data: Path) -> None:
    folder = shared_data / "vendor_xenium_breast_subset"
    dense, barcodes, names = read_dense(folder / "cell_feature_matrix.h5")
    with gzip.open(folder / "cells.csv.gz", "rt") as file:
        cells = pd.read_csv(file)
    found = found_in(folder)
    np.testing.assert_array_equal(found.counts.toarray(), dense)
    assert (found.ids.tolist(), found.genes.tolist()) == (barcodes, names)
    np.testing.assert_array_equal(found.xy_um, cells[["x_centroid", "y_centroid"]])
    assert found.xy_px is None
    assert found.mpp is None


@pytest.mark.parametrize("matrix", ["h5", "mex", "zarr"])
@pytest.mark.parametrize("cells", ["cells.parquet", "cells.csv.gz", "cells.zarr.zip"])
def test_every_way_of_writing_a_section(tmp_path: Path, cells: str, matrix: str) -> None:
    counts, ids, xy_um = write_xenium(tmp_path, cells=cells, matrix=matrix)
    write_alignment(tmp_path / "Breast_he_imagealignment.csv")
    found = found_in(tmp_path, image=tmp_path / "he.tif")
    assert found.ids.tolist() == ids
    np.testing.assert_array_equal(found.counts.toarray(), counts)
    assert found.genes.tolist() == list(GENES[:-2])
    np.testing.assert_allclose(found.xy_px, on_the_image(xy_um), rtol=0, atol=1e-6)
    assert found.mpp == pytest.approx(PIXEL_UM * 1.3)
    np.testing.assert_array_equal(found.obs["cell_area"], np.full(N_SPOTS, 50.5))
    assert any("2 of 7 features are not genes" in note for note in found.notes)


def test_cell_ids_of_the_documentation() -> None:
    """From 10x: the integers 1437536272 and 1 are written as ffkpbaba-1 in letters."""
    from spam.sections.feature_matrix import xenium_ids

    pairs = np.array([[1437536272, 1], [0, 2], [2**32 - 1, 1]], dtype=np.uint32)
    assert xenium_ids(pairs).tolist() == ["ffkpbaba-1", "aaaaaaaa-2", "pppppppp-1"]
    assert xenium_id(1437536272) == "ffkpbaba-1"
    assert xenium_ids(np.array([3, 14])).tolist() == ["3", "14"]


def test_ids_as_bytes_and_as_numbers(tmp_path: Path) -> None:
    counts, ids, _ = write_xenium(tmp_path)
    cells = pd.read_parquet(tmp_path / "cells.parquet")
    cells.assign(cell_id=[one.encode() for one in cells["cell_id"]]).to_parquet(tmp_path / "cells.parquet")
    found = found_in(tmp_path)
    assert found.ids.tolist() == ids
    np.testing.assert_array_equal(found.counts.toarray(), counts)


@pytest.mark.parametrize(
    "facts", [{"analysis_sw_version": "R&D"}, {"analysis_sw_version": None}, {"analysis_sw_version": 4}]
)
def test_any_version_of_the_software(tmp_path: Path, facts: dict[str, object]) -> None:
    _, _, xy_um = write_xenium(tmp_path, facts=facts)
    write_alignment(tmp_path / "he_imagealignment.csv")
    found = found_in(tmp_path, image=tmp_path / "he.tif")
    np.testing.assert_allclose(found.xy_px, on_the_image(xy_um), rtol=0, atol=1e-6)


def test_a_missing_version(tmp_path: Path) -> None:
    write_xenium(tmp_path)
    path = tmp_path / "experiment.xenium"
    path.write_text(json.dumps({"pixel_size": PIXEL_UM, "major_version": 5}))
    assert found_in(tmp_path).platform == "Xenium"


def test_a_missing_alignment_is_an_error(tmp_path: Path) -> None:
    write_xenium(tmp_path)
    with pytest.raises(MissingInputError, match=r"--image\), and no other table. Give .*--alignment"):
        found_in(tmp_path, image=tmp_path / "he.tif")
    write_alignment(tmp_path / "Breast_if_imagealignment.csv")  # of the immunofluorescence image
    with pytest.raises(
        MissingInputError, match=r"no \*_he_imagealignment.csv.*if_imagealignment.*--alignment"
    ):
        found_in(tmp_path, image=tmp_path / "he.tif")


def test_a_renamed_alignment_is_named_and_can_be_given(tmp_path: Path) -> None:
    _, _, xy_um = write_xenium(tmp_path)
    path = write_alignment(tmp_path / "matrix.csv")
    with pytest.raises(MissingInputError, match=r"only 'matrix.csv'.*--alignment"):
        found_in(tmp_path, image=tmp_path / "he.tif")
    found = found_in(tmp_path, image=tmp_path / "he.tif", alignment=path)
    np.testing.assert_allclose(found.xy_px, on_the_image(xy_um), rtol=0, atol=1e-6)


def keypoints(n: int, *, noise_px: float = 0.0) -> pd.DataFrame:
    moving = np.random.default_rng(6).uniform(0, 9000, (n, 2))
    fixed = moving @ TURN.T + SHIFT + np.random.default_rng(7).normal(0, noise_px, (n, 2))
    columns = {
        "fixedX": fixed[:, 0],
        "fixedY": fixed[:, 1],
        "alignmentX": moving[:, 0],
        "alignmentY": moving[:, 1],
    }
    return pd.DataFrame(columns)


@pytest.mark.parametrize("n", [3, 5, 41])
def test_keypoints_without_error_give_the_alignment(tmp_path: Path, n: int) -> None:
    _, _, xy_um = write_xenium(tmp_path)
    keypoints(n).to_csv(tmp_path / "points.csv", index=False)
    found = found_in(tmp_path, image=tmp_path / "he.tif", alignment=tmp_path / "points.csv")
    np.testing.assert_allclose(found.xy_px, on_the_image(xy_um), rtol=0, atol=1e-5)
    assert any(f"{n} keypoints fit with a residual of 0.00 µm" in note for note in found.notes)


def test_all_keypoints_are_used_and_the_residual_is_in_um(tmp_path: Path) -> None:
    _, _, xy_um = write_xenium(tmp_path)
    points = keypoints(53, noise_px=6.0)
    points.to_csv(tmp_path / "points.csv", index=False)
    found = found_in(tmp_path, image=tmp_path / "he.tif", alignment=tmp_path / "points.csv")
    # Normal equations, as an independent solution
    a = np.column_stack([points[["alignmentX", "alignmentY"]], np.ones(53)])
    b = points[["fixedX", "fixedY"]].to_numpy()
    solved = np.linalg.solve(a.T @ a, a.T @ b).T
    expected = np.array([np.linalg.solve(solved[:, :2], one / PIXEL_UM - solved[:, 2]) for one in xy_um])
    np.testing.assert_allclose(found.xy_px, expected, rtol=0, atol=1e-4)
    rms_um = np.sqrt((((a @ solved.T - b) ** 2).sum(axis=1)).mean()) * PIXEL_UM
    assert any(f"residual of {rms_um:.2f} µm" in note for note in found.notes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,0\n0,1\n",
        "1,0,0\n0,1,0\n1,0,1\n",
        "1,1,0\n1,1,0\n0,0,1\n",
        "1,0,nan\n0,1,0\n0,0,1\n",
        "a,b,c\nd,e,f\ng,h,i\n",
        "fixedX,fixedY,alignmentX,alignmentY\n1,1,1,1\n2,2,2,2\n",
        "fixedX,fixedY,alignmentX,alignmentY\n1,1,1,1\n2,2,2,2\n3,3,3,3\n4,4,4,4\n",
        "fixedX,fixedY\n1,1\n2,2\n3,9\n",
    ],
)
def test_a_file_that_is_no_alignment(tmp_path: Path, text: str) -> None:
    write_xenium(tmp_path)
    (tmp_path / "he_imagealignment.csv").write_text(text)
    with pytest.raises(SectionError, match=r"he_imagealignment\.csv"):
        found_in(tmp_path, image=tmp_path / "he.tif")


def test_a_mirrored_or_sheared_alignment_is_read_and_named(tmp_path: Path) -> None:
    write_xenium(tmp_path)
    write_alignment(tmp_path / "he_imagealignment.csv", np.array([[1.5, 0.0], [0.0, 1.2]]))
    found = found_in(tmp_path)
    assert any("1.25 times" in note for note in found.notes)
    assert found.mpp == pytest.approx(PIXEL_UM * np.sqrt(1.5 * 1.2))


@pytest.mark.parametrize("pixel_size", [None, 0, "0.2125", float("nan"), 212.5])
def test_an_impossible_pixel_size(tmp_path: Path, pixel_size: object) -> None:
    write_xenium(tmp_path, facts={"pixel_size": pixel_size})
    write_alignment(tmp_path / "he_imagealignment.csv")
    with pytest.raises(SectionError, match=r"experiment\.xenium must state pixel_size"):
        found_in(tmp_path)


def test_parts_of_two_runs(tmp_path: Path) -> None:
    write_xenium(tmp_path)
    cells = pd.read_parquet(tmp_path / "cells.parquet")
    cells.assign(cell_id=[f"{i}-2" for i in range(len(cells))]).to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(SectionError, match=f"{N_SPOTS} of the {N_SPOTS} cells .*cells.parquet"):
        found_in(tmp_path)


def test_a_cell_without_a_position(tmp_path: Path) -> None:
    _, ids, _ = write_xenium(tmp_path)
    cells = pd.read_parquet(tmp_path / "cells.parquet")
    cells[cells["cell_id"] != ids[3]].to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(SectionError, match=f"1 of the {N_SPOTS} cells .*{ids[3]}.* of one run"):
        found_in(tmp_path)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("cell_feature_matrix.h5", "no cell_feature_matrix.h5"),
        ("cells.parquet", r"no cells\.parquet or cells\.csv\.gz"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, missing: str, words: str) -> None:
    write_xenium(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(MissingInputError, match=words):
        found_in(tmp_path)


def test_the_fluorescence_image_is_not_the_slide(tmp_path: Path) -> None:
    write_xenium(tmp_path)
    write_alignment(tmp_path / "he_imagealignment.csv")
    for name in (
        "morphology_mip.ome.tif",
        "morphology_focus/ch0000_dapi.ome.tif",
    ):  # the second since Xenium 4
        with pytest.raises(ConfigError, match=f"--image .*{name}"):
            found_in(tmp_path, image=tmp_path / name)


def test_a_damaged_table_of_cells(tmp_path: Path) -> None:
    write_xenium(tmp_path)
    path = tmp_path / "cells.parquet"
    for content in (path.read_bytes()[:500], b"not parquet", b""):
        path.write_bytes(content)
        with pytest.raises(SectionError, match=r"cells\.parquet"):
            found_in(tmp_path)
    shutil.copy(tmp_path / "experiment.xenium", tmp_path / "cells.csv")
    path.unlink()
    with pytest.raises(SectionError, match=r"cells\.csv"):
        found_in(tmp_path)
