import numpy as np
import pytest

from spam.errors import ConfigError
from spam.simulation.frame import Frame


def test_frame_holds_the_points_with_their_margin() -> None:
    xy_um = np.array([[-50.0, 10.0], [33.0, 70.0]])
    frame = Frame.around(xy_um, margin_um=20.0, mpp=0.5)
    assert (frame.width_px, frame.height_px) == (246, 200)  # (83 + 40) / 0.5 and (60 + 40) / 0.5
    np.testing.assert_allclose(frame.to_px(xy_um), [[40.0, 40.0], [206.0, 160.0]])
    assert frame.reach_um == 90.0  # the lower edge: 70 + 20


def test_resampling_a_plane_gives_the_plane_at_the_pixel_centres() -> None:
    frame = Frame(x_um=-13.0, y_um=7.0, width_px=47, height_px=31, mpp=2.0)
    grid = frame.grid(5.0)
    plane = 3.0 + 0.5 * grid[..., 0] - 0.25 * grid[..., 1]
    x = -13.0 + 2.0 * (np.arange(47) + 0.5)
    y = 7.0 + 2.0 * (np.arange(31) + 0.5)
    expected = 3.0 + 0.5 * x - 0.25 * y[:, None]
    resampled = frame.resample(plane, 5.0)
    assert resampled.shape == (31, 47)
    inner = (slice(2, -2), slice(2, -2))  # beyond the outermost grid centres the edge value is held
    np.testing.assert_allclose(resampled[inner], expected[inner], atol=1e-3)


def test_too_large_an_image_is_refused_with_what_to_change() -> None:
    with pytest.raises(ConfigError, match=r"9401 x 1 pixels.*9400 a side.*--mpp \(not 1\).*--n-spots"):
        Frame.around(np.array([[0.0, 0.0], [9401.0, 1.0]]), margin_um=0.0, mpp=1.0)
