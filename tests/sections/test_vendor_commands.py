"""`spam import` and `spam embed --from` as a shell runs them, on real sections."""

import json
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from spam.cli import main
from spam.schemas.embed_config import InputConfig
from spam.sections import read_section
from tests.reference.instrument_folders import write_h5, write_image, write_visium


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["spam", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr()
    return int(end.value.code or 0), shown.out, shown.err


def write_outs(adata: anndata.AnnData, outs: Path) -> None:
    """Write a real section as Space Ranger would have."""
    barcodes = adata.obs_names
    write_h5(
        outs / "filtered_feature_bc_matrix.h5",
        adata.X.toarray(),
        barcodes,
        genes=adata.var_names,
        ids=adata.var_names,
    )
    positions = pd.DataFrame({"barcode": barcodes, "in_tissue": 1})
    positions["array_row"], positions["array_col"] = (
        adata.obs["array_row"].to_numpy(),
        adata.obs["array_col"].to_numpy(),
    )
    positions["pxl_row_in_fullres"], positions["pxl_col_in_fullres"] = (
        adata.obsm["spatial"][:, 1],
        adata.obsm["spatial"][:, 0],
    )
    (outs / "spatial").mkdir()
    positions.to_csv(outs / "spatial" / "tissue_positions.csv", index=False)
    (library,) = adata.uns["spatial"].values()
    scales = {key: float(value) for key, value in library["scalefactors"].items()}
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps(scales))


@pytest.mark.parametrize(
    ("folder", "section", "image"),
    [
        ("visium_mouse_brain_crop", "visium_mouse_brain_crop", "mouse_brain_crop.jpg"),
        ("colon_visium", "colon_d0", "colon_d0.jpg"),
    ],
)
def test_a_real_section_by_the_folder_and_by_lab_files(
    shared_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    section: str,
    image: str,
) -> None:
    source = shared_data / folder
    adata = anndata.read_h5ad(source / f"{section}.h5ad")
    write_outs(adata, tmp_path / "outs")
    slide = source / "images" / image
    direct = read_section(InputConfig(from_=tmp_path / "outs", image=slide))
    assert (
        direct.scale
        == f"{direct.mpp:.4g} µm/px (pitch of the spots, 100 µm{direct.scale.partition('100 µm')[2]}"
    )
    assert "µm per pixel" not in direct.join.found
    files = {"h5ad": source / f"{section}.h5ad", "csv": source / "mapping.csv", "root": source}
    prepared = read_section(InputConfig(**files))
    assert direct.ids.tolist() == prepared.ids.tolist()
    np.testing.assert_allclose(direct.xy_px, prepared.xy_px, atol=1e-6)
    assert direct.counts is not None
    assert prepared.counts is not None
    assert (direct.counts != prepared.counts).nnz == 0
    assert direct.mpp == pytest.approx(prepared.mpp, rel=0.01)
    words = (
        "embed",
        "--from",
        tmp_path / "outs",
        "--image",
        slide,
        "--store",
        tmp_path / "s.zarr",
        "--dry-run",
        "--json",
    )
    code, out, _ = run(capsys, monkeypatch, *words)
    planned = json.loads(out)
    assert (code, planned["n_tiles"]) == (0, adata.n_obs)
    assert planned["sections"][0]["mpp"] == pytest.approx(direct.mpp)


def test_the_lung_section_from_folder_to_plan(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = shared_data / "xenium_lung_ncbi858" / "outs_rewritten"
    image = outs / "he_image.ome.tif"
    code, out, _ = run(
        capsys, monkeypatch, "import", outs, "--image", image, "--section", "lung", "--out-dir", tmp_path
    )
    assert code == 0
    assert "Xenium: 200 cells, 338 genes" in out
    (command,) = [line.removeprefix("Next: ") for line in out.splitlines() if line.startswith("Next: ")]
    words = command.replace("cohort.zarr", str(tmp_path / "cohort.zarr")).split()[1:]
    code, out, _ = run(capsys, monkeypatch, *words, "--dry-run", "--json")
    assert (code, json.loads(out)["n_tiles"]) == (0, 200)
    # 35 of the 200 cells lie nearer to a border than half a tile, none outside
    prepared = anndata.read_h5ad(shared_data / "xenium_lung_ncbi858" / "NCBI858.h5ad")
    table = pd.read_csv(tmp_path / "lung.csv").set_index("cell_id")
    np.testing.assert_allclose(table.loc[prepared.obs_names, ["x", "y"]], prepared.obsm["spatial"], atol=0.51)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("embed", "--from", "outs", "--store", "s.zarr"), "--image is missing"),
        (
            ("embed", "--from", "away", "--image", "he.png", "--store", "s.zarr"),
            "Folder not found: away (--from)",
        ),
        (
            ("embed", "--image", "he.png", "--csv", "a.csv", "--root", ".", "--store", "s.zarr"),
            "--image belongs to --from",
        ),
        (
            ("embed", "--from", "outs", "--image", "he.png", "--csv", "a.csv", "--store", "s.zarr"),
            "omit --csv",
        ),
        (("embed", "--from", "outs", "--image", "he.png", "--root", ".", "--store", "s.zarr"), "omit --root"),
        (("import", "--out-dir", "lab"), "FOLDER is missing"),
        (("import", "outs"), "--out-dir is missing"),
        (("import", "outs", "--out-dir", "lab", "--bin", "16"), "--bin 16"),
        (("import", "outs", "--out-dir", "lab", "--image", "no.tif"), "no.tif (--image)"),
    ],
)
def test_errors_name_the_flag_and_leave_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_visium(tmp_path / "outs")
    write_image(tmp_path / "he.png", 90, 70)
    (tmp_path / "a.csv").write_text("x,y,source_image,spot_id\n1,2,he.png,s\n")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run(capsys, monkeypatch, *words)
    assert code == 2
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_impossible_pixel_size_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_visium(tmp_path / "outs", mpp=0.5)
    write_image(tmp_path / "he.png", 2300, 2300)
    for words in (
        ("embed", "--from", "outs", "--image", "he.png", "--store", "s.zarr", "--dry-run"),
        ("import", "outs", "--image", "he.png", "--out-dir", "lab"),
        ("import", "outs", "--out-dir", "lab"),
    ):
        code, _, err = run(capsys, monkeypatch, *words, "--mpp", "5")
        assert code == 2, words
        assert "are 1000 µm apart" in " ".join(err.split())
        assert "Give --mpp 0.5" in " ".join(err.split())
    assert not (tmp_path / "lab").exists()


def test_the_wrong_image_is_named_without_options_that_the_folder_does_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_visium(tmp_path / "outs", mpp=0.5)
    write_image(tmp_path / "small.png", 900, 900)
    assert run(capsys, monkeypatch, "import", "outs", "--image", "small.png", "--out-dir", "lab")[0] == 0
    for source in (("--from", "outs", "--image", "small.png"), ("--manifest", "lab/sections.csv")):
        code, _, err = run(capsys, monkeypatch, "embed", *source, "--store", "s.zarr", "--dry-run")
        assert code == 2
        assert "lie outside slide 'small.png' (900 x 900 px)" in " ".join(err.split())
        assert "fit with --coordinates" not in err  # the distance of the spots shows that they are in pixels
        assert ("(--image)" in err) == ("--from" in source)


def test_what_a_folder_holds_is_no_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_visium(tmp_path / "outs", mpp=0.5)
    write_image(tmp_path / "he.png", 2300, 2300)
    words = ("embed", "--from", "outs", "--image", "he.png", "--store", "s.zarr", "--dry-run")
    code, out, err = run(capsys, monkeypatch, *words)
    assert code == 0
    assert out.count("filtered_feature_bc_matrix.h5") == 1
    assert "filtered_feature_bc_matrix.h5" not in err
    code, _, err = run(capsys, monkeypatch, *words, "--device", "cuda:97")
    assert code == 2
    assert "--device cuda:97 is not available" in err


def test_the_commands_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lung", "brain"):
        write_visium(tmp_path / name / "outs", mpp=0.5)
        write_image(tmp_path / f"{name}_he.tif", 2300, 2300)
    page = (Path(__file__).parents[2] / "docs" / "vendor-folders.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("spam ")]
    for line in lines[:4]:  # the others are run on real folders: tests/test_vendor_runs.py
        dry = ["--dry-run"] if line.startswith("spam embed") else []
        assert run(capsys, monkeypatch, *line.split()[1:], *dry)[0] == 0, line
    assert {"lung.h5ad", "brain.csv", "sections.csv"} <= {path.name for path in (tmp_path / "lab").iterdir()}


def test_options_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_visium(tmp_path / "outs", mpp=0.5)
    write_image(tmp_path / "he.png", 2300, 2300)
    (tmp_path / "recipe.toml").write_text('from = "outs"\nimage = "he.png"\nstore = "s.zarr"\n')
    code, out, _ = run(capsys, monkeypatch, "embed", "--config", "recipe.toml", "--dry-run", "--json")
    assert (code, json.loads(out)["n_tiles"]) == (0, 19)
