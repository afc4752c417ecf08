"""An interrupted run resumes to the same results; failures are reported; folders of different runs are not mixed."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from benchmark_lab import Failing, FirstFeature, Noisy, TrainingMean, make_store
from cohorts import add_section

from spam.errors import ConfigError, OutputExistsError, SpamError
from spam.evaluation import BenchmarkReport, Method, benchmark
from spam.evaluation.fold_plan import Fold
from spam.evaluation.runs import PlannedRun, read_result
from spam.evaluation.spam_method import SpamMethod
from spam.schemas.benchmark_config import BenchmarkConfig


def result_path(out: Path, fold: str, method: Method, seed: int = 0) -> Path:
    return PlannedRun(fold=Fold(name=fold, train=(), test=()), method=method, seed=seed).path(out)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("lab") / "c.zarr", ("a", "a", "b"))


@pytest.fixture(scope="module")
def whole(store: Path) -> BenchmarkReport:
    """An unbroken benchmark of two methods; do not change its folder."""
    return run(store, store.parent / "whole", [TrainingMean(), Noisy()])


def run(store: Path, out: Path, known: Sequence[Method], **options: object) -> BenchmarkReport:
    config = BenchmarkConfig(
        **{"store": store, "out_dir": out, "by": "section", "k": 5, "n_top_genes": 23, "seeds": 2, **options}
    )
    return benchmark(config, known=known)


def numbers(out: Path) -> dict[str, dict]:
    """The results in a folder without their wall time."""
    found = {}
    for path in sorted((out / "runs").rglob("*.json")):
        found[str(path.relative_to(out))] = values = json.loads(path.read_text(encoding="utf-8"))
        del values["seconds"]
    return found


def test_each_method_runs_on_each_fold_with_each_seed_and_the_same_run_ends_in_the_same_bytes(
    store: Path, whole: BenchmarkReport, tmp_path: Path
) -> None:
    noisy = Noisy()
    run(store, tmp_path / "a", [TrainingMean(), noisy])
    assert noisy.runs == [(fold, seed) for fold in ("S1", "S2", "S3") for seed in (0, 1)]
    assert numbers(tmp_path / "a") == numbers(whole.files[0].parent)
    assert len(numbers(tmp_path / "a")) == 3 + 3 + 6  # depth null, one seed, two seeds


@pytest.mark.parametrize("n_parts", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_shards_of_a_job_array_do_each_run_once_and_end_in_the_same_bytes(
    store: Path, whole: BenchmarkReport, tmp_path: Path, n_parts: int
) -> None:
    noisy, done = Noisy(), set()
    for part in range(1, n_parts + 1):
        report = run(store, tmp_path / "parts", [TrainingMean(), noisy], shard=f"{part}/{n_parts}")
        new = set(numbers(tmp_path / "parts")) - done
        assert len(new) in (12 // n_parts, 12 // n_parts + 1)
        done |= new
        assert report.n_waiting == 12 - len(done)
        if n_parts == 3:  # as many as folds
            assert {name.split("/")[1].split("-")[0] for name in new} == {f"S{part}"}
    assert len(noisy.runs) == 6
    assert numbers(tmp_path / "parts") == numbers(whole.files[0].parent)
    pd.testing.assert_frame_equal(report.summaries, whole.summaries)


def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(
    store: Path, whole: BenchmarkReport, tmp_path: Path
) -> None:
    killed = Noisy(killed_at=3)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "broken", [TrainingMean(), killed])
    again = Noisy()
    resumed = run(store, tmp_path / "broken", [TrainingMean(), again])
    assert killed.runs + again.runs == [(fold, seed) for fold in ("S1", "S2", "S3") for seed in (0, 1)]
    assert numbers(whole.files[0].parent) == numbers(tmp_path / "broken")
    first, second = (
        {k: v for k, v in r.to_mapping().items() if k not in ("seconds", "files")} for r in (resumed, whole)
    )
    assert first == second


def test_more_seeds_and_methods_use_what_is_there(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path, [Noisy()], methods=("noisy",))
    more = Noisy()
    report = run(store, tmp_path, [TrainingMean(), more], seeds=3)
    assert more.runs == [(fold, 2) for fold in ("S1", "S2", "S3")]
    assert dict(report.summaries.groupby("method")["n_seeds"].first()) == {
        "depth null": 1,
        "tuned ridge": 1,
        "noisy": 3,
    }


def test_overwrite_computes_the_named_methods_again(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path, [TrainingMean(), Noisy()])
    kept = numbers(tmp_path)
    again = Noisy(noise=2.0)
    run(store, tmp_path, [TrainingMean(), again], methods=("noisy",), overwrite=True)
    assert len(again.runs) == 6
    changed = {name for name, value in numbers(tmp_path).items() if value != kept[name]}
    assert changed == {name for name in kept if "/noisy-" in name}


def test_another_benchmark_is_not_mixed_in(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    run(store, out, [FirstFeature()])
    before = numbers(out)
    with pytest.raises(OutputExistsError, match=r"other k .*--out-dir.*--overwrite"):
        run(store, out, [FirstFeature()], k=7)
    with pytest.raises(OutputExistsError, match="other folds"):
        run(store, out, [FirstFeature()], by="donor")
    other = make_store(tmp_path / "other.zarr", ("a", "a"))
    add_section(other, "S3", seed=5, n_spots=45, donor="b")
    with pytest.raises(OutputExistsError, match="other data_sha256"):
        run(other, out, [FirstFeature()])
    assert numbers(out) == before
    run(store, out, [FirstFeature()], k=7, overwrite=True)
    assert numbers(out) != before


def test_a_foreign_folder_runs_is_left_alone(store: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "marathon.txt").write_text("mine", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match=r"runs.*--out-dir"):
            run(store, tmp_path, [FirstFeature()], overwrite=overwrite)
    assert (tmp_path / "runs" / "marathon.txt").read_text(encoding="utf-8") == "mine"


def test_what_fails_is_told_and_tried_again_and_the_others_go_on(store: Path, tmp_path: Path) -> None:
    report = run(store, tmp_path, [FirstFeature(), Failing(fold="S2")])
    assert not report.is_complete
    assert [(c.fold, c.method) for c in report.failures] == [("S2", "failing")]
    assert set(report.scores[report.scores["method"] == "failing"]["section"]) == {"S1", "S3"}
    assert "failing failed in S2 (seed 0): the cat sat on the matrix" in report.summary()
    page = (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    assert "- failing failed in S2 (seed 0): the cat sat on the matrix" in page
    assert "| failing (2 of 3 tests) |" in page
    assert "| first feature |" in page
    mended = run(store, tmp_path, [FirstFeature(), Failing(fold="nowhere")])
    assert mended.is_complete
    assert set(mended.scores[mended.scores["method"] == "failing"]["section"]) == {"S1", "S2", "S3"}


def test_what_does_not_apply_is_no_failure(store: Path, tmp_path: Path) -> None:
    report = run(store, tmp_path, [FirstFeature(), Failing(is_expected=True)])
    assert report.is_complete
    assert len(report.failures) == 3
    page = (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    assert "- failing does not apply to S1 (seed 0): the cat sat on the matrix" in page


def test_nothing_to_show_is_an_error(store: Path, tmp_path: Path) -> None:
    with pytest.raises(SpamError, match=r"failing: the cat sat on the matrix"):
        run(store, tmp_path / "failed", [Failing()], methods=("failing",))
    with pytest.raises(SpamError, match=r"--shard 1/4 contains none of the 3 runs"):
        run(store, tmp_path / "part", [TrainingMean()], methods=("tuned ridge",), shard="1/4")


def test_unknown_methods_are_named_with_the_nearest(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'first featur' \(--methods\).*'first feature'"):
        run(store, tmp_path, [FirstFeature()], methods=("first featur",))
    assert not (tmp_path / "run.json").exists()


def test_a_result_reads_back_with_its_undefined_scores(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path, [FirstFeature()])
    result = read_result(result_path(tmp_path, "S2", FirstFeature()))
    sets, table = result.scores.sets, result.scores.genes.loc["S2"]
    everything = sets[sets["gene_set"] == "all"].set_index("score")
    for name in ("pearson", "nll"):
        assert table[name].mean() == pytest.approx(everything.loc[name, "value"])
        assert table[name].isna().sum() == everything.loc[name, "n_undefined"]
    assert read_result(tmp_path / "nothing.json") is None


def test_similar_names_get_different_files(tmp_path: Path) -> None:
    names = ["a/b", "a b", "a-b", "../a", "", "é", "x" * 300, "x" * 301]
    paths = {result_path(tmp_path, name, FirstFeature()) for name in names}
    assert len(paths) == len(names)
    assert all(path.parents[2] == tmp_path / "runs" for path in paths)


def test_changed_counts_of_a_test_section_change_no_prediction(store: Path, tmp_path: Path) -> None:
    """The leak guard of the whole command: the digest of what was predicted stays the same."""
    options = {"train_sections": ("S1", "S2"), "test_sections": ("S3",), "by": None}
    small = {"epochs": 2, "members": 1, "fuse_dim": 16, "attend": "both", "n_references": 3}
    methods = [TrainingMean(), Noisy(), SpamMethod(name="SPAM", options=small, stage1={"epochs": 1})]
    run(store, tmp_path / "a", methods, **options)
    other = tmp_path / "other.zarr"
    shutil.copytree(store, other)
    shutil.rmtree(other / "S3")
    add_section(other, "S3", seed=2, n_spots=45, donor="b", change_counts="shuffle")
    run(other, tmp_path / "b", methods, **options)
    for method in methods:
        results = [read_result(result_path(tmp_path / x, "S1+S2 -> S3", method)) for x in "ab"]
        assert results[0].prediction_sha256 == results[1].prediction_sha256
        assert not results[0].scores.sets.equals(results[1].scores.sets)
