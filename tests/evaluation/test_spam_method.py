"""SPAM inside the harness: it learns, is reproducible, and does not depend on the expression or order of the test spots."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from method_cohorts import CONSTANT, cohort_task, permuted, section, task, unmeasured
from scipy import stats

from spam.evaluation import ALL_METHODS, FoldTask, MethodPrediction, spam_method
from spam.evaluation.spam_method import ABLATIONS, SpamMethod, choose_methods
from spam.training.finetuning import FinetuneReport

SHORT = {"epochs": 2, "members": 2, "fuse_dim": 24, "heads": 3, "n_neighbours": 3, "n_references": 3}


def predict(method: SpamMethod, fold: FoldTask, seed: int = 0) -> MethodPrediction:
    predictions = method.fit_predict(fold, seed=seed)
    assert list(predictions) == [s.name for s in fold.test]
    return predictions[fold.test[0].name]


@pytest.mark.parametrize("attend", ["none", pytest.param("both", marks=pytest.mark.slow)])
def test_it_finds_a_planted_signal(attend: str) -> None:
    fold, truth = cohort_task()
    method = SpamMethod(name="SPAM", options={"epochs": 15, "members": 2, "attend": attend})
    found = predict(method, fold)
    expected = np.log(truth.rate[:, :CONSTANT])
    r = [stats.pearsonr(found.expression[:, g], expected[:, g])[0] for g in range(CONSTANT)]
    assert np.median(r) > 0.7
    assert found.counts is not None
    rates = [stats.pearsonr(np.log(found.counts.rate[:, g]), expected[:, g])[0] for g in range(CONSTANT)]
    assert np.median(rates) > 0.7


def test_a_seed_gives_the_same_bits_and_another_seed_others() -> None:
    fold, _ = cohort_task()
    method = SpamMethod(name="SPAM", options=SHORT, stage1={"epochs": 1, "proj_dim": 16})
    state = torch.get_rng_state()
    first, again, other = (predict(method, fold, seed).expression for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_permuting_the_test_spots_permutes_the_prediction() -> None:
    train = tuple(section(f"S{i}", i).spots for i in range(3))
    test = unmeasured(section("T", 9).spots)
    order = np.random.default_rng(0).permutation(test.n_spots)
    method = SpamMethod(name="SPAM", options=SHORT)
    plain = predict(method, task(train, (test,))).expression
    moved = predict(method, task(train, (permuted(test, order),))).expression
    np.testing.assert_allclose(moved, plain[order], rtol=2e-4, atol=2e-4)


def test_a_lone_training_section_is_enough() -> None:
    fold = task((section("S", 1).spots,), (unmeasured(section("T", 9).spots),))
    found = predict(SpamMethod(name="SPAM", options=SHORT), fold)
    assert np.isfinite(found.expression).all()
    assert found.counts is not None
    assert 0 < found.counts.lower < 0.5 < found.counts.upper < 1


def test_each_donor_is_held_out_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    donors = {"S0": "p", "S1": "q", "S2": "r", "S3": "r"}
    train = tuple(
        dataclasses.replace(section(name, i).spots, donor=donor)
        for i, (name, donor) in enumerate(donors.items())
    )
    held_out = []
    finetuned = spam_method.finetune_on

    def spied(*args: Any, **kwargs: Any) -> FinetuneReport:
        report = finetuned(*args, **kwargs)
        held_out.append((report.val_sections, len(report.selections), report.is_new_donor))
        return report

    monkeypatch.setattr(spam_method, "finetune_on", spied)
    method = SpamMethod(name="SPAM", options={**SHORT, "epochs": 1})
    predict(method, task(train, (unmeasured(section("T", 9).spots),)))
    assert held_out == [(("S0", "S1", "S2", "S3"), 3, True)]


def test_ablations_are_run_by_name_alone() -> None:
    assert choose_methods(["all"]) == (None, *ALL_METHODS)
    ridge = next(method for method in ABLATIONS if "ridge path" in method.name)
    assert choose_methods(["SPAM", ridge.name]) == (ALL_METHODS[-1], ridge)
    assert choose_methods(["all", ridge.name]) == (None, *ALL_METHODS, ridge)
