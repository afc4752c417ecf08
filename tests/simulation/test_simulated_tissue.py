"""Lattice and outline of a section, and the random fields behind its mixture of tissues."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from spam.simulation.simulated_tissue import (
    KINDS,
    SmoothFields,
    TissueOutline,
    hexagonal_lattice,
    lay_spots,
    share_moments,
)

N_SECTIONS = 1201
SHARPNESS = 2.6
CORRELATION_UM = 220.0


@settings(max_examples=30, deadline=None)
@given(n_spots=st.integers(1, 131), pitch_um=st.sampled_from([7.0, 100.0]), seed=st.integers(0, 97))
def test_tissue_holds_exactly_the_requested_spots(n_spots: int, pitch_um: float, seed: int) -> None:
    outline, row_col, xy_um = lay_spots(n_spots, pitch_um, np.random.default_rng(seed))
    assert xy_um.shape == row_col.shape == (n_spots, 2)
    assert row_col.min(axis=0).tolist() == [0, 0]
    assert len({tuple(pair) for pair in row_col.tolist()}) == n_spots
    # The tissue ends half a pitch beyond its outermost spot, and every nearer lattice point holds a spot.
    radius_um = outline.radius_um(xy_um)
    np.testing.assert_allclose(outline.level_um, radius_um.max() + pitch_um / 2)
    _, lattice = hexagonal_lattice(pitch_um, 30 * pitch_um)
    assert (outline.radius_um(lattice) < radius_um.max()).sum() <= n_spots


def test_lattice_is_hexagonal() -> None:
    row_col, xy_um = hexagonal_lattice(100.0, 450.0)
    distances = squareform(pdist(xy_um))
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances[np.abs(xy_um).max(axis=1) < 300], axis=1)
    np.testing.assert_allclose(nearest[:, :6], 100.0)  # six neighbours, all at one pitch
    assert (nearest[:, 6] > 170).all()
    assert ((row_col.sum(axis=1) % 2) == 0).all()  # columns of a row differ by two, as in Visium


def test_lobes_divide_the_radius() -> None:
    angle = np.linspace(0, 2 * np.pi, 11, endpoint=False)
    circle = 250.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lobed = TissueOutline(amplitudes=np.array([0.2, 0, 0]), phases=np.zeros(3), level_um=250.0)
    np.testing.assert_allclose(lobed.radius_um(circle), 250.0 / (1 + 0.2 * np.cos(2 * angle)))


@pytest.fixture(scope="module")
def shares() -> np.ndarray:
    """Shares of many sections, at the origin and 131 µm away: (section, point, kind)."""
    rng = np.random.default_rng(7)
    points = np.array([[0.0, 0.0], [131.0, 0.0]])
    return np.stack([SmoothFields.draw(rng).shares(points) for _ in range(N_SECTIONS)])


def test_fields_are_standard_normal_with_the_closed_form_covariance(shares: np.ndarray) -> None:
    assert (shares > 0).all()
    np.testing.assert_allclose(shares.sum(axis=-1), 1.0, rtol=1e-12)
    # log(share_i / share_j) undoes the softmax: sharpness * (field_i - field_j + prevalence_i - prevalence_j).
    shift = KINDS[0].prevalence - KINDS[1].prevalence
    difference = np.log(shares[..., 0] / shares[..., 1]) / SHARPNESS - shift
    # Standard errors: mean sqrt(2 / n) = 0.041; variances of a normal 2 * sqrt(2 / n) = 0.082.
    assert abs(difference.mean(axis=0)).max() < 4 * 0.041
    np.testing.assert_allclose(difference.var(axis=0), 2.0, atol=4 * 0.082)
    expected = 2 * np.exp(-(131.0**2) / (2 * CORRELATION_UM**2))
    assert np.cov(difference.T)[0, 1] == pytest.approx(expected, abs=4 * 0.082)


def test_share_moments_match_those_of_simulated_sections(shares: np.ndarray) -> None:
    mean, covariance = share_moments()
    at_origin = shares[:, 0]
    error = 4 * at_origin.std(axis=0) / np.sqrt(N_SECTIONS)
    assert (np.abs(at_origin.mean(axis=0) - mean) < error).all()
    np.testing.assert_allclose(np.cov(at_origin.T), covariance, atol=0.015)  # 4 standard errors
    np.testing.assert_allclose(covariance.sum(axis=0), 0.0, atol=1e-12)  # shares sum to a constant


def test_fields_are_smooth_functions_of_the_position() -> None:
    points = np.array([[-50.0, 20.0], [-50.0, 151.0], [900.0, 900.0]])
    n = 4001
    fields = SmoothFields.draw(np.random.default_rng(9), n)
    patterns = fields.at(points)
    expected = np.exp(-(131.0**2) / (2 * CORRELATION_UM**2))
    close = np.array([[1.0, expected, 0.0], [expected, 1.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(patterns @ patterns.T / n, close, atol=4 * np.sqrt(2 / n))
    np.testing.assert_allclose(fields.at(points[1]), patterns[1], rtol=1e-9, atol=1e-12)
