"""The drawn image: ellipses against a slow loop, resampling, and the information in the image."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from spam.errors import ConfigError
from spam.schemas.simulate_config import SimulateConfig
from spam.simulation import SimulatedSection, histology, simulate_section
from spam.simulation.histology import Frame, stamp_ellipses


def slow_stamp(shape, xy, diameters, angle, strength):
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
                canvas[row, column] = max(canvas[row, column], power * cover)
    return canvas


@pytest.mark.parametrize("pixels_at_once", [1, 4_000_000])
def test_ellipses_match_a_slow_loop_also_across_the_border(pixels_at_once, monkeypatch) -> None:
    monkeypatch.setattr(histology, "_PIXELS_AT_ONCE", pixels_at_once)  # one ellipse per batch, or all
    rng = np.random.default_rng(5)
    xy = np.concatenate([rng.uniform(-3, 33, (11, 2)), [[-40.0, 5.0]]])  # the last lies outside
    diameters = np.sort(rng.uniform(1, 11, (12, 2)))[:, ::-1]
    angle, strength = rng.uniform(0, np.pi, 12), rng.uniform(0.2, 1.3, 12)
    canvas = np.zeros((23, 31), dtype=np.float32)
    stamp_ellipses(canvas, xy, diameters, angle, strength)
    expected = slow_stamp((23, 31), xy, diameters, angle, strength)
    assert (expected > 0).mean() > 0.1
    np.testing.assert_allclose(canvas, expected, atol=1e-5)  # float32
    stamp_ellipses(canvas, np.empty((0, 2)), np.empty((0, 2)), np.empty(0), np.empty(0))
    np.testing.assert_allclose(canvas, expected, atol=1e-5)


def test_frame_holds_the_points_with_their_margin() -> None:
    xy_um = np.array([[-50.0, 10.0], [33.0, 70.0]])
    frame = Frame.around(xy_um, margin_um=20.0, mpp=0.5)
    assert (frame.width_px, frame.height_px) == (246, 200)  # (83 + 40) / 0.5 and (60 + 40) / 0.5
    np.testing.assert_allclose(frame.to_px(xy_um), [[40.0, 40.0], [206.0, 160.0]])
    assert frame.reach_um == 90.0  # the lower edge: 70 + 20
    with pytest.raises(ConfigError, match=r"9401 x 1 pixels.*--mpp .*--n-spots"):
        Frame.around(np.array([[0.0, 0.0], [9401.0, 1.0]]), margin_um=0.0, mpp=1.0)


def test_resampling_a_plane_gives_the_plane_at_the_pixel_centres() -> None:
    frame = Frame(corner_um=np.array([-13.0, 7.0]), width_px=47, height_px=31, mpp=2.0)
    grid = frame.grid(5.0)
    plane = 3.0 + 0.5 * grid[..., 0] - 0.25 * grid[..., 1]
    x, y = -13.0 + 2.0 * (np.arange(47) + 0.5), 7.0 + 2.0 * (np.arange(31) + 0.5)
    resampled = frame.resample(plane, 5.0)
    assert resampled.shape == (31, 47)
    inner = (slice(2, -2), slice(2, -2))  # beyond the outermost grid centres the edge value is held
    np.testing.assert_allclose(resampled[inner], (3.0 + 0.5 * x - 0.25 * y[:, None])[inner], atol=1e-3)


def simulated(**values: object) -> SimulateConfig:
    return SimulateConfig(out_dir=Path("unused"), **{"n_spots": 151, "n_genes": 5, "mpp": 2.0, **values})


@pytest.fixture(scope="module")
def sections() -> list[SimulatedSection]:
    return [
        simulate_section(simulated(n_programmes=3), donor=d, section=s) for d in range(2) for s in range(3)
    ]


def tile_features(section: SimulatedSection, side_px: int = 28) -> np.ndarray:
    """Mean, spread and tails of each colour in the square around each spot."""
    features = []
    for x, y in np.rint(section.xy_px).astype(int):
        rows, columns = (slice(max(c - side_px, 0), c + side_px) for c in (y, x))
        pixels = section.image[rows, columns].reshape(-1, 3).astype(float)
        tails = np.percentile(pixels, (3, 97), axis=0).ravel()
        features.append(np.concatenate([pixels.mean(0), pixels.std(0), tails]))
    return np.array(features)


def test_spots_lie_on_tissue_and_the_corners_on_glass(sections: list[SimulatedSection]) -> None:
    for section in sections:
        saturation = section.image.max(axis=2).astype(int) - section.image.min(axis=2)
        corners = np.stack([saturation[:15, :15], saturation[-15:, -15:]])
        assert corners.mean() < 12
        assert np.median([saturation[y, x] for x, y in section.xy_px.astype(int)]) > 25


@pytest.mark.parametrize("programme", [0, 1, 2])
def test_the_image_tells_the_programmes_of_another_donor(
    sections: list[SimulatedSection], programme: int
) -> None:
    # Ridge on plain colours is independent of the drawing; stains differ between the donors.
    features = [tile_features(section) for section in sections]
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
    truth = [section.programmes[:, programme] for section in sections]
    model.fit(np.concatenate(features[:3]), np.concatenate(truth[:3]))
    for features_there, truth_there in zip(features[3:], truth[3:], strict=True):
        assert np.corrcoef(model.predict(features_there), truth_there)[0, 1] > 0.5


def test_resolution_changes_the_image_and_not_the_truth() -> None:
    coarse, fine = (simulate_section(simulated(n_spots=19, mpp=mpp)) for mpp in (2.0, 0.8))
    np.testing.assert_array_equal(coarse.counts, fine.counts)
    np.testing.assert_allclose(coarse.xy_px * 2.0, fine.xy_px * 0.8, atol=0.02)
    # The same tissue: colours averaged over squares of 80 µm agree.
    blocks = []
    for image, side in ((coarse.image, 40), (fine.image, 100)):
        n_rows, n_columns = (size // side for size in image.shape[:2])
        cut = image[: n_rows * side, : n_columns * side].reshape(n_rows, side, n_columns, side, 3)
        blocks.append(cut.mean(axis=(1, 3)))
    n_rows, n_columns = np.minimum(blocks[0].shape[:2], blocks[1].shape[:2])
    a, b = (block[:n_rows, :n_columns].ravel() for block in blocks)
    assert np.corrcoef(a, b)[0, 1] > 0.9
