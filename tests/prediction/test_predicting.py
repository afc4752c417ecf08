import json
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from cohorts import add_section, make_cohort
from PIL import Image
from scipy import stats
from scipy.special import gammaln

from spam.errors import ConfigError, OutputExistsError
from spam.models.checkpoint import read_checkpoint, read_checkpoint_meta, write_checkpoint
from spam.predicting import predict
from spam.schemas.predict_config import PredictConfig
from spam.schemas.training_config import FinetuneConfig
from spam.store import SectionRecord, create_store, open_store
from spam.training import finetune


def config(store: Path, checkpoint: Path, out: Path, **changes: object) -> PredictConfig:
    return PredictConfig(**{"store": store, "section": "S4", "ckpt": checkpoint, "out_dir": out, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def results(store: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    predict(config(store, checkpoint, out, formats=("csv",)))
    return out


def test_everything_promised_is_written(results: Path) -> None:
    assert sorted(str(p.relative_to(results)) for p in results.rglob("*") if p.is_file()) == [
        "genes.csv",
        "metrics.json",
        "plots/expression_maps.png",
        "plots/pcc_histogram.png",
        "plots/scatter.png",
        "predictions.csv",
        "predictions.h5ad",
    ]
    for path in (results / "plots").iterdir():
        with Image.open(path) as image:
            assert image.width > 500


def test_scores_are_those_of_scipy(results: Path, store: Path) -> None:
    found = anndata.read_h5ad(results / "predictions.h5ad")
    section = open_store(store).section("S4")
    counts = pd.DataFrame(section.counts().toarray(), columns=section.genes)
    truth = np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e4)[list(found.var_names)].to_numpy()
    table = pd.read_csv(results / "genes.csv", index_col=0).loc[list(found.var_names)]
    for g in range(found.n_vars):
        r = stats.pearsonr(truth[:, g], found.X[:, g]).statistic
        assert table["SPAM.pearson"].iloc[g] == pytest.approx(r, abs=1e-5)
    metrics = json.loads((results / "metrics.json").read_text())
    honest = {(row["predictor"], row["gene_set"]): row for row in metrics["honest"]}
    assert {name for name, _ in honest} == {
        "SPAM",
        "training mean",
        "HEST ridge",
        "tuned ridge",
        "depth null",
    }
    members = [gene for gene in table.index if "HVG-50" in table.loc[gene, "gene_sets"].split(";")]
    expected = table.loc[members, "SPAM.pearson"].mean()
    assert honest["SPAM", "HVG-50"]["means"]["pearson"] == pytest.approx(expected)


def test_the_held_out_likelihood_is_that_of_the_written_distribution(results: Path, store: Path) -> None:
    found = anndata.read_h5ad(results / "predictions.h5ad")
    section = open_store(store).section("S4")
    counts = pd.DataFrame(section.counts().toarray(), columns=section.genes)
    x = counts[list(found.var_names)].to_numpy()
    depth = counts.sum(axis=1).to_numpy() / found.uns["spam"]["depth"]
    mu = found.layers["mu"].astype(float) * depth[:, None]
    theta, pi = found.layers["theta"].astype(float), found.layers["pi"].astype(float)
    log_nb = gammaln(x + theta) - gammaln(theta) - gammaln(x + 1)
    log_nb += theta * np.log(theta / (theta + mu)) + x * np.log(mu / (theta + mu))
    truth = -np.where(x == 0, np.log(pi + (1 - pi) * np.exp(log_nb)), np.log1p(-pi) + log_nb).mean(axis=0)
    table = pd.read_csv(results / "genes.csv", index_col=0).loc[list(found.var_names)]
    np.testing.assert_allclose(table["SPAM.nll"], truth, rtol=1e-4)


def test_without_counts_there_are_predictions_and_maps_but_no_scores(
    checkpoint: Path, tmp_path: Path
) -> None:
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=43, change_counts="delete")
    report = predict(config(tmp_path / "x.zarr", checkpoint, tmp_path / "out"))
    assert report.board is None
    assert "no ground truth" in report.summary()
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert names == ["plots/expression_maps.png", "predictions.h5ad"]


def test_genes_that_the_section_has_not_measured_are_drawn_but_not_scored(
    store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=43, n_genes=61)
    genes = [str(gene) for gene in open_store(store).section("S4").genes]  # type: ignore[union-attr]
    modelled = list(modelled_genes(checkpoint))
    absent = modelled[0]
    kept = [gene for gene in genes if gene != absent]
    keep_genes(tmp_path / "x.zarr", tmp_path / "y.zarr", kept)
    report = predict(
        config(tmp_path / "y.zarr", checkpoint, tmp_path / "out", plot_genes=(absent, modelled[1]))
    )
    assert report.n_unmeasured == 1
    assert "1 of these genes were not measured" in report.summary()
    assert absent not in pd.read_csv(tmp_path / "out" / "genes.csv", index_col=0).index


def modelled_genes(checkpoint: Path) -> tuple[str, ...]:
    return read_checkpoint_meta(checkpoint).genes


def keep_genes(source: Path, target: Path, kept: list[str]) -> None:
    """Copy the section S4 with some of its genes."""
    old = open_store(source).section("S4")
    assert old.genes is not None
    position = {str(gene): i for i, gene in enumerate(old.genes)}
    record = SectionRecord(
        meta=replace(old.meta, n_genes=len(kept)),
        ids=old.ids,
        xy_px=old.xy_px,
        xy_um=old.xy_um,
        counts=old.counts()[:, [position[gene] for gene in kept]],
        genes=np.array(kept),
        obs={},
        overview=None,
    )
    new = create_store(target).add_section(record)
    for key in old.feature_keys:
        writer = new.feature_writer(old.feature_meta(key))
        for chunk in list(writer.pending):
            writer.write(chunk, old.features(key)[chunk])
        writer.finish()


def test_a_training_section_is_said_to_be_one(store: Path, checkpoint: Path, tmp_path: Path) -> None:
    report = predict(config(store, checkpoint, tmp_path, section="S1", plots=False))
    assert "WARNING: the checkpoint was trained on this section" in report.summary()
    assert json.loads((tmp_path / "metrics.json").read_text())["is_training_section"]


def test_predictions_that_are_there_are_kept_unless_told_otherwise(
    results: Path, store: Path, checkpoint: Path
) -> None:
    before = (results / "predictions.h5ad").read_bytes()
    with pytest.raises(OutputExistsError, match=r"predictions\.h5ad' is there already; .*--overwrite"):
        predict(config(store, checkpoint, results))
    assert (results / "predictions.h5ad").read_bytes() == before


def test_the_section_must_be_named_where_there_are_several(
    store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"has 4 sections \(S1, S2, S3, S4\); say which one with --section"):
        predict(config(store, checkpoint, tmp_path, section=None))


def test_genes_to_draw_must_be_modelled(store: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--plot-genes: NOPE not among"):
        predict(config(store, checkpoint, tmp_path, plot_genes=("NOPE",)))
    assert not tmp_path.joinpath("predictions.h5ad").exists()


def test_a_lone_training_section_can_be_predicted_without_references(tmp_path: Path) -> None:
    """Its own spots are all that the bank holds, and it must not look itself up."""
    store = make_cohort(tmp_path / "one.zarr", 1)
    checkpoint = finetune(
        FinetuneConfig(store=store, save_dir=tmp_path / "ckpt", epochs=1, fuse_dim=16, n_top_genes=29)
    ).run.best_path
    report = predict(config(store, checkpoint, tmp_path / "out", section="S1", plots=False))
    assert report.is_training_section
    assert np.isfinite(anndata.read_h5ad(tmp_path / "out" / "predictions.h5ad").X).all()


def test_overwriting_leaves_no_scores_of_another_section(
    store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    predict(config(store, checkpoint, tmp_path / "out", formats=("csv",)))
    add_section(tmp_path / "x.zarr", "S5", seed=3, change_counts="delete")
    report = predict(config(tmp_path / "x.zarr", checkpoint, tmp_path / "out", section="S5", overwrite=True))
    assert {p for p in (tmp_path / "out").rglob("*") if p.is_file()} == set(report.files)


def test_zero_inflation_that_rounds_to_none_or_all_has_a_likelihood(
    store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    meta, tensors = read_checkpoint(checkpoint, stage="finetune")
    extreme = {}
    for name in ("network.members.0.zi_head.bias", "network.members.1.zi_head.bias"):
        extreme[name] = tensors[name].copy()
        extreme[name][:2] = 40.0, -120.0
    write_checkpoint(tmp_path / "x.safetensors", meta, tensors | extreme)
    report = predict(config(store, tmp_path / "x.safetensors", tmp_path / "out", plots=False))
    assert report.board is not None
    assert np.isfinite(report.board.gene_table()["SPAM.nll"]).all()
