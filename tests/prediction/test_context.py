"""Partly measured targets: only given entries matter, they matter, and they help."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from cohorts import add_section
from scipy.sparse import csr_matrix

from spam.errors import ConfigError, SectionError
from spam.models.expression import log1p_cp10k
from spam.models.linear import pearson_per_gene
from spam.predicting import drawing, predict
from spam.prediction import Context, PredictedSection, Predictor, condition
from spam.prediction.panel import Bank
from spam.reports import GivenEntries
from spam.schemas.predict_config import PredictConfig
from spam.schemas.training_config import FinetuneConfig
from spam.store import open_store
from spam.training import finetune

N_SPOTS = 43
ARRAYS = ("expression", "mu", "theta", "pi", "lower", "upper")
SPOTS = np.random.default_rng(0).random(N_SPOTS) < 0.5
Lab = tuple[Predictor, PredictedSection, csr_matrix, list[str]]


@pytest.fixture(scope="module")
def lab(store: Path, checkpoint: Path) -> Lab:
    """The checkpoint, its plain prediction of S4, and all counts of S4."""
    predictor = Predictor.load(checkpoint, torch.device("cpu"))
    section = open_store(store).section("S4")
    assert section.genes is not None
    return predictor, predictor.predict(section), section.counts(), [str(gene) for gene in section.genes]


def context_of(
    lab: Lab,
    spots: np.ndarray,
    genes: list[str],
    counts: csr_matrix | None = None,
    library_size: np.ndarray | None = None,
) -> Context:
    """What a file of these spots and genes gives."""
    predictor, _, whole, names = lab
    counts = whole if counts is None else counts
    rows = np.flatnonzero(spots)
    chosen = csr_matrix(counts[rows][:, [names.index(gene) for gene in genes]])
    return Context.gather(
        chosen,
        np.array(genes, dtype=str),
        rows,
        n_spots=N_SPOTS,
        modelled=predictor.meta.genes,
        library_size=None if library_size is None else library_size[rows],
    )


def panel_of(lab: Lab) -> list[str]:
    return list(lab[0].meta.genes[2:19:2])


def truth_of(lab: Lab) -> np.ndarray:
    predictor, _, counts, names = lab
    totals = np.asarray(counts.sum(axis=1), dtype=float).ravel()
    return log1p_cp10k(counts[:, [names.index(gene) for gene in predictor.meta.genes]], totals)


def assert_identical(a: PredictedSection, b: PredictedSection) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


CASES = {
    "some spots": lambda lab: (SPOTS, lab[3]),
    "some genes": lambda lab: (np.ones(N_SPOTS, dtype=bool), panel_of(lab)),
    "some genes of some spots": lambda lab: (SPOTS, panel_of(lab)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
Case = Callable[[Lab], tuple[np.ndarray, list[str]]]


@cases
@pytest.mark.parametrize("change", ["zero", "shuffle", "delete"])
def test_counts_of_the_store_do_not_reach_the_prediction(
    lab: Lab, tmp_path: Path, case: Case, change: str
) -> None:
    """The same given entries, and a store whose own counts are others, or none."""
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=N_SPOTS, change_counts=change)
    predictor, plain, _, _ = lab
    context = context_of(lab, *case(lab))
    other = predictor.predict(open_store(tmp_path / "x.zarr").section("S4"))
    assert_identical(condition(predictor, other, context), condition(predictor, plain, context))


@cases
def test_a_given_entry_reaches_others(lab: Lab, case: Case) -> None:
    predictor, plain, counts, names = lab
    spots, genes = case(lab)
    changed = counts.toarray()
    gene = next(gene for gene in genes if gene in predictor.meta.genes)
    changed[np.flatnonzero(spots)[3], names.index(gene)] += 500
    before = condition(predictor, plain, context_of(lab, spots, genes))
    after = condition(predictor, plain, context_of(lab, spots, genes, csr_matrix(changed)))
    moved = before.expression != after.expression
    moved[np.ix_(spots, np.isin(predictor.meta.genes, genes))] = False
    assert moved.any()
    assert not np.array_equal(before.expression, plain.expression)


def test_an_empty_context_is_the_plain_prediction(lab: Lab) -> None:
    predictor, plain, _, names = lab
    assert_identical(
        condition(predictor, plain, context_of(lab, np.zeros(N_SPOTS, dtype=bool), names)), plain
    )
    assert_identical(condition(predictor, plain, context_of(lab, SPOTS, [])), plain)
    silent = csr_matrix(np.zeros((N_SPOTS, len(names)), dtype=np.int32))
    assert_identical(condition(predictor, plain, context_of(lab, SPOTS, names, silent)), plain)


def mean_pearson(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.nanmean(pearson_per_gene(predicted, truth)))


def test_a_panel_helps_where_images_say_little(lab: Lab) -> None:
    predictor, plain, _, _ = lab
    panel = panel_of(lab)
    found = condition(predictor, plain, context_of(lab, np.ones(N_SPOTS, dtype=bool), panel))
    others = ~np.isin(predictor.meta.genes, panel)
    truth = truth_of(lab)[:, others]
    assert (
        mean_pearson(found.expression[:, others], truth)
        > mean_pearson(plain.expression[:, others], truth) + 0.1
    )
    alone = mean_pearson(found.baselines["panel ridge"][:, others], truth)
    assert (
        mean_pearson(found.expression[:, others], truth) > alone - 0.01
    )  # nine genes tell both hidden states
    np.testing.assert_array_equal(found.baselines["SPAM without context"], plain.expression)


def test_measured_spots_mend_what_a_prediction_gets_wrong_around_them(lab: Lab) -> None:
    """A section whose expression is raised on one side, by what no image tells of."""
    predictor, plain, counts, _ = lab
    raised = counts.toarray().astype(np.int64)
    side = plain.xy_px[:, 0] > np.median(plain.xy_px[:, 0])
    raised[np.ix_(side, np.arange(0, 61, 2))] *= 4
    changed = csr_matrix(raised.astype(np.int32))
    found = condition(predictor, plain, context_of(lab, SPOTS, lab[3], changed))
    truth = truth_of((predictor, plain, changed, lab[3]))[~SPOTS]

    def error(predicted: np.ndarray) -> float:
        return float(((predicted[~SPOTS] - truth) ** 2).mean())

    nearest = found.baselines["nearest measured spots"]
    assert error(found.expression) < 0.9 * min(error(plain.expression), error(nearest))


def test_the_nearest_measured_spots_are_those_of_a_loop(lab: Lab) -> None:
    predictor, plain, _, _ = lab
    found = condition(predictor, plain, context_of(lab, SPOTS, lab[3])).baselines["nearest measured spots"]
    rows, truth = np.flatnonzero(SPOTS), truth_of(lab)
    for i in range(N_SPOTS):
        near = rows[np.argsort(((plain.xy_px[rows] - plain.xy_px[i]) ** 2).sum(axis=1))[:4]]
        np.testing.assert_allclose(found[i], truth[near].mean(axis=0), rtol=1e-5, atol=1e-6)


@cases
def test_rates_and_intervals_follow_the_expression(lab: Lab, case: Case) -> None:
    predictor, plain, _, _ = lab
    found = condition(predictor, plain, context_of(lab, *case(lab)))
    expected = rate_of(found.unclipped) / rate_of(plain.unclipped)
    np.testing.assert_allclose(found.mu / plain.mu, expected, rtol=1e-3)
    np.testing.assert_array_equal(found.expression, np.where(found.unclipped > 0, found.unclipped, 0))
    assert (found.lower <= found.upper).all()
    rises = found.unclipped > plain.unclipped
    assert (found.upper >= plain.upper)[rises].all()
    assert (found.upper <= plain.upper)[~rises].all()
    np.testing.assert_array_equal(found.theta, plain.theta)


def rate_of(expression: np.ndarray) -> np.ndarray:
    """Counts per 10k of log1p expression, floored at zero within a twentieth of its unit."""
    return np.expm1(np.log1p(np.exp(20 * expression.astype(float))) / 20)


def test_a_gene_that_images_deny_gets_the_rate_that_is_measured(lab: Lab) -> None:
    """Predicted far below zero, measured as 50 of 10 000 everywhere: half the spots tell it to the others."""
    denied, found = conditioned_gene(lab, predicted=np.full(N_SPOTS, -0.3), measured=50)
    assert (denied.expression[:, 0] == 0).all()
    expression = found.expression[:, 0].astype(float)
    np.testing.assert_allclose(
        expression, np.log(51), atol=0.3
    )  # not all of what was missed is shared by spots
    scale = RATE_CORRECTION * found.depth / 1e4
    np.testing.assert_allclose(found.mu[:, 0], scale * np.expm1(expression), rtol=1e-3)
    np.testing.assert_allclose(found.mu[:, 0], scale * 50, rtol=0.3)
    assert (found.lower[:, 0] < np.log1p(RATE_CORRECTION * 50)).all()
    assert (found.upper[:, 0] > np.log1p(RATE_CORRECTION * 50)).all()


def test_a_gene_that_is_measured_as_absent_falls_to_zero_and_no_further(lab: Lab) -> None:
    """Where much was predicted, much was missed; that is not carried to where little was predicted, as less than none."""
    predicted = np.where(np.arange(N_SPOTS) % 3 == 0, 0.2, 4.0)
    predicted[[0, 1]] = -0.3
    _, found = conditioned_gene(lab, predicted=predicted, measured=0)
    little = predicted == 0.2
    np.testing.assert_array_equal(found.unclipped[little, 0], 0)
    np.testing.assert_array_equal(found.unclipped[:2, 0], np.float32(-0.3))
    rate = (
        RATE_CORRECTION * np.expm1(np.log(2) / 20) * found.depth / 1e4
    )  # the soft floor at zero is log(2) / 20
    np.testing.assert_allclose(found.mu[little, 0], rate, rtol=1e-4)


def test_a_gene_that_image_and_measurement_call_absent_stays_as_it_is(lab: Lab) -> None:
    denied, found = conditioned_gene(lab, predicted=np.full(N_SPOTS, -0.3), measured=0)
    np.testing.assert_array_equal(found.unclipped[:, 0], denied.unclipped[:, 0])
    np.testing.assert_allclose(found.mu[:, 0], denied.mu[:, 0], rtol=1e-6)


RATE_CORRECTION = 1.1  # what the network adds to the rate of expression, as a factor


def conditioned_gene(
    lab: Lab, *, predicted: np.ndarray, measured: int
) -> tuple[PredictedSection, PredictedSection]:
    """Set the prediction of the first gene, and its count in libraries of 10 000; give half of the spots."""
    predictor, plain, counts, names = lab
    gene = names.index(predictor.meta.genes[0])
    unclipped, mu = plain.unclipped.copy(), plain.mu.copy()
    unclipped[:, 0] = predicted
    mu[:, 0] = RATE_CORRECTION * rate_of(predicted) * plain.depth / 1e4
    before = dataclasses.replace(plain, unclipped=unclipped, mu=mu, pi=np.zeros_like(plain.pi))
    changed = counts.toarray()
    changed[:, gene] = measured
    changed[:, (gene + 1) % len(names)] += 10_000 - changed.sum(axis=1)
    return before, condition(predictor, before, context_of(lab, SPOTS, names, csr_matrix(changed)))


def test_a_panel_of_some_spots_reaches_other_genes_of_other_spots(lab: Lab) -> None:
    predictor, plain, _, _ = lab
    panel = panel_of(lab)
    found = condition(predictor, plain, context_of(lab, SPOTS, panel))
    others = ~np.isin(predictor.meta.genes, panel)
    facts = found.provenance["context"]
    assert facts["library_size"] == "panel"
    assert facts["n_spots"] == SPOTS.sum()
    assert facts["n_genes"] == len(panel)
    assert (found.expression != plain.expression)[np.ix_(SPOTS, others)].any()
    assert set(found.baselines) - set(plain.baselines) == {"SPAM without context", "panel ridge"}


def test_library_sizes_are_those_of_the_file_where_it_holds_more_than_a_panel(lab: Lab) -> None:
    predictor, _, _, names = lab
    bank = Bank.without(predictor.tensors, -1)
    whole = context_of(lab, SPOTS, names)
    kind, share = whole.library(bank)
    assert (kind, share) == ("sums", pytest.approx(1, abs=0.1))
    np.testing.assert_allclose(whole.expression(bank, kind), truth_of(lab)[SPOTS], rtol=1e-5, atol=1e-6)
    # Also in tissue in which genes that are not modelled take a much larger part of the library than in the bank.
    changed = lab[2].toarray()
    changed[:, ~np.isin(names, predictor.meta.genes)] *= 10
    other = csr_matrix(changed)
    kind, share = context_of(lab, SPOTS, names, other).library(bank)
    assert kind == "sums"
    assert share is not None
    assert share < 0.7
    expression = context_of(lab, SPOTS, names, other).expression(bank, kind)
    truth = truth_of((predictor, lab[1], other, names))[SPOTS]
    assert np.expm1(truth).sum(axis=1).mean() < 0.7 * np.expm1(truth_of(lab)).sum(axis=1).mean()
    np.testing.assert_allclose(expression, truth, rtol=1e-5, atol=1e-6)
    given = context_of(lab, SPOTS, panel_of(lab))
    kind, share = given.library(bank)
    panel_sum = bank.panel_sum(np.flatnonzero(given.is_given_gene))
    assert (kind, share) == (
        "panel",
        pytest.approx(1e4 / panel_sum),
    )  # the file holds nothing beside the panel
    np.testing.assert_allclose(np.expm1(given.expression(bank, kind)).sum(axis=1), panel_sum)


@pytest.mark.parametrize("n_spots", [0, 7])
def test_a_bank_that_shows_none_of_the_genes_cannot_tell_a_panel(lab: Lab, n_spots: int) -> None:
    n_genes = len(lab[0].meta.genes)
    bank = Bank(
        inputs=np.zeros((n_spots, 3), dtype=np.float32),
        expression=np.zeros((n_spots, n_genes)),
        group=np.zeros(n_spots, dtype=np.int64),
        gene_mean=np.zeros(n_genes),
    )
    given = context_of(lab, SPOTS, panel_of(lab))
    assert given.library(bank) == ("sums", None)
    assert np.isfinite(given.expression(bank, "sums")).all()


def test_stated_library_sizes_make_a_panel_what_it_is_in_the_whole_file(lab: Lab) -> None:
    predictor, plain, counts, names = lab
    bank, panel = Bank.without(predictor.tensors, -1), panel_of(lab)
    totals = np.asarray(counts.sum(axis=1), dtype=float).ravel()
    given = context_of(lab, SPOTS, panel, library_size=totals)
    assert given.library(bank) == ("stated", None)
    is_panel = np.isin(predictor.meta.genes, panel)
    np.testing.assert_allclose(
        given.expression(bank, "stated"), truth_of(lab)[np.ix_(SPOTS, is_panel)], rtol=1e-5, atol=1e-6
    )
    stated = condition(predictor, plain, given)
    guessed = condition(predictor, plain, context_of(lab, SPOTS, panel))
    assert stated.context is not None
    assert guessed.context is not None
    assert (stated.context.library_size, guessed.context.library_size) == ("stated", "panel")
    assert not np.array_equal(stated.expression, guessed.expression)
    # Beside all genes, the sums of the file say the same as stated sums.
    all_stated = condition(predictor, plain, context_of(lab, SPOTS, names, library_size=totals))
    assert_identical(all_stated, condition(predictor, plain, context_of(lab, SPOTS, names)))


def test_a_measured_zero_is_given_where_the_library_size_is_known(lab: Lab) -> None:
    predictor, plain, counts, names = lab
    totals = np.asarray(counts.sum(axis=1), dtype=float).ravel()
    dense = counts.toarray()
    share = {gene: (dense[SPOTS, names.index(gene)] == 0).mean() for gene in predictor.meta.genes}
    marker = min(share, key=lambda gene: abs(share[gene] - 0.5))
    is_zero = SPOTS & (dense[:, names.index(marker)] == 0)
    assert 0 < is_zero.sum() < SPOTS.sum()
    stated = context_of(lab, SPOTS, [marker], library_size=totals)
    np.testing.assert_array_equal(stated.is_given_spot, SPOTS)
    np.testing.assert_array_equal(context_of(lab, SPOTS, [marker]).is_given_spot, SPOTS & ~is_zero)
    truth = truth_of(lab)[np.ix_(SPOTS, np.isin(predictor.meta.genes, [marker]))]
    found = condition(predictor, plain, stated)
    np.testing.assert_allclose(
        stated.expression(Bank.without(predictor.tensors, -1), "stated"), truth, rtol=1e-5, atol=1e-6
    )
    assert np.isfinite(found.expression).all()
    assert not np.array_equal(found.expression, plain.expression)


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


# --- spam predict --context-h5ad ------------------------------------------------------------------------------------------


def write_context(
    lab: Lab,
    path: Path,
    spots: np.ndarray,
    genes: list[str],
    *,
    order: np.ndarray | None = None,
    states_library_size: bool = False,
) -> Path:
    _, plain, counts, names = lab
    rows = np.flatnonzero(spots)
    rows = rows if order is None else rows[order]
    totals = np.asarray(counts.sum(axis=1)).ravel()[rows]
    anndata.AnnData(
        X=counts[rows][:, [names.index(gene) for gene in genes]],
        obs=pd.DataFrame(
            {"library_size": totals} if states_library_size else {}, index=plain.ids[rows].astype(str)
        ),
        var=pd.DataFrame(index=genes),
    ).write_h5ad(path)
    return path


def config(store: Path, checkpoint: Path, out: Path, **changes: object) -> PredictConfig:
    values = {"store": store, "section": "S4", "ckpt": checkpoint, "out_dir": out, "plots": False, **changes}
    return PredictConfig(**values)  # type: ignore[arg-type]


def test_given_spots_are_marked_and_not_scored(
    lab: Lab, store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path = write_context(lab, tmp_path / "spots.h5ad", SPOTS, lab[3])
    report = predict(config(store, checkpoint, tmp_path / "out", context_h5ad=path))
    found = anndata.read_h5ad(tmp_path / "out" / "predictions.h5ad")
    np.testing.assert_array_equal(found.obs["is_given"], SPOTS)
    assert found.var["is_given"].all()
    assert report.board is not None
    assert report.board.n_spots == (~SPOTS).sum()
    table = report.board.gene_table().loc[list(found.var_names)]
    expected = pearson_per_gene(found.X[~SPOTS], truth_of(lab)[~SPOTS])
    np.testing.assert_allclose(table["SPAM.pearson"], expected, atol=1e-5)
    assert {"SPAM without context.pearson", "nearest measured spots.pearson"} <= set(table.columns)
    assert (
        f"given: counts of 50 modelled genes at {SPOTS.sum()} spots (also in the file: 11 genes"
        in report.summary()
    )
    assert "only spots that were not given are scored" in report.summary()
    assert (
        "; library sizes are the sums of its counts (if they are not: put them into obs['library_size'])"
        in (report.summary())
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["context"]["scored"] == "spots"
    assert metrics["context"]["library_size"] == "sums"
    assert metrics["config"]["context_h5ad"] == "spots.h5ad"
    assert report.to_mapping()["context"]["n_spots"] == SPOTS.sum()


def test_given_genes_are_marked_and_not_scored(
    lab: Lab, store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    everywhere, panel = np.ones(N_SPOTS, dtype=bool), panel_of(lab)
    path = write_context(lab, tmp_path / "panel.h5ad", everywhere, panel)
    report = predict(config(store, checkpoint, tmp_path / "out", context_h5ad=path))
    found = anndata.read_h5ad(tmp_path / "out" / "predictions.h5ad")
    np.testing.assert_array_equal(found.var["is_given"], np.isin(found.var_names, panel))
    assert report.board is not None
    assert report.board.n_spots == N_SPOTS
    assert set(report.board.gene_table().index) == set(found.var_names) - set(panel)
    assert "panel ridge.pearson" in report.board.gene_table()
    assert re.search(
        r"taken for a panel, whose library sizes are not known, since these genes make up [\d.]+ times as much of its counts "
        r"as of the training spots' \(if they are known: put them into obs\['library_size'\]\); only genes that were not "
        "given are scored",
        report.summary(),
    )


def test_library_sizes_are_read_from_the_file(
    lab: Lab, store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path = write_context(lab, tmp_path / "panel.h5ad", SPOTS, panel_of(lab), states_library_size=True)
    report = predict(config(store, checkpoint, tmp_path / "out", context_h5ad=path))
    assert "; library sizes are those of its obs['library_size']; only" in report.summary()
    found = anndata.read_h5ad(tmp_path / "out" / "predictions.h5ad")
    predictor, plain, counts, _ = lab
    totals = np.asarray(counts.sum(axis=1), dtype=float).ravel()
    expected = condition(predictor, plain, context_of(lab, SPOTS, panel_of(lab), library_size=totals))
    np.testing.assert_array_equal(found.X, expected.expression)


def drawn_by(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]
) -> tuple[GivenEntries | None, tuple[np.ndarray, np.ndarray, list[str]] | None]:
    """What a run hands to the plots: the marks on the maps, and what the scatter shows, if there is one."""
    maps, scatters = [], []
    monkeypatch.setattr(
        drawing, "plot_expression_maps", lambda *a, **options: maps.append(options["given"]) or a[-1]
    )
    monkeypatch.setattr(drawing, "plot_scatter", lambda *a: scatters.append(a[:3]) or a[-1])
    run()
    (given,) = maps
    return given, scatters[0] if scatters else None


@pytest.mark.parametrize("is_panel", [False, True])
def test_plots_mark_what_was_given_and_show_what_is_scored(
    lab: Lab,
    store: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_panel: bool,
) -> None:
    genes = list(lab[0].meta.genes[:5])  # every other one from the third on is of the panel
    path = write_context(lab, tmp_path / "c.h5ad", SPOTS, panel_of(lab) if is_panel else lab[3])
    options = config(
        store, checkpoint, tmp_path / "out", context_h5ad=path, plots=True, plot_genes=tuple(genes)
    )
    given, scatter = drawn_by(monkeypatch, lambda: predict(options))
    found = anndata.read_h5ad(tmp_path / "out" / "predictions.h5ad")
    is_given = np.outer(SPOTS, np.isin(genes, panel_of(lab)) if is_panel else np.ones(5, dtype=bool))
    rows = np.ones(N_SPOTS, dtype=bool) if is_panel else ~SPOTS
    shown = [0, 1, 3] if is_panel else [0, 1, 2, 3, 4]
    assert given is not None
    np.testing.assert_array_equal(given.is_given, is_given)
    np.testing.assert_array_equal(given.is_scored, np.outer(rows, np.isin(np.arange(5), shown)))
    assert given.note.startswith("outlined: given (--context-h5ad)")
    assert ("r of spots that were not given" in given.note) == (not is_panel)
    assert scatter is not None
    truth, prediction, names = scatter
    assert names == [genes[i] for i in shown]
    np.testing.assert_array_equal(truth, truth_of(lab)[:, :5][np.ix_(rows, shown)])
    np.testing.assert_array_equal(prediction, found.X[:, :5][np.ix_(rows, shown)])


def test_without_a_gene_that_is_scored_there_is_no_scatter(
    lab: Lab, store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path = write_context(lab, tmp_path / "c.h5ad", SPOTS, panel_of(lab))
    report = predict(
        config(
            store, checkpoint, tmp_path / "out", context_h5ad=path, plots=True, plot_genes=(panel_of(lab)[0],)
        )
    )
    drawn = sorted(path.name for path in (tmp_path / "out" / "plots").iterdir())
    assert drawn == ["expression_maps.png", "pcc_histogram.png"]
    assert not any(path.name == "scatter.png" for path in report.files)


def test_the_order_of_the_file_changes_nothing(
    lab: Lab, store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    a = write_context(lab, tmp_path / "a.h5ad", SPOTS, lab[3])
    genes = [str(gene) for gene in rng.permutation(lab[3])]
    b = write_context(lab, tmp_path / "b.h5ad", SPOTS, genes, order=rng.permutation(int(SPOTS.sum())))
    for path in (a, b):
        predict(config(store, checkpoint, tmp_path / path.stem, context_h5ad=path))
    first, second = (anndata.read_h5ad(tmp_path / name / "predictions.h5ad") for name in "ab")
    np.testing.assert_array_equal(first.X, second.X)
    for layer in ("mu", "lower", "upper"):
        np.testing.assert_array_equal(first.layers[layer], second.layers[layer])


def test_where_all_is_given_nothing_is_scored(
    lab: Lab, store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path = write_context(lab, tmp_path / "all.h5ad", np.ones(N_SPOTS, dtype=bool), lab[3])
    report = predict(config(store, checkpoint, tmp_path / "out", context_h5ad=path))
    assert report.board is None
    assert "nothing is left to score" in report.summary()


def test_genes_that_are_not_modelled_are_refused_before_anything_is_written(
    lab: Lab, store: Path, checkpoint: Path, tmp_path: Path
) -> None:
    unknown = [gene for gene in lab[3] if gene not in lab[0].meta.genes]
    path = write_context(lab, tmp_path / "x.h5ad", SPOTS, unknown)
    with pytest.raises(
        SectionError, match=r"none of the 11 genes of --context-h5ad .* among the 50 genes of the checkpoint"
    ):
        predict(config(store, checkpoint, tmp_path / "out", context_h5ad=path))
    assert not (tmp_path / "out").exists()


def test_a_panel_of_the_only_training_section_is_refused(tmp_path: Path) -> None:
    add_section(tmp_path / "one.zarr", "S4", seed=3, n_spots=N_SPOTS)
    checkpoint = finetune(
        FinetuneConfig(
            store=tmp_path / "one.zarr", save_dir=tmp_path / "c", epochs=1, fuse_dim=16, n_top_genes=29
        )
    ).run.best_path
    predictor = Predictor.load(checkpoint, torch.device("cpu"))
    section = open_store(tmp_path / "one.zarr").section("S4")
    assert section.genes is not None
    lone = (predictor, predictor.predict(section), section.counts(), [str(gene) for gene in section.genes])
    with pytest.raises(ConfigError, match="measured spots of other sections"):
        condition(predictor, lone[1], context_of(lone, SPOTS, panel_of(lone)))
    assert np.isfinite(condition(predictor, lone[1], context_of(lone, SPOTS, lone[3])).expression).all()


def test_spots_whose_tiles_could_not_be_read_are_left_out(checkpoint: Path, lab: Lab, tmp_path: Path) -> None:
    """What was measured there is not used, which is told, and nothing is predicted for them."""
    add_section(tmp_path / "x.zarr", "S4", seed=3, n_spots=N_SPOTS, unreadable=(4, 11))
    predictor = lab[0]
    plain = predictor.predict(open_store(tmp_path / "x.zarr").section("S4"))
    given = np.ones(N_SPOTS, dtype=bool)
    found = condition(predictor, plain, context_of(lab, given, panel_of(lab)))
    assert np.isnan(found.expression[[4, 11]]).all()
    assert np.isfinite(np.delete(found.expression, [4, 11], axis=0)).all()
    given[[4, 11]] = False
    without = condition(predictor, plain, context_of(lab, given, panel_of(lab)))
    assert_identical(found, without)
    path = write_context(lab, tmp_path / "panel.h5ad", np.ones(N_SPOTS, dtype=bool), panel_of(lab))
    report = predict(config(tmp_path / "x.zarr", checkpoint, tmp_path / "out", context_h5ad=path))
    assert report.context is not None
    assert (report.context.n_spots, report.context.n_unreadable_spots) == (N_SPOTS - 2, 2)
    assert "(also in the file: 2 spots whose tiles could not be read)" in report.summary()
