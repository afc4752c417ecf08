import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from spam.errors import ConfigError
from spam.schemas.simulate_config import SimulateConfig
from spam.simulation import SimulatedSection, simulate_section
from spam.simulation.morphology import KINDS


def config(**values: object) -> SimulateConfig:
    defaults = {"n_spots": 151, "n_genes": 53, "mpp": 2.0}
    return SimulateConfig(out_dir=Path("unused"), **{**defaults, **values})


@pytest.fixture(scope="module")
def sections() -> list[SimulatedSection]:
    return [
        simulate_section(config(n_programmes=3), donor=donor, section=section)
        for donor in range(2)
        for section in range(3)
    ]


def tile_features(section: SimulatedSection, side_px: int = 28) -> np.ndarray:
    """Mean, spread and dark tail of each colour in the square around each spot."""
    features = []
    for x, y in np.rint(section.xy_px).astype(int):
        rows, columns = (slice(max(c - side_px, 0), c + side_px) for c in (y, x))
        pixels = section.image[rows, columns].reshape(-1, 3).astype(float)
        features.append(
            np.concatenate([pixels.mean(0), pixels.std(0), np.percentile(pixels, (3, 97), axis=0).ravel()])
        )
    return np.array(features)


def test_sizes_and_names(sections: list[SimulatedSection]) -> None:
    section = sections[4]
    assert (section.name, section.donor) == ("D2S2", "D2")
    assert section.counts.shape == section.rates.shape == (151, 53)
    assert section.programme_names == ("tumour", "stroma", "immune")
    assert len(set(section.ids)) == 151
    row, column = section.row_col[5]
    assert section.ids[5] == f"D2S2_{column}x{row}"
    assert (section.xy_px > 0).all()
    assert (section.xy_px < section.image.shape[1::-1]).all()
    np.testing.assert_allclose(section.rates.sum(axis=1), 1.0)
    # Neighbours in a row lie one pitch apart: 100 µm are 50 px.
    same_row = section.row_col[:-1, 0] == section.row_col[1:, 0]
    steps = np.diff(section.xy_px, axis=0)[same_row]
    columns = np.diff(section.row_col, axis=0)[same_row, 1]
    np.testing.assert_allclose(steps[:, 0], 25.0 * columns, atol=0.011)
    np.testing.assert_allclose(steps[:, 1], 0.0, atol=0.011)


def test_spots_lie_on_tissue_and_the_corners_on_glass(sections: list[SimulatedSection]) -> None:
    for section in sections:
        saturation = section.image.max(axis=2).astype(int) - section.image.min(axis=2)
        corners = np.stack([saturation[:15, :15], saturation[-15:, -15:]])
        assert corners.mean() < 12
        assert np.median([saturation[y, x] for x, y in section.xy_px.astype(int)]) > 25


def test_counts_scatter_about_the_true_rates(sections: list[SimulatedSection]) -> None:
    for section in sections:
        mean = section.depths[:, None] * section.rates
        z = (section.counts - mean).sum() / np.sqrt((mean + mean**2 / 5.0).sum())
        assert abs(z) < 4
        by_gene = (section.counts - mean).sum(axis=0) / np.sqrt((mean + mean**2 / 5.0).sum(axis=0))
        assert np.abs(by_gene).max() < 5


@pytest.mark.parametrize("programme", [0, 1, 2])
def test_image_tells_the_programmes_of_another_donor(
    sections: list[SimulatedSection], programme: int
) -> None:
    # Ridge on plain colours knows nothing of how the image was drawn; stains differ between the donors.
    features = [tile_features(section) for section in sections]
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
    truth = [section.programmes[:, programme] for section in sections]
    model.fit(np.concatenate(features[:3]), np.concatenate(truth[:3]))
    for features_there, truth_there in zip(features[3:], truth[3:], strict=True):
        r = np.corrcoef(model.predict(features_there), truth_there)[0, 1]
        assert r > 0.5


def test_without_signal_rates_are_the_same_in_every_spot() -> None:
    section = simulate_section(config(signal=0.0, n_spots=31))
    np.testing.assert_allclose(section.rates, np.tile(section.rates[0], (31, 1)), rtol=1e-12)
    assert (section.programmes.std(axis=0) > 0).all()
    expected = np.exp(section.base + section.donor_effect + section.section_effect)
    np.testing.assert_allclose(section.rates[0], expected / expected.sum())


def test_hidden_patterns_are_no_part_of_the_image() -> None:
    small = {"n_spots": 31, "n_genes": 97, "signal": 0.0}
    plain, hidden = simulate_section(config(**small)), simulate_section(config(**small, hidden=0.6))
    np.testing.assert_array_equal(plain.image, hidden.image)
    np.testing.assert_array_equal(plain.programmes, hidden.programmes)
    # Log-rates move by the stated spread; what they share is the library that they add up to.
    moved = np.log(hidden.rates) - np.log(plain.rates)
    moved -= moved.mean(axis=1, keepdims=True)
    assert moved.std() == pytest.approx(0.6, rel=0.1)
    other = simulate_section(config(**small, hidden=0.6), section=1)
    again = np.log(other.rates) - np.log(simulate_section(config(**small), section=1).rates)
    assert abs(np.corrcoef(moved[0], again[0])[0, 1]) < 4 / np.sqrt(97)


def test_effects_have_their_spread_and_belong_to_donor_and_section() -> None:
    small = config(n_spots=2, n_genes=5003, donor_effect=0.4, section_effect=0.15, signal=0.0)
    first, second = (simulate_section(small, donor=0, section=number) for number in (0, 1))
    other = simulate_section(small, donor=1, section=0)
    np.testing.assert_array_equal(first.donor_effect, second.donor_effect)
    error = 4 / np.sqrt(2 * 5003)
    assert first.donor_effect.std() == pytest.approx(0.4, rel=error)
    assert first.section_effect.std() == pytest.approx(0.15, rel=error)
    for a, b in [
        (first.donor_effect, other.donor_effect),
        (first.section_effect, second.section_effect),
        (first.section_effect, other.section_effect),
        (first.donor_effect, first.section_effect),
        (first.base, first.donor_effect),
    ]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(5003)


def same(a: SimulatedSection, b: SimulatedSection) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a)
    )


def test_same_seed_gives_the_same_section_whatever_the_cohort() -> None:
    small = {"n_spots": 13, "n_genes": 7}
    section = simulate_section(config(**small), donor=1, section=0)
    assert same(section, simulate_section(config(**small, n_donors=17, n_sections=1), donor=1, section=0))
    assert not same(section, simulate_section(config(**small, seed=1), donor=1, section=0))
    assert not same(section, simulate_section(config(**small), donor=0, section=1))


@pytest.mark.parametrize(
    "change",
    [
        *({"signal": 0.3}, {"donor_effect": 0.9}, {"section_effect": 0.9}, {"depth": 9.0}, {"theta": 0.5}),
        *({"null_share": 0.5}, {"hidden": 0.5}),
        *({"n_programmes": 2}, {"n_genes": 11}, {"seed": 5}, {"pitch_um": 61.0}, {"n_spots": 17}),
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_option_changes_the_counts(change: dict[str, float]) -> None:
    small = {"n_spots": 13, "n_genes": 7}
    plain = simulate_section(config(**small))
    changed = simulate_section(config(**{**small, **change}))
    assert not np.array_equal(plain.counts, changed.counts)


def test_resolution_changes_the_image_and_not_the_truth() -> None:
    coarse, fine = (simulate_section(config(n_spots=19, n_genes=7, mpp=mpp)) for mpp in (2.0, 0.8))
    np.testing.assert_array_equal(coarse.counts, fine.counts)
    np.testing.assert_allclose(coarse.xy_px * 2.0, fine.xy_px * 0.8, atol=0.02)
    assert fine.image.shape[0] == pytest.approx(coarse.image.shape[0] * 2.5, abs=3)
    # The same tissue: colours averaged over squares of 80 µm agree.
    blocks = []
    for image, side in ((coarse.image, 40), (fine.image, 100)):
        n_rows, n_columns = (size // side for size in image.shape[:2])
        cut = image[: n_rows * side, : n_columns * side].reshape(n_rows, side, n_columns, side, 3)
        blocks.append(cut.mean(axis=(1, 3)).ravel())
    n = min(map(len, blocks))
    assert np.corrcoef(blocks[0][:n], blocks[1][:n])[0, 1] > 0.9


def test_one_spot_and_one_gene() -> None:
    section = simulate_section(config(n_spots=1, n_genes=1))
    np.testing.assert_array_equal(section.rates, [[1.0]])
    assert section.counts.shape == (1, 1)
    assert section.row_col.tolist() == [[0, 0]]


def test_more_programmes_than_tissues_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=rf"--n-programmes is 7.*only {len(KINDS)} kinds.*tumour.*at most 6"
    ):
        simulate_section(config(n_programmes=7))


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="--seed must not be negative, not -1"):
        simulate_section(config(seed=-1))
