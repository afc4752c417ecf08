import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from spam.models.reliability import AppearanceBank, fit_appearance
from spam.schemas.training_config import FinetuneConfig
from spam.training.dataset import TrainingSet, build_training_set


@pytest.fixture(scope="module")
def data(cohort: Path) -> TrainingSet:
    """Three sections of 37, 39 and 41 spots with 24 features."""
    config = FinetuneConfig(store=cohort, sections=("S1", "S2", "S3"), save_dir=cohort.parent / "none")
    return build_training_set(config)


def with_features(data: TrainingSet, features: np.ndarray) -> TrainingSet:
    """The same spots with other images."""
    parts = np.split(features.astype(np.float32), np.cumsum([s.n_spots for s in data.spots])[:-1])
    spots = tuple(dataclasses.replace(s, features=part) for s, part in zip(data.spots, parts, strict=True))
    return dataclasses.replace(data, spots=spots)


def fifth(points: np.ndarray, queries: np.ndarray) -> np.ndarray:
    return NearestNeighbors(n_neighbors=5).fit(points).kneighbors(queries)[0][:, 4]


def test_distances_are_those_of_scaled_features_in_units_of_what_a_left_out_section_shows(
    data: TrainingSet,
) -> None:
    # 24 features have 24 components: nothing is left out, and a rotation changes no distance.
    bank = fit_appearance(data)
    features = np.concatenate([s.features for s in data.spots])
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    section = data.section_of
    left_out = [fifth(scaled[section != s], scaled[section == s]) for s in range(3)]
    unit = np.quantile(np.concatenate(left_out), 0.99)
    assert bank.unit == pytest.approx(unit, rel=1e-5)
    new = np.random.default_rng(0).normal(size=(19, 24)).astype(np.float32)
    everything = np.ones(len(features), dtype=bool)
    expected = fifth(scaled, scaler.transform(new)) / unit
    np.testing.assert_allclose(bank.distance(new, everything), expected, rtol=1e-4)
    own = bank.distance(data.spots[1].features, section != 1)
    np.testing.assert_allclose(own, left_out[1] / unit, rtol=1e-4)
    kept = AppearanceBank.from_tensors(bank.to_tensors())
    np.testing.assert_array_equal(kept.distance(new, everything), bank.distance(new, everything))


def test_one_spot_in_a_hundred_of_the_left_out_sections_is_flagged(data: TrainingSet) -> None:
    bank = fit_appearance(data)
    flagged = [bank.distance(s.features, data.section_of != i) > 1 for i, s in enumerate(data.spots)]
    assert np.concatenate(flagged).sum() == 2  # of 117: those above the .99 quantile


def test_what_training_images_never_do_is_seen_however_little_they_vary(data: TrainingSet) -> None:
    """Features in which training varies along 40 directions, and new tissue along one more."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(67, 67)))[0]
    features = rng.normal(size=(117, 40)) @ axes[:40] + 0.01 * rng.normal(size=(117, 67))
    bank = fit_appearance(with_features(data, features))
    assert bank.bank.shape == (117, 33)
    everything = np.ones(117, dtype=bool)
    like = rng.normal(size=(211, 40)) @ axes[:40] + 0.01 * rng.normal(size=(211, 67))
    assert (bank.distance(like.astype(np.float32), everything) > 1).mean() < 0.1
    foreign = like + 12 * axes[50]
    assert (bank.distance(foreign.astype(np.float32), everything) > 1).mean() > 0.9


def test_a_global_shift_is_seen_and_one_odd_training_spot_does_not_make_its_like_familiar(
    data: TrainingSet,
) -> None:
    features = np.concatenate([s.features for s in data.spots])
    odd = features.mean(axis=0) + 20 * features.std(axis=0)
    for n_odd, is_familiar in ((1, False), (5, True)):
        features[:n_odd] = odd
        bank = fit_appearance(with_features(data, features))
        bank = dataclasses.replace(bank, unit=fit_appearance(data).unit)  # they widen the unit, too
        found = bank.distance(odd[None], np.ones(117, dtype=bool))
        assert (found[0] < 1e-3) == is_familiar
    shifted = data.spots[2].features + 6 * features[5:].std(axis=0)
    assert (fit_appearance(data).distance(shifted, np.ones(117, dtype=bool)) > 1).all()


def test_few_or_no_spots_to_compare_with_and_images_that_are_all_the_same(data: TrainingSet) -> None:
    bank = fit_appearance(data)
    new = data.spots[0].features[:3]
    two = np.zeros(117, dtype=bool)
    two[[50, 60]] = True
    points = bank.bank[two].astype(np.float64)
    own = bank.bank[:3].astype(np.float64)
    farthest = np.linalg.norm(own[:, None] - points, axis=2).max(axis=1)
    np.testing.assert_allclose(bank.distance(new, two), farthest / bank.unit, rtol=1e-5)
    assert np.isnan(bank.distance(new, np.zeros(117, dtype=bool))).all()
    same = fit_appearance(with_features(data, np.ones((117, 24))))
    found = same.distance(
        np.stack([np.ones(24), np.full(24, 1.5)]).astype(np.float32), np.ones(117, dtype=bool)
    )
    assert (found > 1).tolist() == [False, True]


def test_spots_without_counts_are_not_in_the_bank(data: TrainingSet) -> None:
    totals = data.totals.copy()
    totals[[0, 40]] = 0
    bank = fit_appearance(dataclasses.replace(data, totals=totals))
    assert len(bank.bank) == 115
