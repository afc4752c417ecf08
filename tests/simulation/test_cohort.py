import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

from spam.errors import ConfigError, OutputExistsError
from spam.schemas.simulate_config import SimulateConfig
from spam.simulation import cohort, simulate, simulate_section, write_section


def config(out_dir: Path, **values: object) -> SimulateConfig:
    defaults = {"n_donors": 2, "n_sections": 1, "n_spots": 13, "n_genes": 7, "mpp": 2.0}
    return SimulateConfig(out_dir=out_dir, **{**defaults, **values})


def test_files_of_a_cohort(tmp_path: Path) -> None:
    out_dir = tmp_path / "new" / "cohort"
    report = simulate(config(out_dir))
    files = sorted(path.relative_to(out_dir).as_posix() for path in out_dir.rglob("*") if path.is_file())
    assert files == [
        *("D1S1.csv", "D1S1.h5ad", "D2S1.csv", "D2S1.h5ad"),
        *("images/D1S1.jpg", "images/D2S1.jpg", "sections.csv", "simulation.json"),
    ]
    assert report.sections == ("D1S1", "D2S1")
    assert report.donors == ("D1", "D2")
    assert (report.n_spots, report.n_genes) == (26, 7)
    assert json.loads(json.dumps(report.to_mapping()))["manifest"] == str(out_dir / "sections.csv")
    manifest = pd.read_csv(report.manifest)
    assert manifest.columns.tolist() == ["section", "donor", "h5ad", "csv", "root"]
    assert manifest.to_numpy().tolist() == [
        ["D1S1", "D1", "D1S1.h5ad", "D1S1.csv", "images"],
        ["D2S1", "D2", "D2S1.h5ad", "D2S1.csv", "images"],
    ]
    record = json.loads((out_dir / "simulation.json").read_text())
    assert record["options"]["n_spots"] == 13
    assert str(tmp_path) not in json.dumps(record)


def test_section_survives_its_files(tmp_path: Path) -> None:
    section = simulate_section(config(tmp_path), donor=1, section=2)
    h5ad, csv, image = write_section(section, tmp_path)
    adata = anndata.read_h5ad(h5ad)
    assert sparse.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.int32
    np.testing.assert_array_equal(adata.X.toarray(), section.counts)
    assert tuple(adata.obs_names) == section.ids
    assert tuple(adata.var_names) == section.genes
    np.testing.assert_array_equal(adata.obsm["spatial"], section.xy_px)
    np.testing.assert_array_equal(adata.obs[["array_row", "array_col"]], section.row_col)
    assert set(adata.obs["section"]) == {"D2S3"}
    assert set(adata.obs["patient"]) == {"D2"}
    np.testing.assert_allclose(adata.layers["true_rate"], 1e4 * section.rates, rtol=1e-6)
    assert adata.layers["true_rate"].dtype == np.float32
    np.testing.assert_array_equal(adata.obsm["true_programmes"], section.programmes)
    assert tuple(adata.uns["true_programmes"]) == section.programme_names
    np.testing.assert_array_equal(adata.var["loading_stroma"], section.loadings[:, 1])
    np.testing.assert_array_equal(adata.var["is_null"], section.is_null)
    np.testing.assert_array_equal(adata.obs["true_depth"], section.depths)
    spatial = adata.uns["spatial"]["D2S3"]
    assert spatial["metadata"] == {
        "mpp": 2.0,
        "spot_diameter_um": 55.0,
        "pitch_um": 100.0,
        "source_image": "D2S3.jpg",
        "technology": "simulated",
    }
    assert spatial["scalefactors"]["spot_diameter_fullres"] == 27.5

    table = pd.read_csv(csv)
    assert table.columns.tolist() == ["x", "y", "source_image", "spot_id", "section", "patient"]
    np.testing.assert_array_equal(table[["x", "y"]], section.xy_px)
    assert tuple(table["spot_id"]) == section.ids
    with Image.open(image) as opened:
        pixels = np.asarray(opened)
    assert pixels.shape == section.image.shape
    assert np.abs(pixels.astype(int) - section.image).mean() < 5  # JPEG


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of all files but the h5ad, whose container may hold times."""
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".h5ad"}


def test_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        simulate(config(tmp_path / name))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    first, second = (anndata.read_h5ad(tmp_path / name / "D2S1.h5ad") for name in ("a", "b"))
    np.testing.assert_array_equal(first.X.toarray(), second.X.toarray())
    np.testing.assert_array_equal(first.layers["true_rate"], second.layers["true_rate"])
    pd.testing.assert_frame_equal(first.obs, second.obs)
    pd.testing.assert_frame_equal(first.var, second.var)


def test_folder_with_content_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"is not empty.*--out-dir.*--overwrite"):
        simulate(config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_overwriting_replaces_the_cohort_alone(tmp_path: Path) -> None:
    simulate(config(tmp_path, seed=1))
    (tmp_path / "notes.txt").write_text("mine")
    simulate(config(tmp_path, n_donors=1, overwrite=True))
    simulate(config(tmp_path.with_name("fresh"), n_donors=1))
    fresh = contents(tmp_path.with_name("fresh"))
    assert {name: data for name, data in contents(tmp_path).items() if name in fresh} == fresh
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert pd.read_csv(tmp_path / "sections.csv")["section"].tolist() == ["D1S1"]


def test_bad_options_do_not_end_the_cohort_that_is_there(tmp_path: Path) -> None:
    simulate(config(tmp_path, n_donors=1))
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="--n-programmes"):
        simulate(config(tmp_path, n_programmes=9, overwrite=True))
    assert contents(tmp_path) == before


def test_interrupted_run_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(config(tmp_path))
    real = cohort.simulate_section

    def stop_at_second(options: SimulateConfig, *, donor: int, section: int) -> object:
        if donor == 1:
            raise KeyboardInterrupt
        return real(options, donor=donor, section=section)

    monkeypatch.setattr(cohort, "simulate_section", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        simulate(config(tmp_path, seed=3, overwrite=True))
    assert not (tmp_path / "sections.csv").exists()
    assert not list(tmp_path.rglob(".partial*"))


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cohort").write_text("a file")
    with pytest.raises(OutputExistsError, match="is a file, but the cohort needs a folder"):
        simulate(config(tmp_path / "cohort", overwrite=True))


def test_progress_counts_the_sections(tmp_path: Path) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.notes: list[str] = []

        def task(self, description: str, total: int) -> "Recorder":
            assert total == 2
            return self

        def __enter__(self):
            return lambda steps=1, *, note="": self.notes.append(note)

        def __exit__(self, *error: object) -> None:
            return None

    recorder = Recorder()
    simulate(config(tmp_path), progress=recorder)
    assert recorder.notes == ["D1S1", "D2S1"]
