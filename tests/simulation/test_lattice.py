import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from spam.simulation.lattice import hexagonal_lattice, lay_spots


@settings(max_examples=40, deadline=None)
@given(
    n_spots=st.integers(1, 131), pitch_um=st.sampled_from([7.0, 55.0, 100.0, 200.0]), seed=st.integers(0, 97)
)
def test_tissue_holds_exactly_the_spots_asked_for(n_spots: int, pitch_um: float, seed: int) -> None:
    outline, row_col, xy_um = lay_spots(n_spots, pitch_um, np.random.default_rng(seed))
    assert xy_um.shape == row_col.shape == (n_spots, 2)
    assert outline.contains(xy_um).all()
    assert row_col.min(axis=0).tolist() == [0, 0]
    assert len({tuple(pair) for pair in row_col.tolist()}) == n_spots
    # The tissue ends half a pitch beyond its outermost spot, and every nearer lattice point holds a spot.
    radius_um = outline.radius_um(xy_um)
    np.testing.assert_allclose(outline.level_um, radius_um.max() + pitch_um / 2)
    _, lattice = hexagonal_lattice(pitch_um, 30 * pitch_um)
    assert (outline.radius_um(lattice) < radius_um.max() - 1e-6).sum() <= n_spots


def test_lattice_is_hexagonal() -> None:
    row_col, xy_um = hexagonal_lattice(100.0, 450.0)
    distances = squareform(pdist(xy_um))
    np.fill_diagonal(distances, np.inf)
    inner = np.abs(xy_um).max(axis=1) < 300
    assert inner.sum() > 20
    nearest = np.sort(distances[inner], axis=1)
    np.testing.assert_allclose(nearest[:, :6], 100.0)  # six neighbours, all at one pitch
    assert (nearest[:, 6] > 170).all()
    assert ((row_col.sum(axis=1) % 2) == 0).all()  # columns of a row differ by two, as in Visium


def test_outline_is_a_disc_without_lobes() -> None:
    outline, _, _ = lay_spots(37, 100.0, np.random.default_rng(0))
    angle = np.linspace(0, 2 * np.pi, 11, endpoint=False)
    circle = 250.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    smooth = type(outline)(amplitudes=np.zeros(3), phases=np.zeros(3), level_um=250.0)
    np.testing.assert_allclose(smooth.radius_um(circle), 250.0)
    # With one lobe of two periods the radius is divided by 1 + a cos(2 angle).
    lobed = type(outline)(amplitudes=np.array([0.2, 0, 0]), phases=np.zeros(3), level_um=250.0)
    np.testing.assert_allclose(lobed.radius_um(circle), 250.0 / (1 + 0.2 * np.cos(2 * angle)))
