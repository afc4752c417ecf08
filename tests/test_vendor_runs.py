"""From the folder of an instrument to predictions, on real sections, with the commands of `docs/vendor-folders.md` alone."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from report_pages import check_report

from spam.cli import main
from tests.sections.test_vendor_commands import write_outs

pytestmark = pytest.mark.slow
Run = Callable[[str], None]
PAGE = Path(__file__).parents[1] / "docs" / "vendor-folders.md"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty folder, as a shell does."""
    monkeypatch.chdir(tmp_path)

    def call(line: str) -> None:
        monkeypatch.setattr(sys, "argv", line.split())
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0, line

    return call


def commands(first: str, n: int) -> list[str]:
    """Return `n` commands of the page from that which starts so."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("spam ")]
    (start,) = [i for i, line in enumerate(lines) if line.startswith(first)]
    return lines[start : start + n]


def correlations(predicted: anndata.AnnData, truth: anndata.AnnData, n_genes: int) -> np.ndarray:
    """Correlate predicted and measured log expression over spots, for the genes that vary most in the measured one.

    Checks first that the predictions have the spots, places and measured expression of `truth`.
    """
    truth = truth[predicted.obs_names]
    counts = pd.DataFrame(truth.X.toarray(), index=truth.obs_names, columns=truth.var_names)
    measured = np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e4)[list(predicted.var_names)]
    np.testing.assert_allclose(predicted.layers["measured"], measured, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(predicted.obsm["spatial"], truth.obsm["spatial"], atol=0.51)  # rounded pixels
    genes = measured.var().nlargest(n_genes).index
    found = predicted.to_df()[genes]
    return np.array([np.corrcoef(found[gene], measured[gene])[0, 1] for gene in genes])


def test_her2st_from_the_repository(
    run: Run, shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = tmp_path / "her2st" / "data"
    shutil.copytree(shared_data / "her2st" / "raw" / "data", data, copy_function=shutil.copyfile)
    for name, image in {"C2": "C2", "C3": "D1", "C4": "D2", "C5": "E1", "C6": "E2"}.items():
        place = data / "ST-imgs" / "C" / name
        place.mkdir(parents=True)
        (place / f"5714_HE_BT_{image}.jpg").symlink_to(shared_data / "her2st" / "images" / f"{name}.jpg")
    for line in commands("spam import her2st --section C2", 8):
        run(line)
    truth = anndata.read_h5ad(shared_data / "her2st" / "C6.h5ad")
    predicted = anndata.read_h5ad("results/predictions.h5ad")
    assert predicted.n_obs == truth.n_obs
    assert correlations(predicted, truth, 50).mean() > 0.35  # .435 when this was written; a constant has none
    run("spam report results")
    # Last, because it skips where there is no browser.
    check_report(request.getfixturevalue("open_page"), Path("results"))


SOURCES = {
    "lung": ("xenium_lung_ncbi858", "NCBI858"),
    "brain": ("visium_mouse_brain_crop", "visium_mouse_brain_crop"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_one_folder(run: Run, shared_data: Path, tmp_path: Path, name: str) -> None:
    folder, file = SOURCES[name]
    source, image = shared_data / folder, tmp_path / f"{name}_he.tif"
    truth = anndata.read_h5ad(source / f"{file}.h5ad")
    if name == "lung":
        shutil.copytree(source / "outs_rewritten", tmp_path / name / "outs")
        image.symlink_to(tmp_path / name / "outs" / "he_image.ome.tif")
    else:
        write_outs(truth, tmp_path / name / "outs")
        image.symlink_to(next((source / "images").iterdir()))
    for line in commands(
        "spam embed --from lung/outs --image lung_he.tif --section lung --store lung.zarr", 3
    ):
        run(line.replace("lung", name) + (" --epochs 10" if "finetune" in line else ""))
    predicted = anndata.read_h5ad(f"{name}_results/predictions.h5ad")
    assert predicted.n_obs == truth.n_obs
    assert correlations(predicted, truth, 20).mean() > 0.2


def test_colon_from_one_half_to_the_other(
    run: Run, shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A part of the left half of a real section predicts a part of the right half."""
    source = shared_data / "colon_visium"
    truth = anndata.read_h5ad(source / "colon_d0.h5ad")
    x, y = truth.obsm["spatial"].T
    middle, is_low = np.median(x), y < np.quantile(y, 0.15)
    for name, is_there in (("left", x < middle), ("right", x >= middle)):
        write_outs(truth[is_there & is_low].copy(), tmp_path / name / "outs")
        (tmp_path / f"{name}_he.tif").symlink_to(source / "images" / "colon_d0.jpg")
    embed, finetune, predict = commands(
        "spam embed --from lung/outs --image lung_he.tif --section lung --store lung.zarr", 3
    )
    for name in ("left", "right"):
        run(embed.replace("lung.zarr", "colon.zarr").replace("lung", name))
    run(finetune.replace("lung", "colon") + " --sections left --epochs 10")
    run(predict.replace("lung", "colon").replace("--section colon", "--section right"))
    predicted = anndata.read_h5ad("colon_results/predictions.h5ad")
    assert predicted.n_obs == ((x >= middle) & is_low).sum()
    assert correlations(predicted, truth, 50).mean() > 0.2
    run("spam report colon_results")
    # Last, because it skips where there is no browser.
    check_report(request.getfixturevalue("open_page"), Path("colon_results"))


def test_a_bulb_from_another_mouse(
    run: Run, shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = shared_data / "mob_st2k"
    for name in ("MOB1", "MOB3"):
        run(
            f"spam embed --h5ad {source}/{name}.h5ad --csv {source}/mapping.csv --root {source}/images --section {name} "
            "--tile-um 448 --store mob.zarr"
        )
    run("spam finetune --store mob.zarr --sections MOB1 --epochs 10 --save-dir ckpt")
    run(
        "spam predict --store mob.zarr --section MOB3 --ckpt ckpt/best.safetensors --out-dir results --report"
    )
    predicted = anndata.read_h5ad("results/predictions.h5ad")
    assert correlations(predicted, anndata.read_h5ad(source / "MOB3.h5ad"), 50).mean() > 0.3
    # Last, because it skips where there is no browser.
    check_report(request.getfixturevalue("open_page"), Path("results"))
