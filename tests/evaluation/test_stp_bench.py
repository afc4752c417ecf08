"""The layout of STP-Bench (arXiv 2609.05956) on real sections: st, metadata, wsis and ids.csv -> store -> predefined folds."""

import csv
import json
from pathlib import Path

import anndata
import numpy as np
import pytest
from PIL import Image

from spam.embedding import embed
from spam.evaluation import benchmark
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.embed_config import EmbedConfig
from spam.store import open_store

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # 92 megapixels

REDUCED = 8  # of the images, so that the test is quick
CASES = {"C2": "case1", "C3": "case1", "C4": "case2"}
TABLE = """sample_id,case_id,fold_0,fold_1
C2,case1,test,train
C3,case1,test,train
C4,case2,train,test
"""


def write_stp_bench(her2st: Path, root: Path) -> dict[str, anndata.AnnData]:
    """Write every fifth spot in reverse order, as STP-Bench writes the spots with patches: X, obs and var alone."""
    for name in ("st", "metadata", "wsis"):
        (root / name).mkdir(parents=True)
    truth = {}
    for number, name in enumerate(CASES):
        lab = anndata.read_h5ad(her2st / f"{name}.h5ad")[::-5].copy()
        facts = lab.uns["spatial"][name]["metadata"]
        with Image.open(her2st / "images" / facts["source_image"]) as image:
            width = image.width
            image.draft("RGB", (image.width // REDUCED, image.height // REDUCED))
            image.save(root / "wsis" / f"{name}.{('tif', 'tiff')[number % 2]}")
            scale = image.width / width
        lab.obsm["spatial"] = lab.obsm["spatial"] * scale
        obs = lab.obs[["array_row", "array_col", "in_tissue"]].copy()
        obs["pxl_col_in_fullres"], obs["pxl_row_in_fullres"] = lab.obsm["spatial"].T
        anndata.AnnData(X=lab.X, obs=obs, var=lab.var[[]]).write_h5ad(root / "st" / f"{name}.h5ad")
        stated = {"pixel_size_um_estimated": facts["mpp"] / scale, "st_technology": "Spatial Transcriptomics"}
        (root / "metadata" / f"{name}.json").write_text(json.dumps(stated))
        truth[name] = lab
    (root / "ids.csv").write_text(TABLE)
    return truth


@pytest.fixture(scope="module")
def stp_bench(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, anndata.AnnData]]:
    """The folder, the store that was embedded from it, and the lab files that it was made from."""
    root = tmp_path_factory.mktemp("stp")
    truth = write_stp_bench(shared_data / "her2st", root / "stp_bench")
    store = root / "cohort.zarr"
    for name, case in CASES.items():
        embed(EmbedConfig(from_=root / "stp_bench", section=name, donor=case, store=store))
    return root / "stp_bench", store, truth


def test_counts_positions_and_scale_are_those_of_the_lab(
    stp_bench: tuple[Path, Path, dict[str, anndata.AnnData]],
) -> None:
    _, path, truth = stp_bench
    store = open_store(path)
    assert store.section_names == tuple(CASES)
    for name, lab in truth.items():
        section = store.section(name)
        assert section.ids.tolist() == lab.obs_names.tolist()
        assert section.genes is not None
        assert section.genes.tolist() == lab.var_names.tolist()
        assert (section.counts() != lab.X).nnz == 0
        np.testing.assert_array_equal(section.xy_px, lab.obsm["spatial"])
        assert section.meta.donor == CASES[name]
        assert section.meta.mpp == pytest.approx(
            lab.uns["spatial"][name]["metadata"]["mpp"] * REDUCED, rel=2e-3
        )


def test_the_benchmark_has_the_folds_of_the_table(
    stp_bench: tuple[Path, Path, dict[str, anndata.AnnData]], tmp_path: Path
) -> None:
    folder, store, _ = stp_bench
    out = tmp_path / "results"
    options = {"methods": ("training mean", "tuned ridge"), "seeds": 1, "n_top_genes": 59}
    report = benchmark(BenchmarkConfig(store=store, folds=folder / "ids.csv", out_dir=out, **options))
    with (folder / "ids.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        {side: [row["sample_id"] for row in rows if row[fold] == side] for side in ("train", "test")}
        for fold in ("fold_0", "fold_1")
    ]
    folds = json.loads((out / "run.json").read_text())["folds"]
    assert [{side: fold[side] for side in ("train", "test")} for fold in folds] == expected
    scores = report.scores
    tested = scores[scores["method"] == "tuned ridge"].groupby("fold")["section"].unique()
    assert {fold: sorted(names) for fold, names in tested.items()} == {
        f"fold_{number}": fold["test"] for number, fold in enumerate(expected)
    }
    assert "--folds ids.csv" in (out / "benchmark.md").read_text()
    assert str(folder) not in (out / "benchmark.json").read_text()
