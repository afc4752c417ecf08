import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from spam.models.embedding_geometry import alignment, uniformity
from spam.models.contrastive import effective_rank


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 17), d=st.integers(1, 11), seed=st.integers(0, 2**31))
def test_rank_and_uniformity_equal_the_slow_way(n, d, seed):
    x = np.random.default_rng(seed).normal(size=(n, d))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    singular = np.sqrt(np.linalg.eigvalsh(unit @ unit.T if n < d else unit.T @ unit).clip(0))
    # The roots of eigenvalues carry rounding of 1e-8.
    assert effective_rank(torch.from_numpy(x)) == pytest.approx(math.exp(entropy(singular)), rel=1e-5)
    pairs = [math.exp(-2 * sum((unit[i] - unit[j]) ** 2)) for i in range(n) for j in range(i)]
    expected = math.log(sum(pairs) / len(pairs)) if pairs else 0.0
    assert uniformity(torch.from_numpy(x)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_rank_by_hand():
    assert effective_rank(torch.eye(7)) == pytest.approx(7.0)
    assert effective_rank(3.0 * torch.eye(7)[:5].repeat(2, 1)) == pytest.approx(5.0)
    assert effective_rank(torch.ones(11, 3)) == pytest.approx(1.0)
    assert effective_rank(torch.zeros(5, 3)) == 1.0


def test_a_collapsed_embedding_has_rank_one_in_spite_of_its_noise():
    noise = np.random.default_rng(0).normal(scale=1e-4, size=(211, 13))
    assert effective_rank(torch.from_numpy(1.0 + noise)) == pytest.approx(1.0, abs=0.02)


def test_rank_is_blind_to_length_and_rotation():
    rng = np.random.default_rng(2)
    x, lengths = rng.normal(size=(19, 5)), rng.random((19, 1)) + 0.1
    turned = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert effective_rank(torch.from_numpy(lengths * x @ turned)) == pytest.approx(
        effective_rank(torch.from_numpy(x))
    )


def test_alignment_and_uniformity_by_hand():
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert alignment(east, 5 * east) == 0.0
    assert alignment(east, north) == pytest.approx(2.0)
    assert alignment(torch.cat([east, east]), torch.cat([-east, north])) == pytest.approx(3.0)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-12)
    assert uniformity(torch.cat([east, -east])) == pytest.approx(-8.0)
