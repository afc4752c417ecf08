"""Predictions depend on the images of the section alone, belong to one distribution, and are written as they are."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from cohorts import add_section, make_cohort
from quality_arrays import add_quality, good_measures
from safetensors.numpy import load_file
from scipy import stats

from spam.errors import CheckpointError
from spam.evaluation import PredictReport
from spam.models import fusion
from spam.models.checkpoint import from_tensors
from spam.models.rate_path import PER, RatePath
from spam.prediction import PredictedSection, Predictor, predictor, write_predictions, write_table
from spam.schemas.store_config import PackConfig
from spam.schemas.tile_spec import MEASURES
from spam.store import open_store
from spam.store.packing import pack
from spam.training.cohort import read_spots

ARRAYS = ("expression", "mu", "theta", "pi", "lower", "upper")
UNREADABLE = (2, 19, 42)
KEPT = np.delete(np.arange(43), UNREADABLE)


def load(checkpoint: Path) -> Predictor:
    return Predictor.load(checkpoint, torch.device("cpu"))


def predict(checkpoint: Path, store: Path, name: str = "S4", **options: object) -> PredictedSection:
    return load(checkpoint).predict(open_store(store).section(name), **options)  # type: ignore[arg-type]


def assert_identical(a: PredictedSection, b: PredictedSection) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.baselines.keys() == b.baselines.keys()
    for name, values in a.baselines.items():
        np.testing.assert_array_equal(values, b.baselines[name], err_msg=name)
    np.testing.assert_array_equal(a.bank_distance, b.bank_distance)


@pytest.mark.parametrize("change", ["zero", "shuffle", "delete"])
def test_the_counts_of_the_target_do_not_reach_its_prediction(
    checkpoint: Path, default_checkpoint: Path, store: Path, tmp_path: Path, change: str
) -> None:
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=43, change_counts=change)
    for path in (checkpoint, default_checkpoint):
        assert_identical(predict(path, store), predict(path, tmp_path / "x.zarr"))


def test_permuting_the_spots_permutes_the_prediction(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(43)
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=43, order=order)
    plain, permuted = predict(checkpoint, store), predict(checkpoint, tmp_path / "x.zarr")
    np.testing.assert_array_equal(permuted.ids, plain.ids[order])
    # Sums over neighbours and over the section run in another order.
    np.testing.assert_allclose(permuted.expression, plain.expression[order], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(permuted.bank_distance, plain.bank_distance[order], rtol=1e-5)


def test_another_section_in_the_store_changes_nothing(
    checkpoint: Path, store: Path, train_on: Callable[..., Path], tmp_path: Path
) -> None:
    more = make_cohort(tmp_path / "cohort.zarr")
    add_section(more, "S0", seed=8, donor="d7", signal=-2.0)
    plain = predict(checkpoint, store)
    assert_identical(plain, predict(checkpoint, more))
    assert_identical(plain, predict(train_on(more, "again"), store))


def test_a_packed_store_trains_and_predicts_in_another_folder(
    checkpoint: Path, store: Path, train_on: Callable[..., Path], tmp_path: Path
) -> None:
    pack(PackConfig(store=store, out=tmp_path / "sent.zarr.zip"))
    (tmp_path / "theirs").mkdir()
    packed = Path(shutil.move(tmp_path / "sent.zarr.zip", tmp_path / "theirs"))
    assert_identical(predict(checkpoint, store), predict(train_on(packed, "theirs"), packed))


def test_predicting_twice_gives_the_same_bits_and_any_batch_size_the_same_numbers(
    checkpoint: Path, store: Path
) -> None:
    first = predict(checkpoint, store)
    assert_identical(first, predict(checkpoint, store))
    small = predict(checkpoint, store, batch_size=7)
    np.testing.assert_allclose(small.expression, first.expression, rtol=1e-4, atol=1e-5)


def test_a_training_section_is_compared_neither_with_itself_nor_refers_to_itself(
    checkpoint: Path, store: Path
) -> None:
    """The bank holds its spots; if they were used, its own expression would come back as a reference."""
    changed = load(checkpoint)
    own = changed.tensors["bank.section"] == 1
    bank = np.where(own[:, None], 99.0, changed.tensors["bank.expression"]).astype(np.float32)
    changed.tensors["bank.expression"] = bank
    before = predict(checkpoint, store, "S2")
    assert before.provenance["is_training_section"]
    assert before.bank_distance.min() > 0.05
    np.testing.assert_array_equal(
        before.expression, changed.predict(open_store(store).section("S2")).expression
    )
    other = changed.predict(open_store(store).section("S4"))
    assert not np.array_equal(other.expression, predict(checkpoint, store).expression)


def test_tokens_are_computed_for_the_branches_of_the_network_only(
    checkpoint: Path, default_checkpoint: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for module, name in ((fusion, "closure"), (predictor, "cohort_neighbours"), (predictor, "retrieve")):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _f=function, _n=name: calls.append(_n) or _f(*a))
    predict(default_checkpoint, store)
    assert not calls
    predict(checkpoint, store)
    assert set(calls) == {"closure", "cohort_neighbours", "retrieve"}


def test_structure_is_found_if_there_is_some(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    rate = add_section(tmp_path / "again.zarr", "S4", seed=3, n_spots=43)
    found = predict(checkpoint, store)
    truth = np.log1p(rate)[:, [int(gene.removeprefix("G")) for gene in found.genes]]
    r = [stats.pearsonr(truth[:, g], found.expression[:, g]).statistic for g in range(truth.shape[1])]
    assert np.median(r) > 0.6


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_layers_belong_together(
    checkpoint: Path, default_checkpoint: Path, train_on: Callable[..., Path], store: Path, likelihood: str
) -> None:
    path = {"zinb": checkpoint, "nb": default_checkpoint}.get(likelihood) or train_on(
        store, "poisson", attend="none", with_bank=False, likelihood="poisson"
    )
    found = predict(path, store, depth=4000.0, coverage=0.8)
    tensors = load_file(path)
    level = np.interp(0.8, tensors["heldout.lowest"], tensors["heldout.levels"])  # of two donors
    assert (found.expression >= 0).all()
    assert (found.pi > 0).all() == (likelihood == "zinb")
    assert np.isinf(found.theta).all() == (likelihood == "poisson")
    x = np.arange(3000)
    for i in range(0, 43, 7):
        for g in range(0, len(found.genes), 5):
            mu, theta, pi = (float(v) for v in (found.mu[i, g], found.theta[g], found.pi[i, g]))
            nb = stats.poisson(mu) if likelihood == "poisson" else stats.nbinom(theta, theta / (theta + mu))
            cdf = np.cumsum(np.where(x == 0, pi, 0) + (1 - pi) * nb.pmf(x))
            ends = np.searchsorted(cdf, [(1 - level) / 2, (1 + level) / 2])
            interval = found.lower[i, g], found.upper[i, g]
            np.testing.assert_allclose(interval, np.log1p(ends * PER / 4000), rtol=1e-5)


@pytest.mark.parametrize("path", ["mean", "ridge"])
def test_expression_is_the_weighted_sum_of_ridge_prototypes_and_network(
    store: Path, train_on: Callable[..., Path], path: str
) -> None:
    """Of an untrained network, which predicts its path: the mean of the section means, or the ridge."""
    options = {"epochs": 1, "lr": 1e-12, "likelihood": "nb", "fuse_dim": 16, "heads": 4, "path": path}
    checkpoint = train_on(store, path, **options)
    found, tensors = predict(checkpoint, store), load_file(checkpoint)
    sections = [open_store(store).section(name) for name in ("S1", "S2", "S3")]
    counts = [pd.DataFrame(section.counts().toarray(), columns=section.genes) for section in sections]
    means = [np.log1p(c.div(c.sum(axis=1), axis=0) * 1e4)[list(found.genes)].mean() for c in counts]
    mean = np.mean(means, axis=0)
    keys = load(checkpoint).meta.feature_keys
    inputs = load(checkpoint).infer(read_spots(open_store(store).section("S4"), keys, k=5)).inputs
    squares = ((inputs[:, None].astype(float) - tensors["prototypes.centres"]) ** 2).sum(axis=2)
    prototypes = np.exp(-tensors["prototypes.gamma"] * squares) @ tensors["prototypes.coefficients"]
    ridge = found.baselines["tuned ridge"] - mean
    weights = tensors["stack.weights"]
    assert weights.sum() == pytest.approx(1.0)
    network = ridge if path == "ridge" else 0.0
    expected = mean + weights[0] * ridge + weights[1] * prototypes + weights[2] * network
    np.testing.assert_allclose(found.expression, np.maximum(expected, 0), rtol=1e-4, atol=1e-4)
    assert list(found.provenance["weights"].values()) == weights.tolist()


@pytest.mark.parametrize(
    ("ridge", "n_left_out", "why"),
    [
        (0.6, 2, "because left-out donors were predicted best that way"),
        (0.5, 2, ""),
        (0.4, 2, ""),
        (0.6, 0, "training left out no donor"),
        (1.0, 0, ""),
    ],
)
def test_words_say_why_the_ridge_has_most_of_the_weight_or_that_no_donor_was_left_out(
    ridge: float, n_left_out: int, why: str, checkpoint: Path, store: Path, tmp_path: Path
) -> None:
    found = predict(checkpoint, store)
    weights = {"ridge": ridge, "prototypes": 0.0, "network": 1.0 - ridge}
    same = {"weights": weights, "weights_of_similar_sections": weights, "n_left_out_donors": n_left_out}
    said = PredictReport(
        predicted=replace(found, provenance=found.provenance | same),
        n_unmeasured=0,
        out_dir=tmp_path,
        files=(),
        board=None,
    ).weights_in_words
    assert said.startswith(f"weights of the predictors: ridge {ridge:.0%}")
    assert said.endswith(f"network {1 - ridge:.0%}") if not why else why in said


def test_far_from_the_training_images_the_ridge_predicts_alone(
    checkpoint: Path, store: Path, tmp_path: Path
) -> None:
    """A shift of all features is hidden by the scaling within the section, but not from the detector."""
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=43, shift=8.0)
    plain, shifted = predict(checkpoint, store), predict(checkpoint, tmp_path / "x.zarr")
    # Features are stored in half precision, so the shifted ones are coarser.
    np.testing.assert_allclose(shifted.baselines["tuned ridge"], plain.baselines["tuned ridge"], atol=0.05)
    assert plain.is_out_of_distribution.mean() < 0.1
    assert shifted.is_out_of_distribution.all()
    assert plain.provenance["weights"] == plain.provenance["weights_of_similar_sections"]
    assert plain.provenance["weights"]["network"] > 0
    assert shifted.provenance["weights"] == {"ridge": 1.0, "prototypes": 0.0, "network": 0.0}
    expected = np.maximum(shifted.baselines["tuned ridge"], 0.0)
    np.testing.assert_allclose(shifted.expression, expected, atol=1e-5)
    assert plain.pi.any()
    assert not shifted.pi.any()
    ridge = from_tensors(RatePath, load(checkpoint).tensors, "ridge")
    spots = read_spots(open_store(tmp_path / "x.zarr").section("S4"), load(checkpoint).meta.feature_keys, k=5)
    log_rate = ridge.log_rate(load(checkpoint).infer(spots).inputs)
    np.testing.assert_allclose(shifted.mu, np.exp(log_rate) * shifted.depth / PER, rtol=1e-3)


def test_unreadable_spots_are_nan_and_do_not_affect_the_others(checkpoint: Path, tmp_path: Path) -> None:
    add_section(tmp_path / "whole.zarr", "S4", seed=3, n_spots=43, unreadable=UNREADABLE)
    add_section(tmp_path / "partial.zarr", "S4", seed=3, n_spots=43, order=KEPT)
    whole, partial = (predict(checkpoint, tmp_path / f"{name}.zarr") for name in ("whole", "partial"))
    assert np.flatnonzero(~whole.is_predicted).tolist() == list(UNREADABLE)
    for name in ("expression", "mu", "pi", "lower", "upper", "bank_distance"):
        assert np.isnan(getattr(whole, name)[list(UNREADABLE)]).all(), name
    rest = whole.of_spots(whole.is_predicted)
    assert_identical(rest, partial)
    np.testing.assert_array_equal(rest.ids, partial.ids)
    np.testing.assert_array_equal(rest.xy_px, partial.xy_px)
    np.testing.assert_array_equal(
        rest.raw_scale_baselines["HEST ridge"][1], partial.raw_scale_baselines["HEST ridge"][1]
    )


def test_flags_other_than_unreadable_change_no_prediction(
    checkpoint: Path, store: Path, tmp_path: Path
) -> None:
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=43)
    measures = good_measures(43)
    measures[5, MEASURES.index("pen")] = 0.9
    add_quality(open_store(tmp_path / "x.zarr", is_read_only=False).section("S4"), "tiny_112um", measures)
    plain, flagged = predict(checkpoint, store), predict(checkpoint, tmp_path / "x.zarr")
    assert_identical(plain, flagged)
    assert not plain.flags
    assert np.flatnonzero(flagged.flags["pen"]).tolist() == [5]


@pytest.mark.parametrize("is_default", [False, True])
def test_the_written_matrix_is_the_predicted_one(
    checkpoint: Path, default_checkpoint: Path, store: Path, tmp_path: Path, is_default: bool
) -> None:
    path = default_checkpoint if is_default else checkpoint
    found, heldout = predict(path, store), load_file(path)
    section = open_store(store).section("S4")
    write_predictions(found, section, tmp_path / "p.h5ad", given=(np.arange(43) < 7, np.arange(50) > 2))
    for suffix in ("csv", "parquet"):
        write_table(found, tmp_path / f"p.{suffix}")
    read = anndata.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(read.X, found.expression)
    for name in ("mu", "pi", "lower", "upper"):
        np.testing.assert_array_equal(read.layers[name], getattr(found, name))
    np.testing.assert_array_equal(read.layers["theta"], np.tile(found.theta, (43, 1)))
    np.testing.assert_array_equal(read.obsm["spatial"], found.xy_px)
    np.testing.assert_array_equal(read.obsm["spatial_um"], found.xy_px * 0.5)
    assert list(read.obs_names) == list(found.ids)
    assert list(read.var_names) == list(found.genes)
    q = stats.false_discovery_control(heldout["heldout.p_value"])
    np.testing.assert_array_equal(read.var["heldout_pearson"], heldout["heldout.pearson"])
    np.testing.assert_allclose(read.var["heldout_q"], q)
    np.testing.assert_array_equal(read.var["is_predictable"], q <= 0.05)
    assert (q <= 0.05).mean() > 0.5
    np.testing.assert_array_equal(read.obs["bank_distance"], found.bank_distance)
    np.testing.assert_array_equal(read.obs["is_out_of_distribution"], found.bank_distance > 1)
    assert (read.obs["is_given"].sum(), read.var["is_given"].sum()) == (7, 47)
    provenance = json.loads(read.uns["spam"]["provenance"])
    assert (provenance["trained_on"], provenance["validated_on"]) == (["S1", "S2", "S3"], ["S1", "S2", "S3"])
    table, parquet = pd.read_csv(tmp_path / "p.csv", index_col=0), pd.read_parquet(tmp_path / "p.parquet")
    assert (
        list(table.columns)
        == list(parquet.columns)
        == [*found.genes, "bank_distance", "is_out_of_distribution"]
    )
    np.testing.assert_allclose(table[list(found.genes)].to_numpy(), found.expression, rtol=1e-4)
    np.testing.assert_allclose(table["bank_distance"], found.bank_distance, rtol=1e-4)
    np.testing.assert_array_equal(parquet[list(found.genes)].to_numpy(), found.expression)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.csv", "p.h5ad", "p.parquet"]


@pytest.mark.parametrize("fault", ["missing", "weights", "tile"])
def test_a_section_with_other_features_is_refused_with_the_command_that_embeds_it(
    checkpoint: Path, tmp_path: Path, fault: str
) -> None:
    add_section(tmp_path / "s.zarr", "X", encoder="other" if fault == "missing" else "tiny")
    loaded = load(checkpoint)
    if fault == "weights":
        encoders = tuple({**one, "weights_sha256": "ff" * 32} for one in loaded.meta.encoders)
        object.__setattr__(loaded.meta, "encoders", encoders)
    if fault == "tile":
        object.__setattr__(loaded.meta, "tiles", tuple({**tile, "out_px": 448} for tile in loaded.meta.tiles))
    found = {
        "missing": "'X'.*tiny_112um is missing .*other_112um",
        "weights": "tiny_112um has weights abababab…, .* instead of weights ffffffff…",
        "tile": "tiny_112um has .*112 µm in 224 px instead of .*112 µm in 448 px",
    }
    command = r".*spam embed --store .*s\.zarr --enc-name tiny --tile-um 112 --tile-um 224"
    command += "$" if fault == "missing" else " --overwrite$"
    with pytest.raises(CheckpointError, match=found[fault] + command):
        loaded.predict(open_store(tmp_path / "s.zarr").section("X"))


def test_features_of_an_adapted_encoder_are_embedded_with_its_adapter(
    checkpoint: Path, tmp_path: Path
) -> None:
    add_section(tmp_path / "s.zarr", "X")
    loaded = load(checkpoint)
    adapted = "tiny-lora-0123abcd"
    for name, value in {
        "encoders": tuple({**one, "name": adapted} for one in loaded.meta.encoders),
        "feature_keys": tuple(key.replace("tiny", adapted) for key in loaded.meta.feature_keys),
    }.items():
        object.__setattr__(loaded.meta, name, value)
    with pytest.raises(CheckpointError, match="--enc-name tiny --lora ADAPTER --tile-um 112"):
        loaded.predict(open_store(tmp_path / "s.zarr").section("X"))
