"""Weights of the predictors, prototypes of ten or more spots, and the fall-back to the ridge far from the training images."""

import itertools

import numpy as np
import pytest
from scipy.stats import pearsonr

from spam.models.checkpoint import from_tensors, to_tensors
from spam.models.reliability import fit_appearance
from spam.models.stacking import (
    KINDS,
    Products,
    Prototypes,
    Stack,
    choose_weights,
    fit_prototypes,
    similar_spots,
    stacked,
    stacked_inflation,
    stacked_log_rate,
)

N, Q, G = 83, 7, 5


def inputs_and_expression(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(n, Q))
    expression = np.sin(inputs[:, :1]) * rng.normal(size=G) + 0.1 * rng.normal(size=(n, G))
    return inputs, (expression - expression.mean(axis=0)).astype(np.float32)


@pytest.mark.parametrize(("n", "smallest"), [(83, 10), (20, 10), (19, 10), (3, 10), (61, 3), (1, 10)])
def test_groups_of_similar_spots_are_disjoint_and_never_small(n: int, smallest: int) -> None:
    groups = similar_spots(np.random.default_rng(n).normal(size=(n, Q)), smallest)
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(n))
    assert all(min(n, smallest) <= len(rows) < max(2 * smallest, n + 1) for rows in groups)


def test_groups_follow_the_largest_differences() -> None:
    """Four well separated clouds of 10 spots are the four groups."""
    rng = np.random.default_rng(0)
    corners = np.array([[0.0, 0.0], [0.0, 40.0], [300.0, 0.0], [300.0, 40.0]])
    label = rng.permutation(np.repeat(np.arange(4), 10))
    groups = similar_spots(corners[label] + rng.normal(size=(40, 2)), 10)
    assert sorted(sorted(label[rows]) for rows in groups) == [[i] * 10 for i in range(4)]


def test_identical_images_are_divided_too() -> None:
    assert sorted(map(len, similar_spots(np.zeros((40, 3)), 10))) == [10, 10, 10, 10]


def test_prototypes_minimise_the_penalised_error_of_a_kernel_expansion() -> None:
    """The gradient of |y - K w|^2 + 3 w'K_cc w, written as loops over pairs, is zero at the coefficients."""
    inputs, y = inputs_and_expression()
    fitted = fit_prototypes(inputs, y)
    centres = [inputs[rows].mean(axis=0) for rows in similar_spots(inputs, 10)]
    np.testing.assert_allclose(fitted.centres, centres)
    gamma = 0.5 / (Q * inputs.var())

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([[np.exp(-gamma * ((x - c) ** 2).sum()) for c in b] for x in a])

    k, between = kernel(inputs, fitted.centres), kernel(fitted.centres, fitted.centres)
    w = fitted.coefficients
    gradient = -k.T @ (y - k @ w) + 3.0 * (between @ w)
    assert np.abs(gradient).max() < 1e-4 * np.abs(k.T @ y).max()
    np.testing.assert_allclose(fitted.predict(inputs), k @ w, atol=1e-12)
    assert fitted.predict(inputs[:0]).shape == (0, G)
    again = from_tensors(Prototypes, to_tensors(fitted, "prototypes"), "prototypes")
    np.testing.assert_array_equal(again.predict(inputs), fitted.predict(inputs))


def test_there_are_few_prototypes() -> None:
    """At most one in ten spots, so that they cannot be solved for the expression of the spots; at most 512."""
    for n in (N, 11_000):
        assert len(fit_prototypes(*inputs_and_expression(n)).centres) <= min(n // 10, 512)


def sections(seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predictions of the three kinds, (3, n, g), and measurements, of two sections."""
    rng = np.random.default_rng(seed)
    found = []
    for n in (31, 47):
        truth = rng.normal(size=(n, G))
        noise = rng.normal(size=(len(KINDS), n, G)) * np.array([0.8, 1.1, 0.9])[:, None, None]
        found.append(((truth + noise).astype(np.float32), truth.astype(np.float32)))
    return found


def test_the_weights_correlate_best_of_all_multiples_of_a_tenth() -> None:
    parts = sections()

    def score(weights: tuple[float, ...]) -> float:
        mixed = [np.tensordot(weights, x, axes=1) for x, _ in parts]
        return float(
            np.mean(
                [
                    [pearsonr(p[:, g], y[:, g])[0] for g in range(G)]
                    for p, (_, y) in zip(mixed, parts, strict=True)
                ]
            )
        )

    grid = [w for w in itertools.product(np.arange(11) / 10, repeat=3) if abs(sum(w) - 1) < 1e-9]
    best = max(grid, key=score)
    products = [Products.of(x, y) for x, y in parts]
    np.testing.assert_allclose(choose_weights(products, are_new_donors=True), best)
    leaning = 0.8 * np.array(best) + [0.2, 0.0, 0.0]
    np.testing.assert_allclose(choose_weights(products, are_new_donors=False), leaning)
    for weights in grid[::7]:
        assert np.mean([p.pearson(np.array(weights)) for p in products]) == pytest.approx(
            score(weights), abs=1e-6
        )
    assert len(grid) == 66
    assert min(best) > 0  # independent errors: each kind helps


def test_equal_predictors_leave_the_ridge_alone_and_a_constant_gene_counts_as_zero() -> None:
    truth = np.random.default_rng(0).normal(size=(29, G)).astype(np.float32)
    same = np.repeat(truth[None], 3, axis=0)
    assert choose_weights([Products.of(same, truth)], are_new_donors=True).tolist() == [1, 0, 0]
    truth[:, 0] = 1.0
    assert Products.of(same, truth).pearson(np.ones(3) / 3) == pytest.approx((G - 1) / G)
    nothing = np.zeros_like(same)
    assert Products.of(nothing, truth).pearson(np.ones(3) / 3) == 0


def test_far_from_the_training_images_only_the_ridge_is_left() -> None:
    stack = Stack(weights=np.array([0.2, 0.1, 0.7]), reach=0.6)
    for distance, expected in (
        (0.3, [0.2, 0.1, 0.7]),
        (0.6, [0.2, 0.1, 0.7]),
        (0.75, [0.6, 0.05, 0.35]),
        (0.9, [1, 0, 0]),
        (2.0, [1, 0, 0]),
        (np.nan, [0.2, 0.1, 0.7]),
    ):
        np.testing.assert_allclose(stack.weights_at(distance), expected, atol=1e-12)
    alone = Stack(weights=stack.weights, reach=np.inf)
    assert alone.weights_at(5.0).tolist() == [0.2, 0.1, 0.7]


def test_the_sum_and_its_rate_at_weights_written_out() -> None:
    rng = np.random.default_rng(1)
    patterns = rng.normal(size=(3, N, G)).astype(np.float32)
    weights = np.array([0.5, 0.2, 0.3])
    expected = 0.5 * patterns[0] + 0.2 * patterns[1] + 0.3 * patterns[2]
    np.testing.assert_allclose(stacked(patterns, weights), expected, atol=1e-6)
    expression = rng.uniform(0.5, 3.0, (N, G)).astype(np.float32)
    correction, offsets = (
        rng.normal(size=(N, G)).astype(np.float32),
        rng.normal(size=(2, G)).astype(np.float32),
    )
    log_rate = stacked_log_rate(expression, correction, offsets, weights)
    # Expression of .5 and more is hardly changed by the soft floor at zero.
    expected = np.log(np.expm1(expression)) + 0.3 * correction + 0.7 * offsets[0] + 0.3 * offsets[1]
    np.testing.assert_allclose(log_rate, expected, atol=2e-5)
    np.testing.assert_allclose(stacked_inflation(correction, weights), 0.3 * correction, atol=1e-6)


def test_reach_is_the_distance_of_the_farthest_left_out_section() -> None:
    """Three sections of two donors; distances to the fifth nearest spot of the other donor, by a loop."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(90, 9)).astype(np.float32)
    section, donor = np.repeat([0, 1, 2], 30), np.repeat([0, 0, 1], 30)
    features[section == 2] += 0.8
    bank = fit_appearance(features, section, section)
    medians = []
    for s in range(3):
        others = bank.bank[donor != donor[section == s][0]]
        fifth = [np.sort(np.linalg.norm(others - x, axis=1))[4] for x in bank.bank[section == s]]
        medians.append(np.median(fifth) / bank.unit)
    assert bank.reach(donor, section) == pytest.approx(max(medians), rel=1e-5)
    assert (
        bank.reach(np.zeros(90, dtype=int), section) == np.inf
    )  # nothing to compare with: the weights always hold
