"""Held-out predictions of several folds: correlations within each fold, weights, calibration, and donors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr
from training_runs import finetuning

from spam.models.count_likelihood import count_interval
from spam.training.groups import folds_of
from spam.training.judging import HeldOutPredictions, are_new_donors, best_epoch, judge_folds
from spam.training.loop import has_converged
from spam.training.training_set import TrainingSet, build_training_set


@pytest.fixture(scope="module")
def lone(cohort: Path) -> TrainingSet:
    """One section, which is judged in blocks."""
    return build_training_set(finetuning(cohort, Path("unused"), sections=("S4",)))


def predictions(data: TrainingSet, *, noise: float) -> list[HeldOutPredictions]:
    """Each fold predicts the truth with noise, at a level that differs between the folds."""
    rng = np.random.default_rng(3)
    parts = []
    for number, groups in enumerate(folds_of(data.spots, data.totals)):
        rows = np.flatnonzero(groups.is_val & (data.totals > 0))
        truth = data.expression_of(rows) - data.expression_of(rows).mean(axis=0)
        shape = (3, *truth.shape)
        patterns = (noise > 0) * truth + noise * rng.normal(size=shape) * np.array([1, 2, 3])[:, None, None]
        parts.append(
            HeldOutPredictions(
                rows=rows,
                patterns=patterns.astype(np.float32),
                level=np.full(truth.shape[1], 5.0 * number, dtype=np.float32),
                offsets=np.zeros((2, truth.shape[1]), dtype=np.float32),
                log_rate=np.zeros(truth.shape, dtype=np.float32),
                theta=np.full(truth.shape[1], 1.0 + number, dtype=np.float32),
                pi=None,
            )
        )
    return parts


def test_blocks_of_a_section_are_judged_one_by_one(lone: TrainingSet) -> None:
    parts = predictions(lone, noise=0.3)
    assert len(parts) == 4
    found = judge_folds(parts, lone, "nb", {"S4": 0})
    assert found.weights[0] > found.weights[1] >= found.weights[2]
    assert found.sections == ("S4",)
    assert not found.is_new_donor
    truth = [
        [
            pearsonr(part.expression(found.weights)[:, g], lone.expression_of(part.rows)[:, g])[0]
            for part in parts
        ]
        for g in range(len(lone.genes.genes))
    ]
    np.testing.assert_allclose(found.heldout.pearson, np.nanmean(truth, axis=1), atol=1e-5)
    assert found.heldout.pearson.mean() > max(found.alone.values())  # levels of 0, 5, 10, 15 would ruin it
    inside = []
    for part in parts:
        mu = part.mu(found.weights, lone.totals[part.rows])
        lower, upper = count_interval("nb", mu, part.theta, None, 0.9)
        counts = lone.counts[part.rows].toarray()
        inside.append((counts >= lower) & (counts <= upper))
    at = int(np.argmin(abs(found.heldout.levels - 0.9)))
    assert found.heldout.coverage[at] == pytest.approx(np.concatenate(inside).mean())


def test_a_constant_prediction_has_no_correlation(lone: TrainingSet) -> None:
    found = judge_folds(predictions(lone, noise=0.0), lone, "nb", {"S4": None})
    assert np.isnan(found.heldout.pearson).all()
    assert found.weights.tolist() == [1, 0, 0]


def test_a_donor_is_new_only_where_none_of_its_sections_was_trained_on(cohort: Path) -> None:
    """Sections were left out one by one, so a donor with two sections was always trained on."""
    data = build_training_set(finetuning(cohort, Path("unused")))
    parts = []
    for part in predictions(data, noise=0.3):
        for number in np.unique(data.section_of[part.rows]):
            own = data.section_of[part.rows] == number
            taken = {"patterns": part.patterns[:, own], "log_rate": part.log_rate[own]}
            parts.append(replace(part, rows=part.rows[own], **taken))
    assert len(parts) == 4
    for donors, expected in ((range(4), True), ((0, 0, 0, 1), False), ((0, 1, 2, None), False)):
        found = judge_folds(parts, data, "nb", dict(zip(("S1", "S2", "S3", "S4"), donors, strict=True)))
        assert found.is_new_donor is expected
        assert expected or found.weights[0] >= 0.2


@pytest.mark.parametrize(
    ("donors", "held_out", "expected"),
    [
        ({"A": 0, "B": 1}, ("A", "B"), True),
        ({"A": 0, "B": 0}, ("A", "B"), False),
        ({"A": 0, "B": None}, ("A", "B"), False),
        ({"A": 0, "B": 0, "C": 1}, ("C",), True),
        ({"A": 0, "B": 1, "C": 1}, ("C",), False),
        ({"A": 0, "B": None, "C": 1}, ("C",), False),
        ({"A": 0}, ("A",), False),
    ],
)
def test_new_donors(donors: dict[str, int | None], held_out: tuple[str, ...], expected: bool) -> None:
    assert are_new_donors(donors, held_out) is expected


def test_the_last_epoch_within_the_tolerance_is_the_best() -> None:
    history = [{"val_loss": loss} for loss in (1.0, 0.7, 0.6, 0.605, 0.65, 0.609, 0.62)]
    assert best_epoch(history, 0.01) == 5
    assert best_epoch(history[:1], 0.01) == 0


def test_training_ends_when_the_loss_fell_by_less_than_half_of_the_tolerance_in_five_epochs() -> None:
    losses = [1.0, 0.7, 0.6, 0.598, 0.61, 0.597, 0.6, 0.5951, 0.5]
    ended = [has_converged([{"val_loss": x} for x in losses[:n]], 0.01, 5) for n in range(len(losses) + 1)]
    assert ended == [False] * 8 + [True, False]
    assert not has_converged([{"val_loss": x} for x in (3.0, 2.0, 2.1, 2.2, 2.3, 1.9)], 0.0, 5)
    assert has_converged([{"val_loss": x} for x in (3.0, 2.0, 2.1, 2.2, 2.3, 2.4, 2.0)], 0.0, 5)
    assert not has_converged([{"epoch": 1.0}] * 20, 0.01, 5)
