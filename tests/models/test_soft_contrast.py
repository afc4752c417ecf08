import math

import contrast_truth
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import ConfigError
from spam.models.contrastive import info_nce
from spam.models.contrastive import profile_targets, soft_info_nce


def left_out(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    drawn = np.triu(rng.random((n, n)) < share, 1)
    return drawn | drawn.T


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 13),
    d=st.integers(1, 7),
    temperature=st.sampled_from([0.1, 0.15, 1.0]),
    mixing=st.sampled_from([0.0, 0.3, 1.0]),
    share=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_targets_and_loss_equal_the_loops(n, d, temperature, mixing, share, seed):
    rng = np.random.default_rng(seed)
    a, b, profiles = (rng.normal(size=(n, d)) for _ in range(3))
    without = left_out(rng, n, share)
    targets = profile_targets(
        torch.from_numpy(profiles), temperature=temperature, is_left_out=torch.from_numpy(without)
    )
    truth = contrast_truth.profile_targets(profiles, temperature, without)
    np.testing.assert_allclose(targets.numpy(), truth, rtol=2e-5, atol=1e-7)  # float32
    loss = soft_info_nce(
        torch.from_numpy(a),
        torch.from_numpy(b),
        temperature=temperature,
        mixing=mixing,
        targets=torch.from_numpy(truth),
        is_left_out=torch.from_numpy(without),
    )
    expected = contrast_truth.soft_info_nce(a, b, temperature, mixing, truth, without)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mixing", [0.2, 0.5])
def test_loss_and_gradients_are_those_of_info_nce_where_the_partner_is_the_target(mixing):
    rng = np.random.default_rng(3)
    a, b = (torch.from_numpy(rng.normal(size=(11, 5))).requires_grad_() for _ in range(2))
    plain = info_nce(a, b, temperature=0.2, mixing=mixing)
    nothing = torch.zeros(11, 11, dtype=torch.bool)
    for soft in (
        soft_info_nce(a, b, temperature=0.2, mixing=mixing),
        soft_info_nce(a, b, temperature=0.2, mixing=mixing, is_left_out=nothing),
        soft_info_nce(a, b, temperature=0.2, mixing=mixing, targets=torch.eye(11)),
    ):
        torch.testing.assert_close(soft, plain)
        for ours, theirs in zip(
            torch.autograd.grad(soft, (a, b)),
            torch.autograd.grad(plain, (a, b), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs)


def test_gradients_with_left_out_pairs_are_finite_and_right():
    rng = np.random.default_rng(5)
    a, b = (torch.from_numpy(rng.normal(size=(7, 3))).requires_grad_() for _ in range(2))
    without = torch.from_numpy(left_out(rng, 7, 0.5))
    targets = profile_targets(torch.from_numpy(rng.normal(size=(7, 5))), temperature=0.5, is_left_out=without)
    torch.autograd.gradcheck(
        lambda a, b: soft_info_nce(
            a, b, temperature=0.3, mixing=0.3, targets=targets.double(), is_left_out=without
        ),
        (a, b),
    )


def test_equal_embeddings_give_ln_batch_whatever_the_targets():
    profiles = torch.from_numpy(np.random.default_rng(0).normal(size=(13, 4)))
    targets = profile_targets(profiles, temperature=0.15)
    loss = soft_info_nce(torch.ones(13, 3), torch.ones(13, 3), temperature=0.15, targets=targets)
    torch.testing.assert_close(loss, torch.tensor(math.log(13)))


def test_targets_by_hand():
    # Three kinds of profile at right angles, the first twice, and a spot without any expression.
    profiles = torch.tensor([[2.0, 0, 0], [5.0, 0, 0], [0, 1.0, 0], [0, 0, 3.0], [0, 0, 0]])
    e = math.exp(1 / 0.5)
    rows = [
        np.array([e, e, 1, 1, 1]) / (2 * e + 3),
        np.array([e, e, 1, 1, 1]) / (2 * e + 3),
        np.array([1, 1, e, 1, 1]) / (e + 4),
        np.array([1, 1, 1, e, 1]) / (e + 4),
        np.full(5, 0.2),
    ]
    np.testing.assert_allclose(profile_targets(profiles, temperature=0.5).numpy(), np.stack(rows), rtol=1e-6)


def test_a_pair_that_is_left_out_costs_nothing():
    """Rows 0 and 1 are equal: each is the other's best match, which is no fault where they are neighbours."""
    a = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    without = torch.zeros(3, 3, dtype=torch.bool)
    without[0, 1] = without[1, 0] = True
    far = math.exp(-1 / 0.1)  # of a row at a right angle, beside the partner
    expected = (2 * math.log(1 + far) + math.log(1 + 2 * far)) / 3
    loss = soft_info_nce(a.double(), a.double(), temperature=0.1, is_left_out=without)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_loss_is_float32_under_autocast():
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(rng.normal(size=(13, 5))).float() for _ in range(2))
    expected = soft_info_nce(a, b, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = soft_info_nce(a, b, temperature=0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert soft_info_nce(a.bfloat16(), b.bfloat16(), temperature=0.1).dtype == torch.float32


@pytest.mark.parametrize(
    ("n", "change", "words"),
    [
        (1, {}, r"1 row\(s\), but a contrast needs at least 2 \(--batch-size\)"),
        (3, {"temperature": 0.0}, r"temperature=0.0.*positive \(--temperature\)"),
        (3, {"mixing": 1.5}, r"mixing=1.5.*in \[0, 1\] \(--mixing\)"),
        (3, {"is_left_out": torch.eye(3, dtype=torch.bool)}, r"left out of its own row.*keep its partner"),
        (3, {"temperature": -1.0, "mixing": -1.0}, r"temperature=-1.0.*mixing=-1.0"),
    ],
)
def test_settings_outside_their_range_are_refused(n, change, words):
    with pytest.raises(ConfigError, match=words):
        soft_info_nce(torch.ones(n, 2), torch.ones(n, 2), **{"temperature": 0.1, **change})
