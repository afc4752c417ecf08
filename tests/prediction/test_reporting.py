"""`spam report`: the page holds what the results hold, and works in a browser without a network."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from cohorts import add_section, make_cohort
from playwright.sync_api import expect
from report_pages import OpenPage, PageReader, choose_gene, click_spot, compare_spot, reading, unpacked

from spam.errors import ConfigError, MissingInputError, SectionError
from spam.predicting import predict
from spam.reporting import plot, read_prediction, report
from spam.reports import SectionView, gene_viewer, plot_expression_maps
from spam.schemas.predict_config import PredictConfig
from spam.schemas.report_config import PlotConfig, ReportConfig
from spam.store import open_store

Configure = Callable[..., PredictConfig]
EVIL = "G5</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, train_on: Callable[..., Path]) -> tuple[Path, Path]:
    """A store one of whose genes has a hostile name, and a checkpoint for it."""
    rename = {"G5": EVIL}
    store = tmp_path_factory.mktemp("evil") / "cohort.zarr"
    make_cohort(store, rename=lambda gene: rename.get(gene, gene), unreadable=(4,))
    add_section(store, "bare", seed=3, n_spots=43, change_counts="delete", shift=8.0)
    return store, train_on(store, "ckpt", attend="none", with_bank=False, n_top_genes=61)


@pytest.fixture(scope="module")
def results(
    trained: tuple[Path, Path], config_of: Configure, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("results")
    predict(config_of(*trained, out, report=True))
    return out


def test_the_page_holds_the_values_of_the_results(results: Path) -> None:
    page = PageReader((results / "report.html").read_text())
    content = json.loads(unpacked(page.texts["page"]))
    packed = page.texts["genes-packed"].split("\n")
    found = anndata.read_h5ad(results / "predictions.h5ad")
    assert content["spots"]["ids"] == list(found.obs_names)
    assert sorted(row["gene"] for row in content["genes"]) == sorted(found.var_names)
    assert content["spots"]["unlike"] == np.flatnonzero(found.obs["is_out_of_distribution"]).tolist()
    assert content["spots"]["flags"]["unreadable"] == [4]
    metrics = json.loads((results / "metrics.json").read_text())
    assert (metrics["n_spots"], metrics["n_scored"]) == (found.n_obs, found.n_obs - 1)
    np.testing.assert_allclose(content["spots"]["x"], found.obsm["spatial_um"][:, 0], atol=0.006)
    for row in content["genes"]:
        codes = np.frombuffer(unpacked(packed[row["map"]]), np.uint8).reshape(4, found.n_obs)
        gene = found[:, row["gene"]]
        for code, layer in zip(codes, ("measured", "predicted", "lower", "upper"), strict=True):
            truth = np.ravel(gene.X if layer == "predicted" else gene.layers[layer])
            low, high = row["limits"]["interval" if layer in ("lower", "upper") else "maps"]
            assert (code == 255).tolist() == np.isnan(truth).tolist()
            shown = np.where(code == 255, np.nan, low + (high - low) * code / 254.0)
            np.testing.assert_allclose(shown, truth, atol=(high - low) / 508 + 1e-6)
        assert row["heldout_r"] == pytest.approx(gene.var["heldout_pearson"].item(), nan_ok=True)
        assert row["section_r"] == pytest.approx(gene.var["section_pearson"].item(), nan_ok=True)
        assert (row["trust"] in ("good", "fair", "weak")) == gene.var["is_predictable"].item()


def test_a_name_of_a_file_is_never_markup(results: Path) -> None:
    text = (results / "report.html").read_text()
    page = PageReader(text)
    assert EVIL in {row["gene"] for row in json.loads(unpacked(page.texts["page"]))["genes"]}
    assert page.names.count("script") == 4
    assert "--no-plots" in text
    assert "--plots False" not in text
    assert "img src=x" not in text
    assert "Content-Security-Policy" in text


def test_a_gene_is_found_and_a_spot_read_in_a_browser(results: Path, open_page: OpenPage) -> None:
    found = anndata.read_h5ad(results / "predictions.h5ad")
    page, faults = open_page(results / "report.html")
    for gene in ("G7", EVIL):
        choose_gene(page, gene)
        for row in (17, 2):
            click_spot(page, row, found)
            compare_spot(page, row, found, gene)
    page.focus("#viewer")
    before = found.obsm["spatial_um"][2]
    page.keyboard.press("ArrowRight")
    chosen = page.inner_text("#spot").split()[1].rstrip(",")
    after = found[chosen].obsm["spatial_um"][0]
    assert after[0] - before[0] > abs(after[1] - before[1])
    assert np.hypot(*(after - before)) < 1.5 * 100  # spots are 100 µm apart
    click_spot(page, 4, found)
    assert "unreadable" in page.inner_text("#spot")
    assert reading(page)["predicted"] == "–"
    assert faults == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(results: Path, open_page: OpenPage, scheme: str) -> None:
    page, faults = open_page(results / "report.html", scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    click_spot(page, 3, anndata.read_h5ad(results / "predictions.h5ad"))
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert faults == []


@pytest.mark.slow
def test_a_section_without_counts_has_a_viewer_and_says_that_it_is_unlike(
    trained: tuple[Path, Path], config_of: Configure, tmp_path: Path, open_page: OpenPage
) -> None:
    predict(config_of(*trained, tmp_path, section="bare"))
    written = report(ReportConfig(results=tmp_path, out=tmp_path / "page.html"))
    assert "Do not rely on this prediction" in written.verdict
    page, faults = open_page(written.file)
    assert page.locator(".canvas").count() == 2  # H&E and predicted
    found = anndata.read_h5ad(tmp_path / "predictions.h5ad")
    click_spot(page, 7, found)
    assert "do not rely on it" in page.inner_text("#spot")
    gene = page.inner_text("#gene")
    assert float(reading(page)["predicted"]) == pytest.approx(float(found[:, gene].X[7, 0]), abs=0.03)
    assert page.locator("#scores").count() == 0
    assert faults == []


@pytest.mark.slow
def test_a_section_of_100_000_spots_opens_in_a_browser(
    trained: tuple[Path, Path], config_of: Configure, tmp_path: Path, open_page: OpenPage
) -> None:
    store = tmp_path / "large.zarr"
    add_section(store, "large", seed=5, n_spots=100_000)
    predict(config_of(store, trained[1], tmp_path / "out", section="large", report=True))
    file = tmp_path / "out" / "report.html"
    assert file.stat().st_size < 20e6
    page, faults = open_page(file)
    found = anndata.read_h5ad(tmp_path / "out" / "predictions.h5ad")
    choose_gene(page, "G7")
    # Spots are closer than pixels: one of those below the pointer is chosen.
    page.locator(".canvas").last.click()
    expect(page.locator("#spot")).to_contain_text("Spot ", timeout=30_000)
    chosen = page.inner_text("#spot").split()[1].rstrip(",")
    compare_spot(page, int(found.obs_names.get_loc(chosen)), found, "G7")
    assert faults == []


@pytest.mark.parametrize("n_first", [2, 16])
def test_what_does_not_fit_is_left_out_by_accuracy(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_first: int
) -> None:
    found = anndata.read_h5ad(results / "predictions.h5ad").var["heldout_pearson"]
    worst, best = str(found.idxmin()), list(found.sort_values(ascending=False).index)
    whole = PageReader((results / "report.html").read_text())
    packed = whole.texts["genes-packed"].split("\n")
    assert f"Maps of all {len(found)} genes." in (results / "report.html").read_text()
    sizes = {
        row["gene"]: len(packed[row["map"]]) for row in json.loads(unpacked(whole.texts["page"]))["genes"]
    }
    monkeypatch.setattr(gene_viewer, "MOST_BYTES", sum(sizes[gene] for gene in (worst, *best[:6])))
    monkeypatch.setattr(gene_viewer, "_N_FIRST", n_first)
    written = report(ReportConfig(results=results, genes=(worst,), out=tmp_path / "a.html"))
    assert written.note == f"maps of 7 of {len(found)} genes"
    page: dict[str, Any] = json.loads(unpacked(PageReader(written.file.read_text()).texts["page"]))
    kept = {row["gene"] for row in page["genes"] if row["map"] is not None}
    assert kept == {worst, *best[:6]}
    assert f"The maps of {len(found) - 7} others were left out" in written.file.read_text()


def test_words_of_trust_fit_the_correlation_that_is_shown(results: Path, tmp_path: Path) -> None:
    """0.4996 is shown as 0.50, which is good; 0.2949 as 0.29, which is weak."""
    for name in ("predictions.h5ad", "metrics.json"):
        shutil.copy(results / name, tmp_path)
    with h5py.File(tmp_path / "predictions.h5ad", "r+") as file:
        file["var/heldout_pearson"][:2], file["var/is_predictable"][:2] = (0.4996, 0.2949), True
        names = file["var/gene"].asstr()[:2]
    page = PageReader(report(ReportConfig(results=tmp_path)).file.read_text())
    rows = {row["gene"]: row for row in json.loads(unpacked(page.texts["page"]))["genes"]}
    assert [(rows[name]["trust"], rows[name]["why"].partition(" r = ")[2][:4]) for name in names] == [
        ("good", "0.50"),
        ("weak", "0.29"),
    ]


def test_wrong_folders_and_genes_are_refused(results: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"predictions\.h5ad and no metrics\.json.*spam predict"):
        report(ReportConfig(results=tmp_path))
    with pytest.raises(ConfigError, match=r"--genes g7x.*Did you mean G7"):
        report(ReportConfig(results=results, genes=("g7x",)))
    for name in ("predictions.h5ad", "metrics.json"):
        shutil.copy(results / name, tmp_path)
    (tmp_path / "metrics.json").write_text('{"section": "S4"}')
    with pytest.raises(SectionError, match="Predict again"):
        report(ReportConfig(results=tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_given_entries_are_marked_and_not_scored(
    trained: tuple[Path, Path], config_of: Configure, tmp_path: Path
) -> None:
    section = open_store(trained[0]).section("S4")
    given = np.arange(7, 30)
    part = anndata.AnnData(
        section.counts()[given].astype(np.float32),
        obs=pd.DataFrame(index=section.ids[given]),
        var=pd.DataFrame(index=section.genes),
    )
    part.write_h5ad(tmp_path / "part.h5ad")
    predict(config_of(*trained, tmp_path / "out", context_h5ad=tmp_path / "part.h5ad"))
    marked = read_prediction(tmp_path / "out").given(["G7", "G3"])
    assert marked is not None
    expected = np.isin(np.arange(43), given)
    np.testing.assert_array_equal(marked.is_given, np.stack([expected, expected], axis=1))
    np.testing.assert_array_equal(marked.is_scored, ~marked.is_given)
    assert read_prediction(tmp_path / "out").metrics["n_spots"] == 43


def test_a_benchmark_takes_no_genes_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text("{}")
    with pytest.raises(ConfigError, match="--genes shows maps of a prediction"):
        report(ReportConfig(results=tmp_path, genes=("G7",)))
    with pytest.raises(SectionError, match="Run it again"):
        report(ReportConfig(results=tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_plot_draws_a_gene_of_the_results(results: Path, tmp_path: Path) -> None:
    written = plot(PlotConfig(results=results, gene=("G7", "G7"), out=tmp_path / "g7.png"))  # drawn once
    found = anndata.read_h5ad(results / "predictions.h5ad")[:, ["G7"]]
    overview = found.uns["spatial"]["S4"]
    view = SectionView(
        name="S4",
        xy_px=found.obsm["spatial"],
        mpp=0.5,
        overview=overview["images"]["hires"],
        overview_scale=overview["scalefactors"]["tissue_hires_scalef"],
        is_unlike=found.obs["is_out_of_distribution"].to_numpy(),
    )
    plot_expression_maps(view, ["G7"], found.X, found.layers["measured"], path=tmp_path / "truth.png")
    assert written.file.read_bytes() == (tmp_path / "truth.png").read_bytes()
    assert plot(PlotConfig(results=results, gene=(EVIL,))).file.parent == results / "plots" / "genes"
    assert plot(PlotConfig(results=results, gene=("G7",))).file.name == "G7.png"
    with pytest.raises(ConfigError, match=r"--gene g77: .*Did you mean G"):
        plot(PlotConfig(results=results, gene=("G7", "g77")))
