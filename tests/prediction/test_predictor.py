import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from cohorts import add_section, make_cohort
from safetensors.numpy import load_file
from scipy import stats

from spam.errors import CheckpointError
from spam.models.checkpoint import read_checkpoint
from spam.models.rate_path import PER
from spam.prediction import PredictedSection, Predictor, write_predictions, write_table
from spam.schemas.training_config import FinetuneConfig
from spam.store import open_store
from spam.training import finetune

ARRAYS = ("expression", "mu", "theta", "pi", "lower", "upper")


def predict(checkpoint: Path, store: Path, name: str, **options: object) -> PredictedSection:
    predictor = Predictor.load(checkpoint, torch.device("cpu"))
    return predictor.predict(open_store(store).section(name), **options)  # type: ignore[arg-type]


def assert_identical(a: PredictedSection, b: PredictedSection) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name, values in a.baselines.items():
        np.testing.assert_array_equal(values, b.baselines[name], err_msg=name)


@pytest.mark.parametrize("change", ["zero", "shuffle", "delete"])
def test_the_counts_of_the_target_do_not_reach_its_prediction(
    checkpoint: Path, store: Path, tmp_path: Path, change: str
) -> None:
    add_section(tmp_path / "changed.zarr", "S4", seed=3, n_spots=43, change_counts=change)
    assert_identical(predict(checkpoint, store, "S4"), predict(checkpoint, tmp_path / "changed.zarr", "S4"))


def test_permuting_the_spots_permutes_the_prediction(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(43)
    add_section(tmp_path / "permuted.zarr", "S4", seed=3, n_spots=43, order=order)
    plain, permuted = predict(checkpoint, store, "S4"), predict(checkpoint, tmp_path / "permuted.zarr", "S4")
    np.testing.assert_array_equal(permuted.ids, plain.ids[order])
    # Sums over neighbours and over the section run in another order.
    np.testing.assert_allclose(permuted.expression, plain.expression[order], rtol=2e-4, atol=2e-4)


def test_a_section_beside_it_in_the_store_changes_nothing(
    checkpoint: Path, store: Path, tmp_path: Path
) -> None:
    add_section(tmp_path / "two.zarr", "S4", seed=3, n_spots=43)
    add_section(tmp_path / "two.zarr", "unrelated", seed=8)
    assert_identical(predict(checkpoint, store, "S4"), predict(checkpoint, tmp_path / "two.zarr", "S4"))


def test_a_section_that_was_not_trained_on_changes_nothing_in_the_model(
    checkpoint: Path, store: Path, train_on: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    more = make_cohort(tmp_path / "cohort.zarr")
    add_section(more, "S0", seed=8, donor="d7", signal=-2.0)
    again = train_on(more, "zinb")
    assert_identical(predict(checkpoint, store, "S4"), predict(again, store, "S4"))


def test_predicting_twice_gives_the_same_bits_and_any_batch_size_the_same_numbers(
    checkpoint: Path, store: Path
) -> None:
    first = predict(checkpoint, store, "S4")
    assert_identical(first, predict(checkpoint, store, "S4"))
    small = predict(checkpoint, store, "S4", batch_size=7)
    np.testing.assert_allclose(small.expression, first.expression, rtol=1e-4, atol=1e-5)


def test_training_section_does_not_look_itself_up(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    """The bank holds its spots; were they used, its own expression would come back as a reference."""
    predictor = Predictor.load(checkpoint, torch.device("cpu"))
    before = predictor.predict(open_store(store).section("S2"))
    assert before.provenance["is_training_section"]
    own = predictor.tensors["bank.section"] == 1
    predictor.tensors["bank.expression"] = np.where(own[:, None], 99.0, predictor.tensors["bank.expression"])
    predictor.tensors["bank.expression"] = predictor.tensors["bank.expression"].astype(np.float32)
    np.testing.assert_array_equal(
        before.expression, predictor.predict(open_store(store).section("S2")).expression
    )
    other = predictor.predict(open_store(store).section("S4"))
    assert not np.array_equal(other.expression, predict(checkpoint, store, "S4").expression)


def test_structure_is_found_where_there_is_some(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    rate = add_section(tmp_path / "again.zarr", "S4", seed=3, n_spots=43)
    found = predict(checkpoint, store, "S4")
    truth = pd.DataFrame(np.log1p(rate), columns=[f"G{i}" for i in range(rate.shape[1])])[
        list(found.genes)
    ].to_numpy()
    r = [stats.pearsonr(truth[:, g], found.expression[:, g]).statistic for g in range(truth.shape[1])]
    assert np.median(r) > 0.6


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_layers_belong_together(checkpoints: dict[str, Path], store: Path, likelihood: str) -> None:
    found = predict(checkpoints[likelihood], store, "S4", depth=4000.0, coverage=0.8)
    tensors = load_file(checkpoints[likelihood])
    level = np.interp(0.8, tensors["heldout.coverage"], tensors["heldout.levels"])
    assert (found.expression >= 0).all()
    assert (found.pi > 0).all() == (likelihood == "zinb")
    assert np.isinf(found.theta).all() == (likelihood == "poisson")
    for i in range(0, 43, 7):
        for g in range(0, len(found.genes), 5):
            mu, theta, pi = (float(v) for v in (found.mu[i, g], found.theta[g], found.pi[i, g]))
            x = np.arange(3000)
            pmf = (
                stats.poisson.pmf(x, mu)
                if likelihood == "poisson"
                else stats.nbinom.pmf(x, theta, theta / (theta + mu))
            )
            cdf = np.cumsum(np.where(x == 0, pi, 0) + (1 - pi) * pmf)
            lower, upper = np.searchsorted(cdf, [(1 - level) / 2, (1 + level) / 2])
            np.testing.assert_allclose(found.lower[i, g], np.log1p(lower * PER / 4000), rtol=1e-5)
            np.testing.assert_allclose(found.upper[i, g], np.log1p(upper * PER / 4000), rtol=1e-5)


@pytest.mark.parametrize("path", ["mean", "ridge"])
def test_an_untrained_network_leaves_the_path_as_it_is(store: Path, tmp_path: Path, path: str) -> None:
    config = FinetuneConfig(
        store=store,
        sections=("S1", "S2", "S3"),
        save_dir=tmp_path,
        epochs=1,
        lr=1e-12,
        likelihood="nb",
        fuse_dim=16,
        path=path,  # type: ignore[arg-type]
    )
    found = predict(finetune(config).run.last_path, store, "S4")
    if path == "ridge":
        expected = found.baselines["tuned ridge"]
    else:
        means = []
        for name in ("S1", "S2", "S3"):
            section = open_store(store).section(name)
            counts = pd.DataFrame(section.counts().toarray(), columns=section.genes)
            means.append(np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e4)[list(found.genes)].mean())
        expected = np.broadcast_to(np.mean(means, axis=0), found.expression.shape)
    np.testing.assert_allclose(found.expression, np.maximum(expected, 0), rtol=1e-4, atol=1e-5)


def test_the_written_matrix_is_the_predicted_one(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    found = predict(checkpoint, store, "S4")
    write_predictions(found, tmp_path / "p.h5ad")
    for suffix in ("csv", "parquet"):
        write_table(found, tmp_path / f"p.{suffix}")
    read = anndata.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(read.X, found.expression)
    for name in ("mu", "pi", "lower", "upper"):
        np.testing.assert_array_equal(read.layers[name], getattr(found, name))
    np.testing.assert_array_equal(read.layers["theta"], np.tile(found.theta, (43, 1)))
    np.testing.assert_array_equal(read.obsm["spatial"], found.xy_px)
    assert list(read.obs_names) == list(found.ids)
    assert list(read.var_names) == list(found.genes)
    heldout = load_file(checkpoint)["heldout.pearson"]
    np.testing.assert_array_equal(read.var["heldout_pearson"], heldout)
    assert np.nanmedian(heldout) > 0.3
    q = stats.false_discovery_control(load_file(checkpoint)["heldout.p_value"])
    np.testing.assert_allclose(read.var["heldout_q"], q)
    np.testing.assert_array_equal(read.var["is_predictable"], q <= 0.05)
    assert (q <= 0.05).mean() > 0.5
    np.testing.assert_array_equal(read.obs["bank_distance"], found.bank_distance)
    np.testing.assert_array_equal(read.obs["is_out_of_distribution"], found.bank_distance > 1)
    provenance = json.loads(read.uns["spam"]["provenance"])
    assert provenance["trained_on"] == ["S1", "S2", "S3"]
    assert provenance["validated_on"] == ["S3"]
    table = pd.read_csv(tmp_path / "p.csv", index_col=0)
    columns = ["bank_distance", "is_out_of_distribution"]
    assert list(table.columns) == [*found.genes, *columns]
    np.testing.assert_allclose(table[list(found.genes)].to_numpy(), found.expression, rtol=1e-4)
    np.testing.assert_allclose(table["bank_distance"], found.bank_distance, rtol=1e-4)
    as_parquet = pd.read_parquet(tmp_path / "p.parquet")
    np.testing.assert_array_equal(as_parquet[list(found.genes)].to_numpy(), found.expression)
    np.testing.assert_array_equal(as_parquet["is_out_of_distribution"], found.is_out_of_distribution)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.csv", "p.h5ad", "p.parquet"]


def test_a_section_without_the_features_is_told_how_to_get_them(checkpoint: Path, tmp_path: Path) -> None:
    add_section(tmp_path / "x.zarr", "X", encoder="other")
    with pytest.raises(
        CheckpointError,
        match=r"'X' has no features tiny_112um, tiny_224um \(it has other_.*--enc-name tiny --tile-um 112",
    ):
        predict(checkpoint, tmp_path / "x.zarr", "X")


def test_features_of_other_weights_are_refused(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(checkpoint, torch.device("cpu"))
    meta, _ = read_checkpoint(checkpoint, stage="finetune")
    object.__setattr__(predictor.meta, "weights_sha256", "ff" * 32)
    with pytest.raises(CheckpointError, match=r"weights abababab….* are not those .*weights ffffffff…"):
        predictor.predict(open_store(store).section("S4"))
    assert meta.weights_sha256 == "ab" * 32
