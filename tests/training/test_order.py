"""Donors that take turns, in batches of any size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spam.errors import ConfigError
from spam.schemas.training_config import PretrainConfig
from spam.training.training_set import TrainingSet, build_training_set
from spam.training.training_set import balanced, check_donors, random_order


@pytest.fixture
def data(cohort: Path) -> TrainingSet:
    return build_training_set(PretrainConfig(store=cohort, save_dir=Path("unused"), k=5, n_top_genes=23))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=41), st.integers(1, 17))
def test_every_run_of_rows_has_equally_many_of_each_label(labels: list[int], size: int) -> None:
    label = np.array(labels)
    rows = np.random.default_rng(0).permutation(len(label))
    order = balanced(rows, label[rows])
    kinds, n_rows = np.unique(label, return_counts=True)
    assert len(order) == len(set(order)) == len(kinds) * n_rows.min()
    for start in range(0, len(order), size):
        seen = [np.count_nonzero(label[order[start : start + size]] == kind) for kind in kinds]
        assert max(seen) - min(seen) <= 1


def test_without_balance_each_row_comes_once(data: TrainingSet) -> None:
    order = random_order(data.train_rows, data, np.random.default_rng(5), balance_donors=False)
    np.testing.assert_array_equal(order, np.random.default_rng(5).permutation(data.train_rows))


def test_both_donors_have_half_of_every_batch(data: TrainingSet) -> None:
    donors = ("P", "P", "Q", "Q")  # the last section is held out
    data = replace(data, spots=tuple(replace(s, donor=d) for s, d in zip(data.spots, donors, strict=True)))
    is_q = np.isin(data.section_of, (2, 3))
    n_p, n_q = (~is_q[data.train_rows]).sum(), is_q[data.train_rows].sum()
    assert n_p > n_q
    order = random_order(data.train_rows, data, np.random.default_rng(0), balance_donors=True)
    assert len(order) == len(set(order)) == 2 * n_q
    assert set(order) < set(data.train_rows)
    assert (is_q[order].reshape(-1, 2).sum(axis=1) == 1).all()


def test_one_donor_cannot_be_balanced(data: TrainingSet) -> None:
    data = replace(data, spots=tuple(replace(s, donor="P7") for s in data.spots))
    with pytest.raises(
        ConfigError, match=r"nothing to balance: all spots to train on are of one donor \(P7\); leave"
    ):
        check_donors(data.train_rows, data)


def test_sections_without_donor_stand_for_themselves(data: TrainingSet) -> None:
    data = replace(data, spots=tuple(replace(s, donor=None) for s in data.spots))
    order = random_order(data.train_rows, data, np.random.default_rng(0), balance_donors=True)
    turns = data.section_of[order].reshape(-1, 3)
    assert (np.sort(turns, axis=1) == [0, 1, 2]).all()
    check_donors(data.train_rows, data)
