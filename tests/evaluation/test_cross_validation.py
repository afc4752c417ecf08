"""The whole benchmark on a simulated cohort: files, page, blocks of a lone section, and the command."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmark_lab import FirstFeature, Noisy, TrainingMean, make_store
from cohorts import add_section
from scipy import stats

from spam.cli.commands import BENCHMARK
from spam.errors import ConfigError
from spam.evaluation import ALL_METHODS, BenchmarkReport, benchmark
from spam.evaluation.runs import read_result
from spam.evaluation.spam_method import choose_methods
from spam.reporting import report as write_report
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.report_config import ReportConfig
from spam.store import open_store

FILES = ["benchmark.md", "benchmark.json", "genes.csv", "scores.png"]


def options(store: Path, out: Path, **changes: object) -> BenchmarkConfig:
    return BenchmarkConfig(
        **{"store": store, "out_dir": out, "k": 5, "n_top_genes": 23, "seeds": 2, **changes}
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("lab") / "c.zarr", ("a", "a", "b"))


@pytest.fixture(scope="module")
def report(store: Path) -> BenchmarkReport:
    return benchmark(options(store, store.parent / "r"), known=[FirstFeature(), TrainingMean(), Noisy()])


@pytest.fixture(scope="module")
def written(report: BenchmarkReport) -> Path:
    return report.files[0].parent


def test_the_same_benchmark_again_says_that_it_was_done(report: BenchmarkReport, store: Path) -> None:
    before = {path: path.read_bytes() for path in report.files if path.suffix != ".html"}
    methods = [FirstFeature(), TrainingMean(), Noisy()]
    again = benchmark(options(store, store.parent / "r"), known=methods)
    first, _, rest = again.summary().partition("\n")
    assert first == f"already done: {store.parent / 'r'} has the scores of all these runs; nothing was run"
    assert rest == report.summary()
    assert {path: path.read_bytes() for path in before} == before


def test_everything_is_written(report: BenchmarkReport, written: Path) -> None:
    assert [path.name for path in report.files] == FILES
    assert {path.name for path in written.iterdir()} == {*FILES, "run.json", "runs"}
    assert (written / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_is_one_file_with_the_verdict_and_every_mean(
    report: BenchmarkReport, written: Path, tmp_path: Path
) -> None:
    text = html.unescape(
        write_report(ReportConfig(results=written, out=tmp_path / "b.html")).file.read_text()
    )
    assert f"{report.verdicts[0]}." in text
    assert "data:image/png;base64," in text
    assert "<script" not in text
    for gene_set, own in report.summaries.groupby("gene_set"):
        assert gene_set in text
        assert all(f"{value:.3f}".replace("-0.000", "0.000") in text for value in own["mean"].dropna())


def test_the_page_shows_verdicts_and_scores(report: BenchmarkReport, written: Path) -> None:
    page = (written / "benchmark.md").read_text(encoding="utf-8")
    (verdict,) = report.verdicts
    assert f"- {verdict}." in page
    assert "noisy" in verdict
    assert "tuned ridge on HVG-50 pearson" in verdict
    assert "Intervals: 95 % bootstrap over donors" in page
    assert "Tested: a (trained on S3); b (trained on S1, S2)." in page
    top = report.find("noisy", "HVG-50", "pearson")
    assert re.search(rf"\| \*\*noisy\*\* \| {top['mean']:.3f} \|", page)
    for name in ("HVG-50", "HVG-250", "HEG-50", "SVG-50", "all"):
        assert f"## Honest board, {name}" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(len(set(table)) == 1 for table in _column_counts(page))
    assert len(rows) > 30
    command = re.search(r"```bash\n(.*)\n```", page).group(1)
    assert command == "spam benchmark --store c.zarr --k 5 --seeds 2 --n-top-genes 23 --out-dir results"


def _column_counts(page: str) -> list[list[int]]:
    """Columns of each row of each table of a page."""
    tables = re.findall(r"(?:^\|.*\|$\n)+", page, flags=re.MULTILINE)
    return [[len(line.split("|")) for line in table.splitlines()] for table in tables]


def test_the_numbers_say_where_they_come_from_without_a_folder_of_this_machine(
    report: BenchmarkReport, written: Path
) -> None:
    text = (written / "benchmark.json").read_text(encoding="utf-8")
    assert str(written) not in text
    values = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert values["config"]["store"] == "c.zarr"
    assert values["data_sha256"] == report.data_sha256
    assert {"spam-st", "torch", "numpy", "python"} <= set(values["software"])
    assert values["unit"] == "donors"
    assert len(values["scores"]) == len(report.scores)
    assert values["features"]["keys"] == ["tiny_112um", "tiny_224um"]
    assert set(values["seconds"]) == {"depth null", "first feature", "tuned ridge", "noisy"}
    assert str(written) not in (written / "run.json").read_text(encoding="utf-8")


def test_genes_are_averaged_over_test_sections(store: Path, written: Path) -> None:
    table = pd.read_csv(written / "genes.csv", index_col="gene")
    opened = open_store(store)
    scores: dict[str, list[float]] = {}
    genes = {"S1": "a", "S2": "a", "S3": "b"}
    chosen = {fold: set() for fold in "ab"}
    for name, fold in genes.items():
        section = opened.section(name)
        counts = section.counts().toarray()
        expression = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
        feature = section.features("tiny_112um")[:, 0]
        path = next((written / "runs").glob(f"{fold}-*/first-feature-*/seed-0.json"))
        chosen[fold] = set(read_result(path).scores.genes.loc[name].index)
        for gene, values in zip(section.genes, expression.T, strict=True):
            if gene in chosen[fold]:
                scores.setdefault(gene, []).append(stats.pearsonr(values, feature).statistic)
    expected = {gene: np.mean(values) for gene, values in scores.items()}
    assert set(table.index) == set(expected)
    np.testing.assert_allclose(
        table["first feature"], [expected[gene] for gene in table.index], rtol=1e-3, atol=1e-5
    )


def test_a_lone_section_is_tested_block_by_block(tmp_path: Path) -> None:
    lone = tmp_path / "c.zarr"
    add_section(lone, "S1", n_spots=211, n_genes=41)
    report = benchmark(
        options(lone, tmp_path / "r", tile_um=(112.0,)), known=[TrainingMean(), FirstFeature()]
    )
    assert report.unit == "blocks"
    assert [fold.name for fold in report.folds] == [f"S1 block {i}" for i in range(1, 6)]
    assert report.find("tuned ridge", "HVG-50", "pearson")["n_units"] == 5
    page = (tmp_path / "r" / "benchmark.md").read_text(encoding="utf-8")
    assert "no evidence for other sections or donors" in page
    assert "158 µm" in page


def test_every_option_changes_something(store: Path, report: BenchmarkReport, tmp_path: Path) -> None:
    def run(name: str, **changes: object) -> BenchmarkReport:
        return benchmark(options(store, tmp_path / name, **changes), known=[FirstFeature(), TrainingMean()])

    def hvg(report: BenchmarkReport) -> float:
        return report.find("first feature", "all", "pearson")["mean"]

    assert len(run("sections", sections=("S1", "S3")).folds) == 2
    assert [f.name for f in run("by", by="section").folds] == ["S1", "S2", "S3"]
    assert hvg(run("genes", n_top_genes=11)) != hvg(report)
    assert hvg(run("tiles", tile_um=(224.0,))) != hvg(report)
    patterns = [
        benchmark(options(store, tmp_path / f"k{k}", k=k), known=[Noisy()]).find(
            "noisy", "all", "moran_correlation"
        )
        for k in (3, 5)
    ]
    few, more = (found["mean"] for found in patterns)
    assert np.isfinite([few, more]).all()
    assert few != more
    transfer = run("transfer", train_sections=("S3",), test_sections=("S1", "S2"))
    assert transfer.unit == "sections"
    assert set(run("methods", methods=("depth null", "tuned ridge")).summaries["method"]) == {
        "depth null",
        "tuned ridge",
    }


def test_names_of_the_methods_can_be_given_on_the_command_line() -> None:
    names = [method.name for method in ALL_METHODS]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "," in name]  # a comma separates them
    assert choose_methods(("all",)) == (None, *ALL_METHODS)
    assert choose_methods((names[3], names[1])) == (ALL_METHODS[1], ALL_METHODS[3])
    assert "tuned ridge" in names


def test_the_command_leaves_with_1_where_a_method_failed(report: BenchmarkReport) -> None:
    class Incomplete:
        is_complete = False

    assert (BENCHMARK.exit_code(report), BENCHMARK.exit_code(Incomplete())) == (0, 1)


def test_the_method_in_the_documents_runs(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cohort.zarr").symlink_to(store)
    names: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", page, flags=re.DOTALL).group(1), names)
    report = names["report"]
    assert report.find("nearest", "HVG-50", "pearson")["mean"] > 0.2
    assert len(report.verdicts) == 1


def test_a_donor_on_both_sides_gives_no_interval_over_donors(store: Path, tmp_path: Path) -> None:
    methods = [FirstFeature(), TrainingMean(), Noisy()]
    found = benchmark(options(store, tmp_path / "r", by="section", seeds=1), known=methods)
    assert found.unit == "sections"  # S1 and S2 share donor a, and are tested in turn
    (verdict,) = found.verdicts
    assert "over 3 sections" in verdict
    assert "no evidence for other donors" in verdict


def test_the_same_tissue_under_two_names_and_donors_is_refused(tmp_path: Path) -> None:
    copy = make_store(tmp_path / "c.zarr", ("a", "a", "b"))
    add_section(copy, "S9", seed=1, n_spots=41, donor="z", order=np.arange(41)[::-1])
    with pytest.raises(ConfigError, match=r"'S2' and 'S9' are the same tissue \(100%.*--sections"):
        benchmark(options(copy, tmp_path / "r"), known=[FirstFeature()])
    assert not (tmp_path / "r").exists()
    benchmark(options(copy, tmp_path / "r", sections=("S1", "S9", "S3"), seeds=1), known=[FirstFeature()])


def test_genes_that_sections_do_not_share_and_buffers_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    few = make_store(tmp_path / "c.zarr", ("a", "b"))
    add_section(few, "S9", seed=8, donor="c", panel=tuple(range(25)))
    benchmark(options(few, tmp_path / "r", seeds=1), known=[FirstFeature()])
    assert "25 gene names are in all 3 sections" in caplog.text
    caplog.clear()
    add_section(tmp_path / "one.zarr", "S1", n_spots=151)
    benchmark(
        options(tmp_path / "one.zarr", tmp_path / "b", seeds=1, tile_um=(112.0,)), known=[FirstFeature()]
    )
    buffers = [record.levelname for record in caplog.records if "on neither side" in record.getMessage()]
    assert buffers == ["INFO"] * 5


def test_few_measured_genes_give_no_verdict(tmp_path: Path) -> None:
    store = make_store(tmp_path / "c.zarr", ("a", "b"))
    add_section(store, "S9", seed=8, donor="c", panel=tuple(range(15)))
    sides = {"train_sections": ("S1", "S2"), "test_sections": ("S9",), "n_top_genes": 50, "seeds": 1}
    found = benchmark(
        options(store, tmp_path / "r", **sides), known=[FirstFeature(), TrainingMean(), Noisy()]
    )
    row = found.headline(found.scores).iloc[0]
    assert 0 < row["n_genes"] < row["n_missing"]
    total = row["n_genes"] + row["n_missing"]
    assert found.verdicts == [f"No verdict: of the genes of HVG-50, S9 has {row['n_genes']} of {total}"]
    assert "beats" not in (tmp_path / "r" / "benchmark.md").read_text(encoding="utf-8")
