"""What a prediction says of itself: genes and spots that it can be trusted in."""

import json
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from cohorts import add_section

from spam.predicting import predict
from spam.prediction import PredictedSection, Predictor
from spam.schemas.predict_config import PredictConfig
from spam.schemas.training_config import FinetuneConfig
from spam.store import open_store
from spam.training import finetune


def of(checkpoint: Path, store: Path, name: str) -> PredictedSection:
    return Predictor.load(checkpoint, torch.device("cpu")).predict(open_store(store).section(name))


def test_a_shift_that_standardisation_hides_from_the_model_is_flagged(
    checkpoint: Path, store: Path, tmp_path: Path
) -> None:
    add_section(tmp_path / "shifted.zarr", "S4", seed=3, n_spots=43, shift=8.0)
    plain, shifted = of(checkpoint, store, "S4"), of(checkpoint, tmp_path / "shifted.zarr", "S4")
    # Features are kept in half precision, so the shifted ones are coarser.
    np.testing.assert_allclose(shifted.expression, plain.expression, atol=0.05)
    assert plain.is_out_of_distribution.mean() < 0.1
    assert shifted.is_out_of_distribution.all()


def test_summary_and_file_say_it(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    add_section(tmp_path / "shifted.zarr", "S4", seed=3, n_spots=43, shift=8.0, change_counts="delete")
    for name, where in (("plain", store), ("shifted", tmp_path / "shifted.zarr")):
        out = tmp_path / name
        report = predict(PredictConfig(store=where, section="S4", ckpt=checkpoint, out_dir=out, plots=False))
        found = anndata.read_h5ad(out / "predictions.h5ad")
        n_unlike, n_predictable = found.obs["is_out_of_distribution"].sum(), found.var["is_predictable"].sum()
        assert (report.n_unlike, report.n_predictable) == (n_unlike, n_predictable)
        assert report.to_mapping()["n_unlike"] == n_unlike
        line = f"{n_unlike} of 43 spots ({n_unlike / 43:.0%}) look unlike the training sections"
        assert line in report.summary()
        assert f"{n_predictable} of {found.n_vars} genes were predicted better" in report.summary()
        assert (f"WARNING: {line}" in report.summary()) == (name == "shifted")


def test_a_donor_that_was_not_trained_on_is_told(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    add_section(tmp_path / "other.zarr", "S5", seed=4, donor="d9")
    small = {"epochs": 1, "n_top_genes": 29, "members": 1, "fuse_dim": 24, "k": 5, "n_neighbours": 4}
    config = FinetuneConfig(store=store, sections=("S1", "S3", "S4"), save_dir=tmp_path / "run", **small)
    of_known_donors = finetune(config).run.best_path  # S4 was held out, and S3 is of its donor, too
    for ckpt, is_calibrated in ((checkpoint, True), (of_known_donors, False)):
        for name, where, donor in (("S2", store, None), ("S5", tmp_path / "other.zarr", "d9")):
            out = tmp_path / f"{name}-{is_calibrated}"
            report = predict(
                PredictConfig(store=where, section=name, ckpt=ckpt, out_dir=out, coverage=0.8, plots=False)
            )
            said = json.loads(anndata.read_h5ad(out / "predictions.h5ad").uns["spam"]["provenance"])
            assert report.new_donor == said["new_donor"] == donor
            assert report.is_calibrated_on_new_donors == said["is_calibrated_on_new_donors"] == is_calibrated
            warns = "may hold fewer counts than the 80%" in report.summary()
            assert warns == (name == "S5" and not is_calibrated)


def test_a_block_of_a_lone_section_says_nothing_of_new_donors(tmp_path: Path) -> None:
    add_section(tmp_path / "lone.zarr", "S1", seed=0)
    add_section(tmp_path / "lone.zarr", "S2", seed=1, donor="d9")
    small = {"epochs": 1, "n_top_genes": 29, "members": 1, "fuse_dim": 24, "k": 5, "n_neighbours": 4}
    shared = {"store": tmp_path / "lone.zarr"}
    ckpt = finetune(
        FinetuneConfig(sections=("S1",), save_dir=tmp_path / "run", **shared, **small)
    ).run.best_path
    config = PredictConfig(section="S2", ckpt=ckpt, out_dir=tmp_path / "out", plots=False, **shared)
    assert "may hold fewer counts" in predict(config).summary()


def test_a_section_of_a_panel_is_told(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(checkpoint, torch.device("cpu"))
    panel = tuple(int(gene.removeprefix("G")) for gene in predictor.meta.genes[:7])
    add_section(tmp_path / "panel.zarr", "S4", seed=3, n_spots=43, panel=panel)
    whole = open_store(store).section("S4").counts().toarray().astype(float)
    in_panel = whole[:, list(panel)].sum(axis=1) / whole.sum(axis=1)
    for name, where in (("whole", store), ("panel", tmp_path / "panel.zarr")):
        config = PredictConfig(
            store=where, section="S4", ckpt=checkpoint, out_dir=tmp_path / name, plots=False
        )
        report = predict(config)
        assert ("WARNING: the modelled genes make up" in report.summary()) == (name == "panel")
        assert report.board is not None
        assert (
            json.loads((tmp_path / name / "metrics.json").read_text())["panel_share"]
            == report.board.panel_share
        )
        if name == "whole":
            assert report.board.panel_share is None
        else:
            # All that was measured is of the panel; of this cohort's libraries it is about this share.
            assert report.board.panel_share == pytest.approx(1 / in_panel.mean(), rel=0.2)


def test_a_training_section_is_not_compared_with_itself(checkpoint: Path, store: Path) -> None:
    assert of(checkpoint, store, "S2").bank_distance.min() > 0.05


def test_before_held_out_spots_are_judged_nothing_is_called_predictable(
    checkpoint: Path, store: Path, tmp_path: Path
) -> None:
    unjudged = checkpoint.parent / "selection" / "last.safetensors"
    found = of(unjudged, store, "S4")
    assert np.isnan(found.heldout_q).all()
    assert not found.is_predictable.any()
    assert found.coverage == 0.9
    config = PredictConfig(store=store, section="S4", ckpt=unjudged, out_dir=tmp_path, plots=False)
    report = predict(config)
    assert report.n_predictable is None
    assert "this checkpoint was not judged on held-out spots" in report.summary()
    assert "better than by chance" not in report.summary()


def test_where_a_section_is_all_that_was_trained_on_nothing_is_called_unlike(tmp_path: Path) -> None:
    add_section(tmp_path / "one.zarr", "S4", seed=3, n_spots=43)
    training = FinetuneConfig(
        store=tmp_path / "one.zarr", save_dir=tmp_path / "c", epochs=1, fuse_dim=16, n_top_genes=29
    )
    report = predict(
        PredictConfig(
            store=tmp_path / "one.zarr",
            ckpt=finetune(training).run.best_path,
            out_dir=tmp_path / "out",
            plots=False,
        )
    )
    assert report.n_unlike is None
    assert (
        "nothing but this section was trained on, so that no spot can be called unlike;" in report.summary()
    )


def test_order_of_the_spots_does_not_matter(checkpoint: Path, store: Path, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(43)
    add_section(tmp_path / "permuted.zarr", "S4", seed=3, n_spots=43, order=order)
    permuted = of(checkpoint, tmp_path / "permuted.zarr", "S4")
    np.testing.assert_allclose(
        permuted.bank_distance, of(checkpoint, store, "S4").bank_distance[order], rtol=1e-5
    )
