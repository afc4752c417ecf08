"""A run that is stopped goes on and ends as an unbroken one; what fails is told; folders are not mixed."""

import json
import mmap
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from benchmark_lab import Failing, FirstFeature, Noisy, TrainingMean, make_store
from cohorts import add_section

from spam.benchmarking import benchmark
from spam.benchmarking.cells import cell_path, read_cell, read_gene_tables
from spam.benchmarking.cost import measured
from spam.errors import ConfigError, OutputExistsError, SpamError
from spam.evaluation import BenchmarkReport, Method
from spam.evaluation.spam_method import SpamMethod
from spam.schemas.benchmark_config import BenchmarkConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("lab") / "c.zarr", ("a", "a", "b"))


def run(store: Path, out: Path, known: Sequence[Method], **options: object) -> BenchmarkReport:
    config = BenchmarkConfig(
        **{"store": store, "out_dir": out, "by": "section", "k": 5, "n_top_genes": 23, "seeds": 2, **options}
    )
    return benchmark(config, known=known)


def numbers(out: Path) -> dict[str, object]:
    """What the cells of a folder hold, but for their cost and how they ran; arrays by their bytes."""
    found: dict[str, object] = {}
    for path in sorted((out / "cells").rglob("*")):
        if path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            del values["seconds"], values["peak_mb"], values["jobs"], values["threads"]
            found[str(path.relative_to(out))] = values
        elif path.is_file():
            found[str(path.relative_to(out))] = path.read_bytes()
    return found


def ran(out: Path) -> dict[str, tuple[int, int]]:
    """How many cells ran beside each cell, itself among them, and its threads."""
    cells = {str(path.relative_to(out)): json.loads(path.read_text()) for path in out.rglob("seed-*.json")}
    return {name: (cell["jobs"], cell["threads"]) for name, cell in cells.items() if not cell["failure"]}


def test_each_method_runs_on_each_fold_with_each_seed_and_the_same_run_ends_in_the_same_bytes(
    store: Path, tmp_path: Path
) -> None:
    noisy = Noisy()
    run(store, tmp_path / "a", [TrainingMean(), noisy])
    assert noisy.runs == [(fold, seed) for fold in ("S1", "S2", "S3") for seed in (0, 1)]
    run(store, tmp_path / "b", [TrainingMean(), Noisy()])
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert len(numbers(tmp_path / "a")) == 2 * (3 + 3 + 6)  # depth null, one seed, two seeds


@pytest.mark.slow
def test_side_by_side_a_bug_ends_the_run_and_what_was_finished_is_as_if_run_alone(
    store: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyError, match="cat"):
        run(store, tmp_path / "broken", [TrainingMean(), Failing(fold="S2", is_bug=True)], jobs=2)
    known = [TrainingMean(), Failing(fold="S2")]
    report = run(store, tmp_path / "whole", known)
    finished, whole = numbers(tmp_path / "broken"), numbers(tmp_path / "whole")
    assert 3 <= len(finished) < len(whole)  # at least a cell and its table beyond the depth null
    assert finished == {name: whole[name] for name in finished}
    threads = max(1, torch.get_num_threads() // 2)
    assert ran(tmp_path / "broken") == dict.fromkeys(ran(tmp_path / "broken"), (2, threads))
    assert set(ran(tmp_path / "whole").values()) == {(1, torch.get_num_threads())}
    again = run(store, tmp_path / "broken", known)
    assert numbers(tmp_path / "broken") == whole
    assert [(c.fold, c.method) for c in again.failures] == [(c.fold, c.method) for c in report.failures]


def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(store: Path, tmp_path: Path) -> None:
    whole = run(store, tmp_path / "whole", [TrainingMean(), Noisy()])
    killed = Noisy(killed_at=3)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "broken", [TrainingMean(), killed])
    again = Noisy()
    resumed = run(store, tmp_path / "broken", [TrainingMean(), again])
    assert killed.runs + again.runs == [(fold, seed) for fold in ("S1", "S2", "S3") for seed in (0, 1)]
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "broken")
    told = [
        {k: v for k, v in r.to_mapping().items() if k not in ("costs", "files")} for r in (resumed, whole)
    ]
    assert told[0] == told[1]


def test_a_cell_that_is_not_whole_is_computed_again(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path, [FirstFeature()])
    before = numbers(tmp_path)
    paths = [cell_path(tmp_path, fold, "first feature", 0) for fold in ("S1", "S2", "S3")]
    paths[0].with_suffix(".npz").write_bytes(paths[0].with_suffix(".npz").read_bytes()[:-7])
    paths[1].with_suffix(".npz").unlink()
    paths[2].write_text(paths[2].read_text(encoding="utf-8")[:-3], encoding="utf-8")
    assert [read_cell(path) for path in paths] == [None] * 3
    run(store, tmp_path, [FirstFeature()])
    assert numbers(tmp_path) == before


def test_more_seeds_and_methods_use_what_is_there(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path, [Noisy()], methods=("noisy",))
    more = Noisy()
    report = run(store, tmp_path, [TrainingMean(), more], seeds=3)
    assert more.runs == [(fold, 2) for fold in ("S1", "S2", "S3")]
    assert {s.method: s.n_seeds for s in report.summaries} == {"depth null": 1, "tuned ridge": 1, "noisy": 3}


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
    with pytest.raises(OutputExistsError, match=r"other options: --k 5 \(now 7\).*--out-dir.*--overwrite"):
        run(store, out, [FirstFeature()], k=7)
    with pytest.raises(OutputExistsError, match="other folds: S1, S2, S3"):
        run(store, out, [FirstFeature()], by="donor")
    other = make_store(tmp_path / "other.zarr", ("a", "a"))
    add_section(other, "S3", seed=5, n_spots=45, donor="b")
    with pytest.raises(OutputExistsError, match="other data in the store"):
        run(other, out, [FirstFeature()])
    assert numbers(out) == before
    run(store, out, [FirstFeature()], k=7, overwrite=True)
    assert numbers(out) != before


def test_a_folder_called_cells_of_somebody_else_is_left_alone(store: Path, tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "biology.txt").write_text("mine", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match=r"no run\.json.*another --out-dir"):
            run(store, tmp_path, [FirstFeature()], overwrite=overwrite)
    assert (tmp_path / "cells" / "biology.txt").read_text(encoding="utf-8") == "mine"


def test_what_fails_is_told_and_tried_again_and_the_others_go_on(store: Path, tmp_path: Path) -> None:
    report = run(store, tmp_path, [FirstFeature(), Failing(fold="S2")])
    assert not report.is_complete
    assert [(c.fold, c.method) for c in report.failures] == [("S2", "failing")]
    assert set(report.scores[report.scores["method"] == "failing"]["section"]) == {"S1", "S3"}
    assert "failing gave no scores in S2 (seed 0): the cat sat on the matrix" in report.summary()
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
    assert "- failing does not apply in S1 (seed 0): the cat sat on the matrix" in page


def test_nothing_to_show_is_an_error(store: Path, tmp_path: Path) -> None:
    with pytest.raises(SpamError, match=r"no method gave scores.*failing: the cat sat on the matrix"):
        run(store, tmp_path, [Failing()], methods=("failing",))


def test_unknown_methods_are_named_with_the_nearest(store: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'first featur' \(did you mean 'first feature'\?\).*all, or.*depth null"
    ):
        run(store, tmp_path, [FirstFeature()], methods=("first featur",))
    assert not (tmp_path / "run.json").exists()


def test_genes_of_a_cell_read_back(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path, [FirstFeature()])
    path = cell_path(tmp_path, "S2", "first feature", 0)
    cell, (name, table) = read_cell(path), *read_gene_tables(path).items()
    assert name == "S2"
    (scores,) = cell.sections.values()
    (everything,) = (score for score in scores if score.gene_set == "all")
    assert table["pearson"].mean() == pytest.approx(everything.means["pearson"])
    assert table["nll"].mean() == pytest.approx(everything.means["nll"])


def test_a_cell_of_an_earlier_version_is_kept_and_its_circumstances_are_not_known(
    store: Path, tmp_path: Path
) -> None:
    run(store, tmp_path, [FirstFeature()])
    path = cell_path(tmp_path, "S2", "first feature", 0)
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["jobs"], values["threads"]
    path.write_text(json.dumps(values), encoding="utf-8")
    report = run(store, tmp_path, [FirstFeature()])
    assert "jobs" not in json.loads(path.read_text(encoding="utf-8"))  # it was not computed again
    (cost,) = [cost for cost in report.to_mapping()["costs"] if cost["method"] == "first feature"]
    now = {"jobs": 1, "threads": torch.get_num_threads()}
    assert cost["fits"] == [
        {"circumstances": now, "n": 2},
        {"circumstances": {"jobs": None, "threads": None}, "n": 1},
    ]
    assert "**Fits did not run alike" in (tmp_path / "benchmark.md").read_text(encoding="utf-8")


def test_a_single_fit_that_is_left_has_the_machine_for_itself(store: Path, tmp_path: Path) -> None:
    run(store, tmp_path, [FirstFeature()])
    path = cell_path(tmp_path, "S2", "first feature", 0)
    path.unlink()
    run(store, tmp_path, [FirstFeature()], jobs=3)
    cell = json.loads(path.read_text(encoding="utf-8"))
    assert (cell["jobs"], cell["threads"]) == (1, torch.get_num_threads())


def test_names_that_look_alike_get_files_of_their_own(tmp_path: Path) -> None:
    names = ["a/b", "a b", "a-b", "../a", "", "é", "x" * 300, "x" * 301]
    paths = {cell_path(tmp_path, name, "m", 0) for name in names}
    assert len(paths) == len(names)
    assert all(path.parent.parent.parent == tmp_path / "cells" for path in paths)


def test_cost_sees_seconds_and_memory() -> None:
    with measured() as small:
        pass
    # Pages from the kernel: an array might be laid into memory that another test has freed and the process still holds.
    with measured() as large, mmap.mmap(-1, 60 << 20) as pages:
        for _ in range(60):
            pages.write(bytes(1 << 20))
    assert 0 <= small.seconds < large.seconds
    if small.peak_mb is not None:  # Linux
        assert large.peak_mb > small.peak_mb + 40
        with measured() as after:
            pass
        assert after.peak_mb < large.peak_mb - 40  # the peak of one method is not the next one's


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
    for method in ("tuned ridge", "noisy", "SPAM"):
        cells = [read_cell(cell_path(tmp_path / x, "S1+S2 -> S3", method, 0)) for x in "ab"]
        assert cells[0].prediction_sha256 == cells[1].prediction_sha256
        assert cells[0].sections != cells[1].sections
