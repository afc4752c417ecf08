import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from spam.errors import ConfigError, MissingInputError, SectionError
from spam.schemas.embed_config import InputConfig
from spam.sections.instrument_folder import read_folder
from spam.sections.instrument_section import InstrumentSection
from tests.reference.instrument_folders import (
    GENES,
    IDS,
    N_SPOTS,
    dense_counts,
    hexagonal,
    read_dense,
    write_bins,
    write_cells,
    write_h5,
    write_mex,
    write_visium,
)

PIXELS = ["pxl_col_in_fullres", "pxl_row_in_fullres"]
COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


def found_in(folder: Path, **options: object) -> InstrumentSection:
    return read_folder(InputConfig(from_=folder, **options))[1]


def assert_holds(found: InstrumentSection, counts: np.ndarray, ids: list[str], xy: np.ndarray) -> None:
    assert found.ids.tolist() == list(ids)
    np.testing.assert_array_equal(found.counts.toarray(), counts)
    assert found.counts.dtype == np.int32
    assert found.xy_px is not None
    np.testing.assert_allclose(found.xy_px, xy, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("folder", "positions", "has_header", "mpp"),
    [
        # 138 and 139 px between neighbours of one row; 21.45 px
        ("vendor_visium_spaceranger1_tiny", "tissue_positions_list.csv", False, 0.7246),
        ("vendor_visium_spaceranger3_mouse_embryo", "tissue_positions.csv", True, 4.662),
    ],
)
def test_real_visium(shared_data: Path, folder: str, positions: str, has_header: bool, mpp: float) -> None:
    outs = shared_data / folder / "outs"
    dense, barcodes, names = read_dense(outs / "filtered_feature_bc_matrix.h5")
    header = 0 if has_header else None
    table = pd.read_csv(outs / "spatial" / positions, header=header)
    table.columns = COLUMNS
    table = table.set_index("barcode").loc[barcodes]
    found = found_in(shared_data / folder)
    assert_holds(found, dense, barcodes, table[PIXELS].to_numpy())
    assert found.mpp == pytest.approx(mpp, rel=1e-3)
    is_first = ~pd.Index(names).duplicated()
    np.testing.assert_array_equal(found.genes[is_first], np.array(names)[is_first])
    np.testing.assert_array_equal(found.genes[~is_first], found.gene_ids[~is_first])
    assert len(set(found.genes)) == len(names)
    np.testing.assert_array_equal(found.obs["array_row"], table["array_row"])
    np.testing.assert_array_equal(found.obs["array_col"], table["array_col"])


def test_the_pitch_of_real_spots(shared_data: Path) -> None:
    """The median distance to the six neighbours is 100 µm."""
    outs = shared_data / "vendor_visium_spaceranger3_mouse_embryo" / "outs"
    table = pd.read_csv(outs / "spatial" / "tissue_positions.csv")
    places = dict(
        zip(zip(table["array_row"], table["array_col"], strict=True), table[PIXELS].to_numpy(), strict=True)
    )
    gaps = [
        np.linalg.norm(places[row + down, column + right] - place)
        for (row, column), place in places.items()
        for down, right in ((0, 2), (1, 1), (1, -1))
        if (row + down, column + right) in places
    ]
    assert found_in(outs).mpp == pytest.approx(100 / np.median(gaps), rel=1e-6)


@pytest.mark.parametrize("section", ["section1", "section2"])
@pytest.mark.parametrize("kind", ["h5", "mex"])
def test_real_raw_matrix(shared_data: Path, tmp_path: Path, section: str, kind: str) -> None:
    source = shared_data / "vendor_visium_hd_tiny" / "10xVisium" / section / "outs"
    outs = tmp_path / "outs"
    shutil.copytree(source, outs, copy_function=shutil.copyfile)
    if kind == "h5":
        dense, barcodes, _ = read_dense(outs / "raw_feature_bc_matrix.h5")
    else:
        (outs / "raw_feature_bc_matrix.h5").unlink()
        mex = outs / "raw_feature_bc_matrix"
        barcodes = (mex / "barcodes.tsv").read_text().split()
        dense = np.zeros((len(barcodes), len((mex / "features.tsv").read_text().splitlines())), dtype=int)
        for line in (mex / "matrix.mtx").read_text().splitlines()[2:]:
            gene, spot, count = map(int, line.split()[:3])
            dense[spot - 1, gene - 1] += count
    table = pd.read_csv(outs / "spatial" / "tissue_positions_list.csv", header=None, names=COLUMNS).set_index(
        "barcode"
    )
    table = table.reindex(barcodes)  # one barcode of section 2 has no position
    is_tissue = (table["in_tissue"] == 1).to_numpy()
    found = found_in(tmp_path)
    kept = [spot for spot, tissue in zip(barcodes, is_tissue, strict=True) if tissue]
    assert_holds(found, dense[is_tissue], kept, table[PIXELS].to_numpy()[is_tissue])
    assert any("in_tissue 0" in note for note in found.notes)


def test_real_visium_hd(shared_data: Path) -> None:
    folder = shared_data / "vendor_visium_hd_tiny"
    bins = folder / "binned_outputs" / "square_002um"
    dense, barcodes, names = read_dense(bins / "filtered_feature_bc_matrix.h5")
    table = pd.read_parquet(bins / "spatial" / "tissue_positions.parquet").set_index("barcode").loc[barcodes]
    found = found_in(folder)
    assert_holds(found, dense, barcodes, table[PIXELS].to_numpy())
    assert found.mpp == pytest.approx(0.2738242950835738, rel=1e-12)
    assert found.genes.tolist() == names


@pytest.mark.parametrize("degrees", [0, 5.4, 90, 211])
@pytest.mark.parametrize("mpp", [0.23, 1.7])
def test_visium_pixel_size_from_the_pitch(tmp_path: Path, degrees: float, mpp: float) -> None:
    write_visium(tmp_path / "outs", mpp=mpp, degrees=degrees)
    assert found_in(tmp_path).mpp == pytest.approx(mpp, rel=1e-6)


def test_pixel_size_with_spots_missing_from_the_positions(tmp_path: Path) -> None:
    _, positions = write_visium(tmp_path / "outs", mpp=0.4)
    sparse = positions[positions["array_row"] % 3 == 0]
    path = tmp_path / "outs" / "spatial" / "tissue_positions.csv"
    sparse.to_csv(path, index=False)
    write_h5(tmp_path / "outs" / "filtered_feature_bc_matrix.h5", dense_counts(5), sparse["barcode"][:5])
    assert found_in(tmp_path).mpp == pytest.approx(0.4, rel=1e-6)


def test_a_spot_diameter_that_contradicts_the_pitch_is_named(tmp_path: Path) -> None:
    write_visium(tmp_path, mpp=0.5)
    path = tmp_path / "spatial" / "scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spot_diameter_fullres": 65.0}))
    found = found_in(tmp_path)
    assert found.mpp == pytest.approx(0.5)
    assert "65 px would mean 1" in (found.mpp_note or "")


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("kind", ["h5", "mex", "plain mex"])
def test_every_way_of_writing_a_section(tmp_path: Path, header: bool, kind: str) -> None:
    outs = tmp_path / "lung" / "outs"
    counts, positions = write_visium(outs, header=header)
    barcodes = positions["barcode"][:N_SPOTS].tolist()
    if kind != "h5":
        (outs / "filtered_feature_bc_matrix.h5").unlink()
        write_mex(outs / "filtered_feature_bc_matrix", counts, barcodes, is_compressed=kind == "mex")
    for folder in (outs, outs.parent):
        name, found = read_folder(InputConfig(from_=folder))
        assert name == "lung"
        assert_holds(found, counts, barcodes, positions[PIXELS].to_numpy()[:N_SPOTS])
        assert found.genes.tolist() == list(GENES)
        assert found.gene_ids.tolist() == list(IDS)


def test_positions_with_columns_in_another_order(tmp_path: Path) -> None:
    counts, positions = write_visium(tmp_path)
    positions[COLUMNS[::-1]].to_csv(tmp_path / "spatial" / "tissue_positions.csv", index=False)
    # Not recognised by its first column, but by its names
    positions[["barcode", *COLUMNS[:0:-1]]].to_csv(tmp_path / "spatial" / "tissue_positions.csv", index=False)
    found = found_in(tmp_path)
    assert_holds(
        found, counts, positions["barcode"][:N_SPOTS].tolist(), positions[PIXELS].to_numpy()[:N_SPOTS]
    )


def test_files_with_the_name_of_the_data_set(tmp_path: Path) -> None:
    counts, positions = write_visium(tmp_path)
    matrix = tmp_path / "filtered_feature_bc_matrix.h5"
    matrix.rename(tmp_path / "Lung_filtered_feature_bc_matrix.h5")
    found = found_in(tmp_path)
    assert_holds(
        found, counts, positions["barcode"][:N_SPOTS].tolist(), positions[PIXELS].to_numpy()[:N_SPOTS]
    )
    shutil.copy(
        tmp_path / "Lung_filtered_feature_bc_matrix.h5", tmp_path / "Brain_filtered_feature_bc_matrix.h5"
    )
    with pytest.raises(SectionError, match="2 files named .*Brain_filtered"):
        found_in(tmp_path)


def test_of_two_matrices_the_filtered_one_is_read(tmp_path: Path) -> None:
    counts, positions = write_visium(tmp_path)
    write_h5(
        tmp_path / "raw_feature_bc_matrix.h5", dense_counts(len(positions), seed=8), positions["barcode"]
    )
    write_mex(tmp_path / "filtered_feature_bc_matrix", counts + 1, positions["barcode"][:N_SPOTS])
    found = found_in(tmp_path)
    np.testing.assert_array_equal(found.counts.toarray(), counts)
    assert "filtered_feature_bc_matrix.h5" in found.found()


def test_features_that_are_not_genes_are_left_out(tmp_path: Path) -> None:
    counts, positions = write_visium(tmp_path)
    kinds = ["Gene Expression", "Antibody Capture", *["Gene Expression"] * 4, "Antibody Capture"]
    write_h5(tmp_path / "filtered_feature_bc_matrix.h5", counts, positions["barcode"][:N_SPOTS], kinds=kinds)
    found = found_in(tmp_path)
    np.testing.assert_array_equal(found.counts.toarray(), counts[:, [0, 2, 3, 4, 5]])
    assert found.genes.tolist() == ["G0", "G2", "G3", "G4", "G5"]
    assert any("2" in note and "Antibody Capture" in note for note in found.notes)


def test_genes_that_share_a_name_stay_apart(tmp_path: Path) -> None:
    counts, positions = write_visium(tmp_path)
    names = ["A", "B", "A", "C", "B", "A", "D"]
    write_h5(tmp_path / "filtered_feature_bc_matrix.h5", counts, positions["barcode"][:N_SPOTS], genes=names)
    found = found_in(tmp_path)
    np.testing.assert_array_equal(found.counts.toarray(), counts)
    assert found.genes.tolist() == ["A", "B", IDS[2], "C", IDS[4], IDS[5], "D"]


@pytest.mark.parametrize(("wanted", "size"), [(None, 8), ("2", 2), ("16", 16)])
def test_visium_hd_bins(tmp_path: Path, wanted: str | None, size: int) -> None:
    outs = tmp_path / "outs"
    written = {each: write_bins(outs, each) for each in (2, 8, 16)}
    (outs / "feature_slice.h5").write_bytes(b"not read")
    counts, positions = written[size]
    places = [(tmp_path, wanted), (outs, wanted), (outs / "binned_outputs" / f"square_{size:03d}um", None)]
    for folder, choice in places:
        found = found_in(folder, bin=choice)
        n = len(counts)
        assert_holds(found, counts, positions["barcode"][:n].tolist(), positions[PIXELS].to_numpy()[:n])
        assert (found.mpp, found.spot_um) == (0.25, size)
        assert f"{size} µm bins" in found.platform


def test_segmented_cells(tmp_path: Path) -> None:
    outs = tmp_path / "outs"
    counts, ids, centres = write_cells(outs)
    write_bins(outs, 8)
    found = found_in(tmp_path, bin="cells")
    assert found.ids.tolist() == ids
    np.testing.assert_array_equal(found.counts.toarray(), counts)
    np.testing.assert_allclose(found.xy_px, centres, rtol=0, atol=1e-6)
    assert (found.mpp, found.is_cells) == (0.25, True)
    assert "8 µm bins" in found_in(tmp_path).platform
    np.testing.assert_array_equal(found_in(outs / "segmented_outputs").counts.toarray(), counts)


def test_segmented_cells_without_a_polygon_or_with_several(tmp_path: Path) -> None:
    counts, ids, centres = write_cells(tmp_path)
    path = tmp_path / "segmented_outputs" / "cell_segmentations.geojson"
    collection = json.loads(path.read_text())
    dropped = collection["features"].pop()["properties"]["cell_id"]
    first = collection["features"][0]
    ring = first["geometry"]["coordinates"][0]
    small = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
    first["geometry"] = {"type": "MultiPolygon", "coordinates": [[small], [ring]]}
    nucleus = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    centroid = {
        "type": "Feature",
        "properties": {"cell_id": 1},
        "geometry": {"type": "Point", "coordinates": [1, 2]},
    }
    collection["features"] += [nucleus, centroid]
    path.write_text(json.dumps(collection))
    found = found_in(tmp_path)
    kept = [i for i in range(len(ids)) if i + 1 != dropped]
    assert_holds(found, counts[kept], [ids[i] for i in kept], np.round(centres[kept], 12))
    assert any(f"1 of {len(ids)} cells without a position" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "words"), [({"bin": "4"}, "--bin 4.* has 2, 8"), ({"bin": "cells"}, "--bin cells.* has 2, 8")]
)
def test_bins_that_are_not_there(tmp_path: Path, options: dict[str, str], words: str) -> None:
    for size in (2, 8):
        write_bins(tmp_path, size)
    with pytest.raises(ConfigError, match=words):
        found_in(tmp_path, **options)
    write_visium(tmp_path / "visium")
    with pytest.raises(ConfigError, match="--bin .*not Visium HD"):
        found_in(tmp_path / "visium", **options)


def _set(path: Path, key: str, values: object) -> None:
    with h5py.File(path, "r+") as file:
        del file[f"matrix/{key}"]
        file[f"matrix/{key}"] = values


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: _set(m, "data", np.arange(3)),
        lambda m: _set(m, "indices", h5py.File(m)["matrix/indices"][:] + 7),
        lambda m: _set(m, "indices", h5py.File(m)["matrix/indices"][:] - 1),
        lambda m: _set(m, "indices", h5py.File(m)["matrix/indices"][:] * 10**7),
        lambda m: _set(m, "indptr", np.array([0, -4, *h5py.File(m)["matrix/indptr"][2:]])),
        lambda m: _set(m, "indptr", h5py.File(m)["matrix/indptr"][:] + 1),
        lambda m: _set(m, "indptr", h5py.File(m)["matrix/indptr"][:-1]),
        lambda m: _set(m, "data", h5py.File(m)["matrix/data"][:] + 0.5),
        lambda m: _set(m, "data", -h5py.File(m)["matrix/data"][:]),
        lambda m: _set(m, "features/name", np.array([b"a", b"b"])),
        lambda m: _set(m, "barcodes", np.array([b"same"] * N_SPOTS)),
        lambda m: m.write_bytes(m.read_bytes()[:3000]),
        lambda m: m.write_bytes(b"PK not a matrix"),
    ],
)
def test_a_damaged_matrix_is_an_error(tmp_path: Path, edit: object) -> None:
    write_visium(tmp_path)
    matrix = tmp_path / "filtered_feature_bc_matrix.h5"
    edit(matrix)  # type: ignore[operator]
    with pytest.raises(SectionError, match="filtered_feature_bc_matrix"):
        found_in(tmp_path)


def test_a_matrix_of_another_file_is_not_read(tmp_path: Path) -> None:
    write_visium(tmp_path)
    (tmp_path / "secret").write_bytes(b"\x01\x00\x00\x00" * 400)
    with h5py.File(tmp_path / "filtered_feature_bc_matrix.h5", "r+") as file:
        n = len(file["matrix/data"])
        del file["matrix/data"]
        external = [(str(tmp_path / "secret"), 0, 4 * n)]
        file["matrix"].create_dataset("data", (n,), np.int32, external=external)
    with pytest.raises(SectionError, match="filtered_feature_bc_matrix"):
        found_in(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_visium(tmp_path)
    positions = tmp_path / "spatial" / "tissue_positions.csv"
    content = positions.read_bytes()
    positions.unlink()
    with pytest.raises(MissingInputError, match=r"spatial has no .*tissue_positions\.csv"):
        found_in(tmp_path)
    (tmp_path / "S1_spatial.tar.gz").write_text("x")
    with pytest.raises(MissingInputError, match=r"If it is in 'S1_spatial.tar.gz', unpack that: tar -xf"):
        found_in(tmp_path)
    positions.write_bytes(content)
    (tmp_path / "filtered_feature_bc_matrix.h5").unlink()
    with pytest.raises(MissingInputError, match=r"no filtered_feature_bc_matrix\.h5"):
        found_in(tmp_path)


def test_positions_of_another_section(tmp_path: Path) -> None:
    _, positions = write_visium(tmp_path)
    path = tmp_path / "spatial" / "tissue_positions.csv"
    positions.assign(barcode=positions["barcode"].str.replace("-1", "-2")).to_csv(path, index=False)
    with pytest.raises(SectionError, match=f"{N_SPOTS} of the {N_SPOTS} spots .*AC0000-1"):
        found_in(tmp_path)


@pytest.mark.parametrize("n_kept", [0, 1, (N_SPOTS - 1) // 2])
def test_positions_of_less_than_half_of_the_spots(tmp_path: Path, n_kept: int) -> None:
    _, positions = write_visium(tmp_path)
    path = tmp_path / "spatial" / "tissue_positions.csv"
    positions[:n_kept].to_csv(path, index=False)
    has = positions["barcode"][0] if n_kept else "no row"
    words = f"{N_SPOTS - n_kept} of the {N_SPOTS} spots .*{positions['barcode'][n_kept]}.*it has '?{has}.* of one section"
    with pytest.raises(SectionError, match=words):
        found_in(tmp_path)


@pytest.mark.parametrize("value", ["", "far", "inf"])
def test_a_position_that_is_no_number(tmp_path: Path, value: str) -> None:
    _, positions = write_visium(tmp_path)
    positions = positions.astype({"pxl_row_in_fullres": object})
    positions.loc[3, "pxl_row_in_fullres"] = value
    positions.to_csv(tmp_path / "spatial" / "tissue_positions.csv", index=False)
    with pytest.raises(SectionError, match="1 row has no finite number.*AC0006-1"):
        found_in(tmp_path)


def test_no_spot_under_tissue(tmp_path: Path) -> None:
    _, positions = write_visium(tmp_path)
    positions.assign(in_tissue=0).to_csv(tmp_path / "spatial" / "tissue_positions.csv", index=False)
    with pytest.raises(SectionError, match="in_tissue 0"):
        found_in(tmp_path)


@pytest.mark.parametrize(
    "name", ["detected_tissue_image.jpg", "S1_cytassist_image.tiff", "aligned_fiducials.jpg"]
)
def test_pictures_of_the_cytassist_are_not_the_slide(tmp_path: Path, name: str) -> None:
    write_visium(tmp_path)
    with pytest.raises(ConfigError, match=f"--image .*{name}"):
        found_in(tmp_path, image=tmp_path / "spatial" / name)


def test_the_hires_image_has_its_own_pixels(tmp_path: Path) -> None:
    _, positions = write_visium(tmp_path, mpp=0.5)
    found = found_in(tmp_path, image=tmp_path / "spatial" / "tissue_hires_image.png")
    np.testing.assert_allclose(found.xy_px, positions[PIXELS].to_numpy()[:N_SPOTS] * 0.2)
    assert found.mpp == pytest.approx(2.5)
    assert found.scales["spot_diameter_fullres"] == pytest.approx(65 / 2.5)
    assert found.scales["tissue_hires_scalef"] == pytest.approx(1.0)
    assert any("tissue_hires_image.png is a reduced image" in note for note in found.notes)


def test_hexagonal_reference() -> None:
    """The made-up array is what it claims: six neighbours at 100 µm."""
    xy = hexagonal(6, 7, mpp=0.5)[PIXELS].to_numpy() * 0.5
    distances = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    assert ((distances > 1) & (distances < 100.001)).sum(axis=1).max() == 6
    assert distances[distances > 1].min() == pytest.approx(100)
