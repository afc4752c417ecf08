import numpy as np
import pytest

from spam.simulation import stamping
from spam.simulation.stamping import stamp_ellipses


def slow_stamp(shape, xy, diameters, angle, strength, rim):
    """Every pixel of every ellipse, one by one."""
    canvas = np.zeros(shape)
    for (cx, cy), (long_px, short_px), turn, power in zip(xy, diameters, angle, strength, strict=True):
        for row in range(shape[0]):
            for column in range(shape[1]):
                x, y = column + 0.5 - cx, row + 0.5 - cy
                along = (x * np.cos(turn) + y * np.sin(turn)) / (long_px / 2)
                across = (y * np.cos(turn) - x * np.sin(turn)) / (short_px / 2)
                radius = np.sqrt(along**2 + across**2)
                cover = min(max((1 - radius) * (long_px + short_px) / 4 + 0.5, 0), 1)
                value = power * cover * (1 - rim + rim * min(radius, 1) ** 2)
                canvas[row, column] = max(canvas[row, column], value)
    return canvas


@pytest.mark.parametrize("rim", [0.0, 0.35])
@pytest.mark.parametrize("pixels_at_once", [1, 4_000_000])
def test_ellipses_match_a_slow_loop_also_across_the_border(rim, pixels_at_once, monkeypatch) -> None:
    monkeypatch.setattr(stamping, "_PIXELS_AT_ONCE", pixels_at_once)  # one ellipse a batch, or all
    rng = np.random.default_rng(5)
    xy = np.concatenate([rng.uniform(-3, 33, (11, 2)), [[-40.0, 5.0]]])  # the last lies outside
    diameters = np.sort(rng.uniform(1, 11, (12, 2)))[:, ::-1]
    angle, strength = rng.uniform(0, np.pi, 12), rng.uniform(0.2, 1.3, 12)
    canvas = np.zeros((23, 31), dtype=np.float32)
    stamp_ellipses(canvas, xy, diameters, angle, strength, rim=rim)
    expected = slow_stamp((23, 31), xy, diameters, angle, strength, rim)
    assert (expected > 0).mean() > 0.1
    np.testing.assert_allclose(canvas, expected, atol=1e-5)  # float32


def test_large_disc_has_the_area_of_a_disc() -> None:
    canvas = np.zeros((101, 103), dtype=np.float32)
    stamp_ellipses(canvas, np.array([[51.3, 50.1]]), np.array([[60.0, 60.0]]), np.zeros(1), np.ones(1))
    assert canvas.sum() == pytest.approx(np.pi * 30**2, rel=5e-3)


def test_no_ellipse_leaves_the_canvas_alone() -> None:
    canvas = np.full((3, 5), 0.25, dtype=np.float32)
    stamp_ellipses(canvas, np.empty((0, 2)), np.empty((0, 2)), np.empty(0), np.empty(0))
    np.testing.assert_array_equal(canvas, 0.25)


def test_stronger_marks_are_kept() -> None:
    canvas = np.full((11, 13), 0.5, dtype=np.float32)
    disc = (np.array([[6.5, 5.5]]), np.array([[5.0, 5.0]]), np.zeros(1))
    stamp_ellipses(canvas, *disc, np.array([0.3]))
    np.testing.assert_array_equal(canvas, 0.5)
    stamp_ellipses(canvas, *disc, np.array([0.9]))
    assert canvas[5, 6] == pytest.approx(0.9)
