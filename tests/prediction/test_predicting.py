"""`spam predict`: files, scores and the report."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from cohorts import add_section, make_cohort
from http_range_server import HttpRangeServer
from PIL import Image
from plotting_tools import assert_plots, string_encodings
from pointing import forget_connections
from scipy import stats
from scipy.special import gammaln

from spam.errors import CheckpointError, ConfigError, OutputExistsError
from spam.models.checkpoint import read_checkpoint, read_checkpoint_meta, write_checkpoint
from spam.predicting import predict
from spam.prediction import Predictor
from spam.reports import plot_expression_maps
from spam.schemas.predict_config import PredictConfig
from spam.store import open_store

Configure = Callable[..., PredictConfig]


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def results(
    store: Path, checkpoint: Path, config_of: Configure, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("results")
    predict(config_of(store, checkpoint, out, formats=("csv",), plots=True))
    return out


@pytest.fixture(scope="module")
def counts(store: Path, results: Path) -> pd.DataFrame:
    section = open_store(store).section("S4")
    return pd.DataFrame(section.counts().toarray(), columns=section.genes)


def test_all_files_are_written(results: Path) -> None:
    plots = ["expression_maps.png", "pcc_histogram.png", "scatter.png"]
    tables = ["predictions.csv", "predictions.h5ad"]
    scores = ["genes.csv", "metrics.json"]
    assert files_in(results) == [*scores, *(f"plots/{name}" for name in plots), *tables, "scores.md"]
    for name in plots:
        with Image.open(results / "plots" / name) as image:
            assert image.width > 500


def test_a_remote_section_too_large_for_memory_is_predicted_on_disk_to_the_same_files(
    store: Path,
    checkpoint: Path,
    config_of: Configure,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("spam.h5ad_output._MOST_IN_MEMORY", 0)
    monkeypatch.setattr("spam.prediction.predicted_section._ROWS", 7)
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    with HttpRangeServer(store.parent) as server:
        remote = f"{server.url}/{store.name}"
        predicted = predict(config_of(remote, checkpoint, tmp_path, memory_budget=1e-9)).predicted
    forget_connections()
    for name in ("unclipped", "mu", "pi", "lower", "upper"):
        assert isinstance(getattr(predicted, name).base, np.memmap), name
    one, two = (anndata.read_h5ad(folder / "predictions.h5ad") for folder in (results, tmp_path))
    np.testing.assert_array_equal(one.X, two.X)
    assert set(one.layers) == set(two.layers) >= {"mu", "theta", "measured"}
    for name in one.layers:
        np.testing.assert_array_equal(one.layers[name], two.layers[name], err_msg=name)
    pd.testing.assert_frame_equal(one.obs, two.obs)
    pd.testing.assert_frame_equal(one.var, two.var)
    add_section(tmp_path / "part.zarr", "S4", seed=3, n_spots=43, unreadable=(5,))
    small = config_of(tmp_path / "part.zarr", checkpoint, tmp_path / "part", memory_budget=1e-9)
    predicted = predict(small).predicted
    for values in (predicted.mu, predicted.upper, predicted.baselines["tuned ridge"]):
        assert isinstance(values.base, np.memmap)
        assert np.flatnonzero(np.isnan(values).any(axis=1)).tolist() == [5]


def test_of_many_spots_a_sample_is_scored(
    store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spam.evaluation.stored_truth._MOST_SCORED", 19)
    board = predict(config_of(store, checkpoint, tmp_path)).board
    assert board is not None
    assert board.n_spots == 19
    assert "19 spots, drawn at random from 43, are scored" in board.markdown()
    assert board.to_mapping()["n_drawn_from"] == 43


def test_scores_are_those_of_scipy(results: Path, counts: pd.DataFrame) -> None:
    found = anndata.read_h5ad(results / "predictions.h5ad")
    truth = np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e4)[list(found.var_names)].to_numpy()
    table = pd.read_csv(results / "genes.csv", index_col=0).loc[list(found.var_names)]
    r = [stats.pearsonr(truth[:, g], found.X[:, g]).statistic for g in range(found.n_vars)]
    np.testing.assert_allclose(table["SPAM.pearson"], r, atol=1e-5)
    metrics = json.loads((results / "metrics.json").read_text())
    scores = {(row["method"], row["gene_set"], row["score"]): row["value"] for row in metrics["scores"]}
    assert {name for name, *_ in scores} == {
        "SPAM",
        "training mean",
        "HEST ridge",
        "tuned ridge",
        "depth null",
    }
    members = [gene for gene in table.index if "HVG-50" in table.loc[gene, "gene_sets"].split(";")]
    expected = table.loc[members, "SPAM.pearson"].mean()
    assert scores["SPAM", "HVG-50", "pearson"] == pytest.approx(expected)
    assert metrics["config"]["ckpt"] == "last.safetensors"
    assert str(results.parent) not in json.dumps(metrics)  # no folder of this machine


def test_the_held_out_likelihood_is_that_of_the_written_distribution(
    results: Path, counts: pd.DataFrame
) -> None:
    found = anndata.read_h5ad(results / "predictions.h5ad")
    x = counts[list(found.var_names)].to_numpy()
    mu = (
        found.layers["mu"].astype(float)
        * (counts.sum(axis=1).to_numpy() / found.uns["spam"]["depth"])[:, None]
    )
    theta, pi = found.layers["theta"].astype(float), found.layers["pi"].astype(float)
    log_nb = gammaln(x + theta) - gammaln(theta) - gammaln(x + 1)
    log_nb += theta * np.log(theta / (theta + mu)) + x * np.log(mu / (theta + mu))
    nll = -np.where(x == 0, np.log(pi + (1 - pi) * np.exp(log_nb)), np.log1p(-pi) + log_nb).mean(axis=0)
    table = pd.read_csv(results / "genes.csv", index_col=0).loc[list(found.var_names)]
    np.testing.assert_allclose(table["SPAM.nll"], nll, rtol=1e-4)


def test_predictions_hold_what_other_tools_plot_beside_them(results: Path, counts: pd.DataFrame) -> None:
    found = anndata.read_h5ad(results / "predictions.h5ad")
    assert_plots(found, "S4")
    assert string_encodings(results / "predictions.h5ad") == {"string", "string-array"}
    measured = np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e4)[list(found.var_names)]
    np.testing.assert_allclose(found.layers["measured"], measured.to_numpy(), rtol=1e-5)
    table = pd.read_csv(results / "genes.csv", index_col=0).loc[list(found.var_names)]
    for score in ("pearson", "nll"):
        np.testing.assert_allclose(found.var[f"section_{score}"], table[f"SPAM.{score}"], rtol=1e-6)


def test_predictions_keep_the_columns_of_the_laboratory(
    checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    """A column of a name that predictions use too keeps its values under another name; unmeasured genes are NaN."""
    lab = {
        "label": np.array(["tumour", "", "stroma é"])[np.arange(43) % 3],
        "score": np.arange(43) / 7,
        "bank_distance": np.arange(43) % 5,
        "is_mine": np.arange(43) % 2 == 0,
    }
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=43, panel=(3, 5, 11), obs=lab)
    predict(config_of(tmp_path / "x.zarr", checkpoint, tmp_path / "out"))
    found = anndata.read_h5ad(tmp_path / "out" / "predictions.h5ad")
    for name, values in {**lab, "lab_bank_distance": lab["bank_distance"]}.items():
        if name != "bank_distance":
            np.testing.assert_array_equal(found.obs[name].to_numpy(), values)
    assert not np.array_equal(found.obs["bank_distance"], lab["bank_distance"])
    is_measured = found.var_names.isin(["G3", "G5", "G11"])
    np.testing.assert_array_equal(np.isnan(found.layers["measured"]).all(axis=0), ~is_measured)
    np.testing.assert_array_equal(found.var["section_pearson"].isna(), ~is_measured)


def test_extreme_zero_inflation_has_a_finite_likelihood(
    store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    meta, tensors = read_checkpoint(checkpoint, stage="finetune")
    extreme = {}
    for name in ("network.members.0.zi_head.bias", "network.members.1.zi_head.bias"):
        extreme[name] = tensors[name].copy()
        extreme[name][:2] = 40.0, -120.0
    write_checkpoint(tmp_path / "x.safetensors", meta, tensors | extreme)
    report = predict(config_of(store, tmp_path / "x.safetensors", tmp_path / "out"))
    assert np.isfinite(report.board.genes["SPAM.nll"]).all()


def test_without_counts_there_are_no_scores_and_none_of_another_section_remain(
    store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    add_section(tmp_path / "x.zarr", "S5", seed=3, change_counts="delete")
    out = tmp_path / "out"
    predict(config_of(store, checkpoint, out, formats=("csv",), plots=True))
    report = predict(
        config_of(tmp_path / "x.zarr", checkpoint, out, section="S5", plots=True, overwrite=True)
    )
    assert report.board is None
    assert "no scores" in report.summary()
    assert files_in(out) == ["metrics.json", "plots/expression_maps.png", "predictions.h5ad"]
    assert "scores" not in json.loads((out / "metrics.json").read_text())
    assert {str(path.relative_to(out)) for path in report.files} == set(files_in(out))


def test_unmeasured_genes_are_drawn_but_not_scored(
    checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    absent, present = read_checkpoint_meta(checkpoint).genes[:2]
    measured = tuple(i for i in range(61) if f"G{i}" != absent)
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=43, panel=measured)
    config = config_of(
        tmp_path / "x.zarr", checkpoint, tmp_path / "out", plots=True, plot_genes=(absent, present)
    )
    report = predict(config)
    assert report.n_unmeasured == 1
    assert "1 of these genes were not measured" in report.summary()
    assert absent not in pd.read_csv(tmp_path / "out" / "genes.csv", index_col=0).index


def test_maps_say_how_their_genes_were_chosen(
    store: Path,
    default_checkpoint: Path,
    config_of: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    titles = []

    def draw(*values: Any, **options: Any) -> Any:
        figure = plot_expression_maps(*values, **options)
        titles.append(figure.get_suptitle().partition("\n")[2])
        return figure

    monkeypatch.setattr("spam.predicting.plot_expression_maps", draw)
    add_section(tmp_path / "bare.zarr", "S4", seed=3, n_spots=43, change_counts="delete")
    genes = read_checkpoint_meta(default_checkpoint).genes[:2]
    for where, changes in (
        (store, {}),
        (store, {"section": "S1"}),
        (store, {"plot_genes": genes}),
        (tmp_path / "bare.zarr", {}),
    ):
        predict(config_of(where, default_checkpoint, tmp_path / str(len(titles)), plots=True, **changes))
    assert titles == [
        "genes with the highest Pearson r on this section",
        "genes with the highest Pearson r on this section; the checkpoint was trained on this section",
        "genes of --plot-genes",
        "genes with the highest predicted variance",
    ]


def test_unreadable_spots_are_marked_in_the_files_and_not_scored(
    checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    unreadable = (2, 19, 42)
    kept = np.delete(np.arange(43), unreadable)
    add_section(tmp_path / "whole.zarr", "S4", seed=3, n_spots=43, unreadable=unreadable)
    add_section(tmp_path / "partial.zarr", "S4", seed=3, n_spots=43, order=kept)
    for name, n in (("whole", 3), ("partial", 0)):
        out = tmp_path / name
        report = predict(config_of(tmp_path / f"{name}.zarr", checkpoint, out, formats=("csv",), plots=True))
        assert report.n_unreadable == json.loads((out / "metrics.json").read_text())["n_unreadable"] == n
        assert ("3 spots with unreadable tiles" in report.summary()) == bool(n)
    whole, partial = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "partial")
    )
    assert whole["scores"] == partial["scores"]
    for name in ("genes.csv", "plots/pcc_histogram.png", "plots/scatter.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "partial" / name).read_bytes(), name
    found = anndata.read_h5ad(tmp_path / "whole" / "predictions.h5ad")
    added = [
        "bank_distance",
        "is_out_of_distribution",
        "tile_unreadable",
        "tile_blank",
        "tile_pen",
        "tile_blurred",
    ]
    assert list(found.obs.columns) == ["section", "donor", "library_id", *added]
    assert np.flatnonzero(found.obs["tile_unreadable"]).tolist() == list(unreadable)
    assert np.flatnonzero(np.isnan(found.X).all(axis=1)).tolist() == list(unreadable)
    table = pd.read_csv(tmp_path / "whole" / "predictions.csv", index_col=0)
    assert list(table.columns) == [*found.var_names, *added]
    assert np.flatnonzero(table[found.var_names].isna().all(axis=1)).tolist() == list(unreadable)


def test_the_report_says_how_far_to_trust_the_prediction(
    store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    add_section(tmp_path / "shifted.zarr", "S4", seed=3, n_spots=43, shift=8.0, change_counts="delete")
    for name, where in (("plain", store), ("shifted", tmp_path / "shifted.zarr")):
        report = predict(config_of(where, checkpoint, tmp_path / name))
        found = anndata.read_h5ad(tmp_path / name / "predictions.h5ad")
        n_unlike, n_predictable = found.obs["is_out_of_distribution"].sum(), found.var["is_predictable"].sum()
        values = report.to_mapping()
        assert (values["n_unlike"], values["n_predictable"]) == (n_unlike, n_predictable)
        unlike = f"{n_unlike} of 43 spots ({n_unlike / 43:.0%})"
        assert (f"WARNING: {unlike}" in report.summary()) == (name == "shifted")
        assert f"{n_predictable} of {found.n_vars} genes" in report.summary()
    trained = predict(config_of(store, checkpoint, tmp_path / "S1", section="S1"))
    assert trained.verdict.startswith("The checkpoint was trained on this section: its scores do not")
    assert trained.summary().count("trained on this section") == 1
    n_genes = trained.to_mapping()["n_genes"]
    assert (
        f"{trained.n_predictable} of {n_genes} genes were predicted better than by chance" in trained.verdict
    )
    assert json.loads((tmp_path / "S1" / "metrics.json").read_text())["is_training_section"]


def test_intervals_that_were_not_calibrated_on_new_donors_say_so(
    store: Path, train_on: Callable[..., Path], config_of: Configure, tmp_path: Path
) -> None:
    small = {"epochs": 1, "members": 1, "attend": "none", "with_bank": False}
    # S4 was held out alone, and S3 is of its donor too
    known = train_on(store, "known", ("S1", "S3", "S4"), val_sections=("S4",), **small)
    in_turn = train_on(store, "in_turn", ("S1", "S3", "S4"), **small)  # both donors in turn
    lone = make_cohort(tmp_path / "one.zarr", 1)
    block = train_on(lone, "block", ("S1",), **small)
    for name, checkpoint, n_donors in (("known", known, 0), ("block", block, 0), ("in_turn", in_turn, 2)):
        report = predict(config_of(store, checkpoint, tmp_path / name, section="S2", coverage=0.8))
        assert report.to_mapping()["is_calibrated"] is False
        assert f"training left out {n_donors} of the 3 donors" in report.summary()
        assert "80% of the counts of each left-out section" in report.summary()
        heldout = Predictor.load(checkpoint, torch.device("cpu")).heldout
        assert report.predicted.level == heldout.level_for(0.8, is_calibrated=False)
    more = tmp_path / "more.zarr"
    for i in range(4):
        add_section(more, f"S{i + 1}", seed=i, donor=f"d{i}")
    add_section(more, "far", seed=3, donor="d9", shift=8.0)
    three = train_on(more, "three", ("S1", "S2", "S3"), **small)
    heldout = Predictor.load(three, torch.device("cpu")).heldout
    for name in ("S4", "far"):
        report = predict(config_of(more, three, tmp_path / name, section=name))
        assert report.to_mapping()["is_calibrated"] == (name == "S4")
        assert ("its images are unlike those of the left-out sections" in report.summary()) == (name == "far")
        assert report.predicted.level == heldout.level_for(0.9, is_calibrated=name == "S4")
    meta, tensors = read_checkpoint(three, stage="finetune")
    narrow = {"heldout.coverage": heldout.coverage * 0.97, "heldout.lowest": heldout.lowest * 0.94}
    write_checkpoint(tmp_path / "narrow.safetensors", meta, {**tensors, **narrow})
    config = config_of(
        more, tmp_path / "narrow.safetensors", tmp_path / "beyond", section="S4", coverage=0.98
    )
    report = predict(config)
    assert report.to_mapping()["is_calibrated"] is False
    assert "not even the widest interval covered 98% of the counts" in report.summary()
    assert f"until they covered {heldout.lowest[-1] * 0.94:.0%} of the counts" in report.summary()
    own = predict(config_of(lone, block, tmp_path / "own", section="S1"))
    assert own.n_unlike is None  # there is no other section to compare with
    assert np.isfinite(own.predicted.expression).all()


def test_a_lone_training_section_is_predicted_without_references(
    train_on: Callable[..., Path], config_of: Configure, tmp_path: Path
) -> None:
    store = make_cohort(tmp_path / "one.zarr", 1)
    report = predict(
        config_of(store, train_on(store, "run", ("S1",), epochs=1), tmp_path / "out", section="S1")
    )
    assert np.isfinite(report.predicted.expression).all()


def test_a_section_measured_with_a_panel_is_reported(
    store: Path, default_checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    panel = tuple(int(gene.removeprefix("G")) for gene in read_checkpoint_meta(default_checkpoint).genes[:7])
    add_section(tmp_path / "panel.zarr", "S4", seed=3, n_spots=43, panel=panel)
    whole = open_store(store).section("S4").counts().toarray().astype(float)
    share = (whole[:, list(panel)].sum(axis=1) / whole.sum(axis=1)).mean()
    boards = [
        predict(config_of(where, default_checkpoint, tmp_path / where.name)).board
        for where in (store, tmp_path / "panel.zarr")
    ]
    assert boards[0].panel_share is None
    assert boards[1].panel_share == pytest.approx(1 / share, rel=0.2)  # of this cohort's libraries


def test_mistakes_are_refused_before_anything_is_written(
    results: Path, store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    before = (results / "predictions.h5ad").read_bytes()
    with pytest.raises(OutputExistsError, match=r"predictions\.h5ad.*--overwrite"):
        predict(config_of(store, checkpoint, results, depth=1234.0))
    assert (results / "predictions.h5ad").read_bytes() == before
    with pytest.raises(ConfigError, match=r"\(S1, S2, S3, S4\).*--section"):
        predict(config_of(store, checkpoint, tmp_path / "out", section=None))
    with pytest.raises(ConfigError, match="--plot-genes NOPE"):
        predict(config_of(store, checkpoint, tmp_path / "out", plot_genes=("NOPE",)))
    assert not (tmp_path / "out").exists()


def test_the_same_run_again_says_that_it_was_done(
    store: Path, default_checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = predict(config_of(store, default_checkpoint, out, formats=("csv",)))
    before = {name: (out / name).stat().st_mtime_ns for name in files_in(out)}
    again = predict(config_of(store, default_checkpoint, out, formats=("csv",), batch_size=7))
    assert {name: (out / name).stat().st_mtime_ns for name in files_in(out)} == before
    assert again.summary().startswith(f"already done: {out} ")
    assert first.verdict in again.summary()
    assert again.files == first.files
    assert again.to_mapping()["n_predictable"] == first.to_mapping()["n_predictable"]
    other = make_cohort(tmp_path / "cohort.zarr")  # the same spots, features and counts
    assert predict(config_of(other, default_checkpoint, out, formats=("csv",))).summary() == again.summary()
    add_section(tmp_path / "noisy.zarr", "S4", seed=3, n_spots=43, shift=0.1)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        predict(config_of(tmp_path / "noisy.zarr", default_checkpoint, out, formats=("csv",)))
    (out / "predictions.csv").unlink()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        predict(config_of(store, default_checkpoint, out, formats=("csv",)))


def test_a_doubt_about_the_places_of_the_spots_is_a_warning(
    default_checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    doubt = "on slide 'a.png', the places of the 43 spots are doubtful: check the coordinates"
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=43, placement_doubt=doubt)
    report = predict(config_of(tmp_path / "x.zarr", default_checkpoint, tmp_path / "out", report=True))
    assert f"WARNING: {doubt}, with spam check-alignment" in report.notes
    assert doubt.replace("'", "&#39;") in (tmp_path / "out" / "report.html").read_text()


STOPS = """
import sys, time
from pathlib import Path
import spam.predicting
from spam.schemas.predict_config import PredictConfig

def draw(*arguments):
    Path(sys.argv[4]).touch()
    time.sleep(600)

spam.predicting._draw = draw
store, ckpt, out = map(Path, sys.argv[1:4])
spam.predicting.predict(PredictConfig(store=store, section="S4", ckpt=ckpt, out_dir=out, device="cpu"))
"""


@pytest.mark.slow
def test_two_processes_and_a_killed_one(
    store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    """A second process is refused; what is killed does not look finished, and the same command runs again."""
    out, ready = tmp_path / "out", tmp_path / "ready"
    arguments = [sys.executable, "-P", "-c", STOPS, *map(str, (store, checkpoint, out, ready))]
    process = subprocess.Popen(arguments)
    try:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.1)
        with pytest.raises(OutputExistsError, match="--out-dir.*another process"):
            predict(config_of(store, checkpoint, out))
    finally:
        process.kill()
        process.wait()
    visible = [name for name in files_in(out) if not name.startswith((".unfinished/", ".lock"))]
    assert visible == []
    report = predict(config_of(store, checkpoint, out))
    assert sorted(str(path.relative_to(out)) for path in report.files) == files_in(out)


def test_a_failure_keeps_the_old_results(
    store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    predict(config_of(store, checkpoint, out, formats=("csv",)))
    before = {name: (out / name).read_bytes() for name in files_in(out)}

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spam.predicting.write_table", fail)
    with pytest.raises(OSError, match="No space"):
        predict(config_of(store, checkpoint, out, formats=("csv",), overwrite=True))
    assert {name: (out / name).read_bytes() for name in files_in(out)} == before
    with pytest.raises(OSError, match="No space"):
        predict(config_of(store, checkpoint, tmp_path / "new" / "out", formats=("csv",)))
    assert not (tmp_path / "new").exists()


def summary_of(config: PredictConfig) -> tuple[dict[str, object], str]:
    report = predict(config)
    return report.to_mapping(), report.summary()


@pytest.mark.parametrize("change", ["images", "counts"])
def test_a_training_section_under_another_name_is_recognised(
    default_checkpoint: Path, config_of: Configure, change: str, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(39)[:31]
    options = {"images": {"change_counts": "delete"}, "counts": {"shift": 0.4}}[change]
    add_section(tmp_path / "x.zarr", "NEW", seed=1, n_spots=39, donor="d7", order=order, **options)
    values, text = summary_of(
        config_of(tmp_path / "x.zarr", default_checkpoint, tmp_path / "o", section="NEW")
    )
    assert (values["is_training_section"], values["training_section"]) == (True, "S2")
    assert text.count("trained on this section under the name 'S2'") == 1
    assert "beats" not in text
    found = anndata.read_h5ad(tmp_path / "o" / "predictions.h5ad")
    assert json.loads(found.uns["spam"]["provenance"])["training_section"] == "S2"


def test_references_of_a_training_section_under_another_name_are_not_its_own(
    store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    add_section(tmp_path / "x.zarr", "NEW", seed=1, n_spots=39)
    own = predict(config_of(store, checkpoint, tmp_path / "a", section="S2")).predicted
    new = predict(config_of(tmp_path / "x.zarr", checkpoint, tmp_path / "b", section="NEW")).predicted
    np.testing.assert_array_equal(own.expression, new.expression)
    np.testing.assert_array_equal(own.bank_distance, new.bank_distance)


def test_verdicts_and_predictable_genes_are_withheld_where_they_would_mislead(
    store: Path, default_checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    panel = tuple(int(gene.removeprefix("G")) for gene in read_checkpoint_meta(default_checkpoint).genes[:5])
    add_section(tmp_path / "foreign.zarr", "S4", seed=3, n_spots=43, shift=8.0)
    add_section(tmp_path / "panel.zarr", "S4", seed=3, n_spots=43, panel=panel)
    cases = {
        "plain": (store, "S4", None),
        "trained": (store, "S1", "trained on this section"),
        "foreign": (tmp_path / "foreign.zarr", "S4", "43 of 43 scored spots look unlike"),
        "panel": (tmp_path / "panel.zarr", "S4", "only 5 of the 49 genes of HVG-50"),
    }
    for name, (where, section, reason) in cases.items():
        values, text = summary_of(config_of(where, default_checkpoint, tmp_path / name, section=section))
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        assert (metrics["verdict"] is None) == (reason is not None), name
        assert ("than the tuned ridge (difference" in text) == (reason is None), name
        assert reason is None or reason in text, name
        assert ("No verdict: " in text) == (name in ("foreign", "panel")), name
        found = anndata.read_h5ad(tmp_path / name / "predictions.h5ad")
        expected = (found.var["heldout_q"] <= 0.05) & (name != "foreign")
        assert (found.var["is_predictable"] == expected).all(), name
        assert values["n_predictable"] == expected.sum(), name


def test_counts_under_other_gene_names_are_not_reported_as_missing(
    default_checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    for name, rename, words in (
        ("lower", str.lower, "upper and lower case, 50 names match"),
        ("ids", lambda gene: f"ENSG{int(gene[1:]):011d}", "Ensembl ids"),
        ("none", lambda gene: f"q{gene[1:]}", "none of these names"),
    ):
        add_section(tmp_path / f"{name}.zarr", "S4", seed=3, n_spots=43, rename=rename)
        values, text = summary_of(config_of(tmp_path / f"{name}.zarr", default_checkpoint, tmp_path / name))
        assert "WARNING: the section has counts of 61 genes" in text
        assert words in text
        assert "none of these names" in values["unscored"]
        assert values["n_unmeasured"] == 50


def test_infinite_layers_are_an_error_and_nothing_is_written(
    store: Path, default_checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    meta, tensors = read_checkpoint(default_checkpoint, stage="finetune")
    broken = {**tensors, "path.offset": tensors["path.offset"] + np.float32(200)}
    write_checkpoint(tmp_path / "x.safetensors", meta, broken)
    with pytest.raises(CheckpointError, match=r"\(--depth\) are not finite"):
        predict(config_of(store, tmp_path / "x.safetensors", tmp_path / "o"))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("depth", [1.0, 1e6])
def test_layers_are_finite(
    store: Path, default_checkpoint: Path, config_of: Configure, depth: float, tmp_path: Path
) -> None:
    predict(config_of(store, default_checkpoint, tmp_path / "o", depth=depth))
    found = anndata.read_h5ad(tmp_path / "o" / "predictions.h5ad")
    assert all(np.isfinite(layer).all() for layer in (found.X, *found.layers.values()))
