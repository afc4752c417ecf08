"""Partly measured sections: only given entries matter, they matter, and they help."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from cohorts import add_section
from scipy.sparse import csr_matrix

from spam import predicting
from spam.errors import ConfigError, SectionError
from spam.models import log1p_cp10k
from spam.models.linear import pearson_per_gene
from spam.predicting import predict
from spam.prediction import Context, PredictedSection, Predictor, condition
from spam.prediction.panel import Bank
from spam.schemas.predict_config import PredictConfig
from spam.store import open_store

N_SPOTS = 43
ALL = np.ones(N_SPOTS, dtype=bool)
ARRAYS = ("expression", "mu", "theta", "pi", "lower", "upper")
SPOTS = np.random.default_rng(0).random(N_SPOTS) < 0.5
Configure = Callable[..., PredictConfig]


@dataclasses.dataclass(kw_only=True)
class Lab:
    """A checkpoint with a bank, its prediction of S4 without context, and all counts of S4."""

    predictor: Predictor
    plain: PredictedSection
    counts: csr_matrix
    names: list[str]

    @property
    def panel(self) -> list[str]:
        return list(self.predictor.meta.genes[2:19:2])

    @property
    def bank(self) -> Bank:
        return Bank.without(self.predictor.tensors, -1)

    @property
    def totals(self) -> np.ndarray:
        return np.asarray(self.counts.sum(axis=1), dtype=float).ravel()

    @property
    def truth(self) -> np.ndarray:
        """Log1p(CP10k) of the modelled genes."""
        return log1p_cp10k(
            self.counts[:, [self.names.index(gene) for gene in self.predictor.meta.genes]], self.totals
        )

    def with_counts(self, counts: np.ndarray) -> "Lab":
        return dataclasses.replace(self, counts=csr_matrix(counts.astype(np.int32)))

    def context(self, spots: np.ndarray, genes: list[str], *, is_stated: bool = False) -> Context:
        """What a file of these spots and genes gives."""
        rows = np.flatnonzero(spots)
        return Context.gather(
            csr_matrix(self.counts[rows][:, [self.names.index(gene) for gene in genes]]),
            np.array(genes, dtype=str),
            rows,
            n_spots=N_SPOTS,
            modelled=self.predictor.meta.genes,
            library_size=self.totals[rows] if is_stated else None,
        )

    def conditioned(
        self, spots: np.ndarray, genes: list[str], *, is_stated: bool = False
    ) -> PredictedSection:
        return condition(self.predictor, self.plain, self.context(spots, genes, is_stated=is_stated))


def lab_of(store: Path, checkpoint: Path) -> Lab:
    predictor, section = Predictor.load(checkpoint, torch.device("cpu")), open_store(store).section("S4")
    names = [str(gene) for gene in section.genes]
    return Lab(predictor=predictor, plain=predictor.predict(section), counts=section.counts(), names=names)


@pytest.fixture(scope="module")
def lab(store: Path, checkpoint: Path) -> Lab:
    return lab_of(store, checkpoint)


def assert_identical(a: PredictedSection, b: PredictedSection) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


CASES = {
    "some spots": lambda lab: (SPOTS, lab.names),
    "some genes": lambda lab: (ALL, lab.panel),
    "some genes of some spots": lambda lab: (SPOTS, lab.panel),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
Case = Callable[[Lab], tuple[np.ndarray, list[str]]]


@pytest.mark.parametrize("change", ["zero", "shuffle", "delete"])
def test_counts_of_the_store_do_not_reach_the_prediction(lab: Lab, tmp_path: Path, change: str) -> None:
    """The same given entries, and a store with other counts or none."""
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=N_SPOTS, change_counts=change)
    other = lab.predictor.predict(open_store(tmp_path / "x.zarr").section("S4"))
    for case in CASES.values():
        context = lab.context(*case(lab))
        assert_identical(
            condition(lab.predictor, other, context), condition(lab.predictor, lab.plain, context)
        )


@cases
def test_a_given_entry_reaches_others(lab: Lab, case: Case) -> None:
    spots, genes = case(lab)
    changed = lab.counts.toarray()
    gene = next(gene for gene in genes if gene in lab.predictor.meta.genes)
    changed[np.flatnonzero(spots)[3], lab.names.index(gene)] += 500
    before, after = lab.conditioned(spots, genes), lab.with_counts(changed).conditioned(spots, genes)
    moved = before.expression != after.expression
    moved[np.ix_(spots, np.isin(lab.predictor.meta.genes, genes))] = False
    assert moved.any()
    assert not np.array_equal(before.expression, lab.plain.expression)


def test_an_empty_context_changes_nothing(lab: Lab) -> None:
    silent = lab.with_counts(np.zeros((N_SPOTS, len(lab.names))))
    for found in (
        lab.conditioned(~ALL, lab.names),
        lab.conditioned(SPOTS, []),
        silent.conditioned(SPOTS, lab.names),
    ):
        assert_identical(found, lab.plain)


def test_a_panel_helps_if_images_say_little(lab: Lab) -> None:
    found, others = lab.conditioned(ALL, lab.panel), ~np.isin(lab.predictor.meta.genes, lab.panel)
    predictions = {"both": found, "plain": lab.plain}
    values = {name: predicted.expression for name, predicted in predictions.items()}
    values["panel ridge"] = found.baselines["panel ridge"]
    r = {name: np.nanmean(pearson_per_gene(v[:, others], lab.truth[:, others])) for name, v in values.items()}
    assert r["both"] > r["plain"] + 0.1
    assert r["both"] > r["panel ridge"] - 0.01  # nine genes determine both hidden states
    np.testing.assert_array_equal(found.baselines["SPAM without context"], lab.plain.expression)


def test_measured_spots_correct_an_error_around_them(lab: Lab) -> None:
    """Expression is raised on one side of the section, which no image shows."""
    raised = lab.counts.toarray().astype(np.int64)
    side = lab.plain.xy_px[:, 0] > np.median(lab.plain.xy_px[:, 0])
    raised[np.ix_(side, np.arange(0, 61, 2))] *= 4
    changed = lab.with_counts(raised)
    found = changed.conditioned(SPOTS, lab.names)
    nearest = found.baselines["nearest measured spots"]
    predictions = (found.expression, lab.plain.expression, nearest)
    error = [float(((p - changed.truth)[~SPOTS] ** 2).mean()) for p in predictions]
    assert error[0] < 0.9 * min(error[1:])
    rows, xy = np.flatnonzero(SPOTS), lab.plain.xy_px
    for i in range(N_SPOTS):  # the baseline by a loop
        near = rows[np.argsort(((xy[rows] - xy[i]) ** 2).sum(axis=1))[:4]]
        np.testing.assert_allclose(nearest[i], changed.truth[near].mean(axis=0), rtol=1e-5, atol=1e-6)


@cases
def test_rates_and_intervals_follow_the_expression(lab: Lab, case: Case) -> None:
    plain, found = lab.plain, lab.conditioned(*case(lab))
    expected = rate_of(found.unclipped) / rate_of(plain.unclipped)
    np.testing.assert_allclose(found.mu / plain.mu, expected, rtol=1e-3)
    np.testing.assert_array_equal(found.expression, np.where(found.unclipped > 0, found.unclipped, 0))
    assert (found.lower <= found.upper).all()
    rises = found.unclipped > plain.unclipped
    assert (found.upper >= plain.upper)[rises].all()
    assert (found.upper <= plain.upper)[~rises].all()
    np.testing.assert_array_equal(found.theta, plain.theta)


def rate_of(expression: np.ndarray) -> np.ndarray:
    """Counts per 10k of log1p expression, softly floored at zero within a twentieth of its unit."""
    return np.expm1(np.log1p(np.exp(20 * expression.astype(float))) / 20)


CORRECTION = 1.1  # the network's own factor on the rate


def conditioned_gene(
    lab: Lab, predicted: np.ndarray, *, measured: int
) -> tuple[PredictedSection, PredictedSection]:
    """Set the prediction of the first gene, and its count in libraries of 10 000; give half of the spots."""
    plain, gene = lab.plain, lab.names.index(lab.predictor.meta.genes[0])
    unclipped, mu = plain.unclipped.copy(), plain.mu.copy()
    unclipped[:, 0] = predicted
    mu[:, 0] = CORRECTION * rate_of(predicted) * plain.depth / 1e4
    before = dataclasses.replace(plain, unclipped=unclipped, mu=mu, pi=np.zeros_like(plain.pi))
    changed = lab.counts.toarray()
    changed[:, gene] = measured
    changed[:, (gene + 1) % len(lab.names)] += 10_000 - changed.sum(axis=1)
    return before, condition(lab.predictor, before, lab.with_counts(changed).context(SPOTS, lab.names))


def test_a_gene_that_images_deny_gets_the_measured_rate(lab: Lab) -> None:
    """Predicted far below zero, measured as 50 of 10 000 everywhere: half of the spots correct the others."""
    denied, found = conditioned_gene(lab, np.full(N_SPOTS, -0.3), measured=50)
    assert (denied.expression[:, 0] == 0).all()
    expression = found.expression[:, 0].astype(float)
    np.testing.assert_allclose(expression, np.log(51), atol=0.3)  # not all of the residual is shared by spots
    scale = CORRECTION * found.depth / 1e4
    np.testing.assert_allclose(found.mu[:, 0], scale * np.expm1(expression), rtol=1e-3)
    np.testing.assert_allclose(found.mu[:, 0], scale * 50, rtol=0.3)
    assert (found.lower[:, 0] < np.log1p(CORRECTION * 50)).all()
    assert (found.upper[:, 0] > np.log1p(CORRECTION * 50)).all()


def test_a_gene_measured_as_absent_falls_to_zero_and_not_below(lab: Lab) -> None:
    """The residual of highly predicted spots is not carried over to others as an expression below zero."""
    predicted = np.where(np.arange(N_SPOTS) % 3 == 0, 0.2, 4.0)
    predicted[[0, 1]] = -0.3
    _, found = conditioned_gene(lab, predicted, measured=0)
    little = predicted == 0.2
    np.testing.assert_array_equal(found.unclipped[little, 0], 0)
    np.testing.assert_array_equal(found.unclipped[:2, 0], np.float32(-0.3))
    rate = CORRECTION * np.expm1(np.log(2) / 20) * found.depth / 1e4  # the soft floor at zero is log(2) / 20
    np.testing.assert_allclose(found.mu[little, 0], rate, rtol=1e-4)


def test_a_gene_absent_in_image_and_measurement_stays_as_it_is(lab: Lab) -> None:
    denied, found = conditioned_gene(lab, np.full(N_SPOTS, -0.3), measured=0)
    np.testing.assert_array_equal(found.unclipped[:, 0], denied.unclipped[:, 0])
    np.testing.assert_allclose(found.mu[:, 0], denied.mu[:, 0], rtol=1e-6)


def test_library_sizes_are_the_sums_of_the_file_unless_it_is_a_panel(lab: Lab) -> None:
    whole = lab.context(SPOTS, lab.names)
    assert whole.library(lab.bank) == ("sums", pytest.approx(1, abs=0.1))
    np.testing.assert_allclose(whole.expression(lab.bank, "sums"), lab.truth[SPOTS], rtol=1e-5, atol=1e-6)
    # Also in tissue with a much larger share of genes that are not modelled.
    changed = lab.counts.toarray()
    changed[:, ~np.isin(lab.names, lab.predictor.meta.genes)] *= 10
    other = lab.with_counts(changed)
    kind, share = other.context(SPOTS, lab.names).library(lab.bank)
    assert kind == "sums"
    assert share < 0.7
    expression = other.context(SPOTS, lab.names).expression(lab.bank, kind)
    np.testing.assert_allclose(expression, other.truth[SPOTS], rtol=1e-5, atol=1e-6)
    panel = lab.context(SPOTS, lab.panel)
    panel_sum = lab.bank.panel_sum(np.flatnonzero(panel.is_given_gene))
    # the file holds the panel alone
    assert panel.library(lab.bank) == ("panel", pytest.approx(1e4 / panel_sum))
    np.testing.assert_allclose(np.expm1(panel.expression(lab.bank, "panel")).sum(axis=1), panel_sum)
    for level in (0.0, np.nan):  # a bank without counts of these genes, or without other sections
        unknown = dataclasses.replace(lab.bank, per_10k=np.full(len(lab.predictor.meta.genes), level))
        assert panel.library(unknown) == ("sums", None)


def test_stated_library_sizes_make_a_panel_equal_to_the_same_genes_of_the_whole_file(lab: Lab) -> None:
    given = lab.context(SPOTS, lab.panel, is_stated=True)
    assert given.library(lab.bank) == ("stated", None)
    is_panel = np.isin(lab.predictor.meta.genes, lab.panel)
    expected = lab.truth[np.ix_(SPOTS, is_panel)]
    np.testing.assert_allclose(given.expression(lab.bank, "stated"), expected, rtol=1e-5, atol=1e-6)
    stated, guessed = lab.conditioned(SPOTS, lab.panel, is_stated=True), lab.conditioned(SPOTS, lab.panel)
    assert (stated.context.library_size, guessed.context.library_size) == ("stated", "panel")
    assert not np.array_equal(stated.expression, guessed.expression)
    # Beside all genes, the sums of the file are the stated sizes.
    assert_identical(lab.conditioned(SPOTS, lab.names, is_stated=True), lab.conditioned(SPOTS, lab.names))


def test_a_measured_zero_is_given_if_the_library_size_is_known(lab: Lab) -> None:
    dense = lab.counts.toarray()
    share = {gene: (dense[SPOTS, lab.names.index(gene)] == 0).mean() for gene in lab.predictor.meta.genes}
    marker = min(share, key=lambda gene: abs(share[gene] - 0.5))
    is_zero = SPOTS & (dense[:, lab.names.index(marker)] == 0)
    assert 0 < is_zero.sum() < SPOTS.sum()
    np.testing.assert_array_equal(lab.context(SPOTS, [marker], is_stated=True).is_given_spot, SPOTS)
    np.testing.assert_array_equal(lab.context(SPOTS, [marker]).is_given_spot, SPOTS & ~is_zero)
    found = lab.conditioned(SPOTS, [marker], is_stated=True)
    assert np.isfinite(found.expression).all()
    assert not np.array_equal(found.expression, lab.plain.expression)


@pytest.mark.parametrize(
    ("n_spots", "n_genes", "scores_spots"),
    [(0, 29, True), (42, 29, True), (43, 3, False), (20, 3, False), (5, 20, True)],
)
def test_the_larger_part_without_given_entries_is_scored(
    n_spots: int, n_genes: int, scores_spots: bool
) -> None:
    context = Context(
        is_given_spot=np.arange(N_SPOTS) < n_spots,
        is_given_gene=np.arange(29) < n_genes,
        counts=csr_matrix((n_spots, n_genes), dtype=np.int32),
        totals=np.ones(n_spots),
    )
    assert context.scores_spots == scores_spots
    is_scored = np.outer(context.is_scored_spot, context.is_scored_gene)
    assert not (is_scored & np.outer(context.is_given_spot, context.is_given_gene)).any()
    assert is_scored.sum() == max((43 - n_spots) * 29, 43 * (29 - n_genes))


def test_without_a_bank_spots_with_all_genes_are_context_and_a_panel_is_refused(
    store: Path, default_checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    lab = lab_of(store, default_checkpoint)
    found = lab.conditioned(SPOTS, lab.names)
    error = [((p.expression - lab.truth)[~SPOTS] ** 2).mean() for p in (found, lab.plain)]
    assert error[0] < error[1]
    assert found.context.library_size == "sums"
    with pytest.raises(ConfigError, match="--with-bank"):
        lab.conditioned(SPOTS, lab.panel)
    path = write_context(lab, tmp_path / "panel.h5ad", SPOTS, lab.panel)
    with pytest.raises(ConfigError, match=r"--context-h5ad.*spam finetune --with-bank"):
        predict(config_of(store, default_checkpoint, tmp_path / "out", context_h5ad=path))
    assert not (tmp_path / "out").exists()


def test_a_panel_of_the_only_training_section_is_refused(
    train_on: Callable[..., Path], tmp_path: Path
) -> None:
    add_section(tmp_path / "one.zarr", "S4", seed=3, n_spots=N_SPOTS)
    lone = lab_of(tmp_path / "one.zarr", train_on(tmp_path / "one.zarr", "run", ("S4",), epochs=1))
    with pytest.raises(ConfigError, match="other sections"):
        lone.conditioned(SPOTS, lone.panel)
    assert np.isfinite(lone.conditioned(SPOTS, lone.names).expression).all()


# --- spam predict --context-h5ad ---------------------------------------------------------------------------------


def write_context(
    lab: Lab,
    path: Path,
    spots: np.ndarray,
    genes: list[str],
    *,
    order: np.ndarray | None = None,
    is_stated: bool = False,
) -> Path:
    rows = np.flatnonzero(spots)
    rows = rows if order is None else rows[order]
    obs = pd.DataFrame(
        {"library_size": lab.totals[rows]} if is_stated else {}, index=lab.plain.ids[rows].astype(str)
    )
    counts = lab.counts[rows][:, [lab.names.index(gene) for gene in genes]]
    anndata.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
    return path


def test_given_spots_are_marked_and_not_scored(
    lab: Lab, store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    path = write_context(lab, tmp_path / "spots.h5ad", SPOTS, lab.names)
    report = predict(config_of(store, checkpoint, tmp_path / "out", context_h5ad=path))
    found = anndata.read_h5ad(tmp_path / "out" / "predictions.h5ad")
    np.testing.assert_array_equal(found.obs["is_given"], SPOTS)
    assert found.var["is_given"].all()
    assert report.board.n_spots == (~SPOTS).sum()
    table = report.board.genes.loc[list(found.var_names)]
    expected = pearson_per_gene(found.X[~SPOTS], lab.truth[~SPOTS])
    np.testing.assert_allclose(table["SPAM.pearson"], expected, atol=1e-5)
    assert {"SPAM without context.pearson", "nearest measured spots.pearson"} <= set(table.columns)
    context = json.loads((tmp_path / "out" / "metrics.json").read_text())["context"]
    assert (context["scored"], context["library_size"], context["n_spots"]) == ("spots", "sums", SPOTS.sum())
    assert context["ignored"]["unmodelled genes"] == 11
    words = [
        "50 modelled genes",
        f"{SPOTS.sum()} spots",
        "11 unmodelled genes",
        "obs['library_size']",
        "only spots",
    ]
    assert all(word in report.summary() for word in words)


def test_given_genes_are_marked_and_not_scored(
    lab: Lab, store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    path = write_context(lab, tmp_path / "panel.h5ad", ALL, lab.panel)
    report = predict(config_of(store, checkpoint, tmp_path / "out", context_h5ad=path))
    found = anndata.read_h5ad(tmp_path / "out" / "predictions.h5ad")
    np.testing.assert_array_equal(found.var["is_given"], np.isin(found.var_names, lab.panel))
    assert report.board.n_spots == N_SPOTS
    assert set(report.board.genes.index) == set(found.var_names) - set(lab.panel)
    assert "panel ridge.pearson" in report.board.genes
    assert f"{report.context.relative_share:.3g} times" in report.summary()
    assert "only genes" in report.summary()


def test_stated_library_sizes_and_any_order_are_read_from_the_file(
    lab: Lab, store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    genes, order = [str(gene) for gene in rng.permutation(lab.panel)], rng.permutation(int(SPOTS.sum()))
    path = write_context(lab, tmp_path / "panel.h5ad", SPOTS, genes, order=order, is_stated=True)
    report = predict(config_of(store, checkpoint, tmp_path / "out", context_h5ad=path))
    assert_identical(report.predicted, lab.conditioned(SPOTS, lab.panel, is_stated=True))


@pytest.mark.parametrize("is_panel", [False, True])
def test_plots_mark_what_was_given_and_show_what_is_scored(
    lab: Lab,
    store: Path,
    checkpoint: Path,
    config_of: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_panel: bool,
) -> None:
    drawn: dict[str, tuple] = {}
    for name in ("plot_expression_maps", "plot_scatter"):
        monkeypatch.setattr(predicting, name, lambda *a, _n=name, **_: drawn.update({_n: a}))
    genes = lab.predictor.meta.genes[:5]  # every other one from the third on is in the panel
    path = write_context(lab, tmp_path / "c.h5ad", SPOTS, lab.panel if is_panel else lab.names)
    config = config_of(store, checkpoint, tmp_path / "out", context_h5ad=path, plots=True, plot_genes=genes)
    report = predict(config)
    given = drawn["plot_expression_maps"][4]
    rows, shown = (ALL, [0, 1, 3]) if is_panel else (~SPOTS, [0, 1, 2, 3, 4])
    is_given_gene = np.isin(genes, lab.panel) if is_panel else np.ones(5, dtype=bool)
    np.testing.assert_array_equal(given.is_given, np.outer(SPOTS, is_given_gene))
    np.testing.assert_array_equal(given.is_scored, np.outer(rows, np.isin(np.arange(5), shown)))
    assert ("r of spots" in given.note) == (not is_panel)
    truth, prediction, names, _ = drawn["plot_scatter"]
    assert names == [genes[i] for i in shown]
    np.testing.assert_array_equal(truth, lab.truth[:, :5][np.ix_(rows, shown)])
    np.testing.assert_array_equal(prediction, report.predicted.expression[:, :5][np.ix_(rows, shown)])


def test_without_scored_genes_there_is_no_scatter_and_without_scored_entries_no_board(
    lab: Lab, store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    path = write_context(lab, tmp_path / "panel.h5ad", SPOTS, lab.panel)
    options = {"context_h5ad": path, "plots": True, "plot_genes": (lab.panel[0],)}
    report = predict(config_of(store, checkpoint, tmp_path / "out", **options))
    drawn = sorted(path.name for path in (tmp_path / "out" / "plots").iterdir())
    assert drawn == ["expression_maps.png", "pcc_histogram.png"]
    assert not any(path.name == "scatter.png" for path in report.files)
    path = write_context(lab, tmp_path / "all.h5ad", ALL, lab.names)
    report = predict(config_of(store, checkpoint, tmp_path / "all", context_h5ad=path))
    assert report.board is None
    assert "given with --context-h5ad" in report.summary()


def test_genes_without_a_model_are_refused_before_anything_is_written(
    lab: Lab, store: Path, checkpoint: Path, config_of: Configure, tmp_path: Path
) -> None:
    unknown = [gene for gene in lab.names if gene not in lab.predictor.meta.genes]
    path = write_context(lab, tmp_path / "x.h5ad", SPOTS, unknown)
    with pytest.raises(SectionError, match=r"11 genes of --context-h5ad .* 50 genes"):
        predict(config_of(store, checkpoint, tmp_path / "out", context_h5ad=path))
    assert not (tmp_path / "out").exists()


def test_given_spots_with_unreadable_tiles_are_ignored(
    checkpoint: Path, lab: Lab, config_of: Configure, tmp_path: Path
) -> None:
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=N_SPOTS, unreadable=(4, 11))
    path = write_context(lab, tmp_path / "panel.h5ad", ALL, lab.panel)
    report = predict(config_of(tmp_path / "x.zarr", checkpoint, tmp_path / "out", context_h5ad=path))
    found = report.predicted.expression
    assert np.isnan(found[[4, 11]]).all()
    assert np.isfinite(np.delete(found, [4, 11], axis=0)).all()
    assert (report.context.n_spots, report.context.ignored["unreadable spots"]) == (N_SPOTS - 2, 2)
    assert "2 unreadable spots" in report.summary()
    plain = lab.predictor.predict(open_store(tmp_path / "x.zarr").section("S4"))
    others = ~np.isin(np.arange(N_SPOTS), [4, 11])
    assert_identical(report.predicted, condition(lab.predictor, plain, lab.context(others, lab.panel)))
