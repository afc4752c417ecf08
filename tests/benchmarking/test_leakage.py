"""What the two sides of a fold share is found, told, or refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from benchmark_lab import make_store

from spam.evaluation.folds import FoldSides
from spam.evaluation.folds import Fold
from spam.benchmarking.leakage import FoldLeakage, find_leakage
from spam.evaluation.folds import describe_leakage, refuse_adapted
from spam.errors import ConfigError
from spam.store import open_store
from spam.training.cohort import FeatureChoice, SpotData, choose_features, read_spots


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, SpotData], FeatureChoice]:
    store: Path = make_store(tmp_path_factory.mktemp("lab") / "c.zarr")
    sections = [open_store(store).section(name) for name in ("S1", "S2", "S3", "S4")]
    features = choose_features(sections, None, ())
    return {s.meta.name: read_spots(s, features.keys, k=5) for s in sections}, features


def sides(spots: dict[str, SpotData], train: tuple[str, ...], test: tuple[str, ...]) -> FoldSides:
    fold = Fold(name="f", train=train, test=test)
    return FoldSides(
        fold=fold, train=tuple(spots[name] for name in train), test=tuple(spots[name] for name in test)
    )


def test_near_duplicates_by_brute_force(lab) -> None:
    spots, _ = lab
    rng = np.random.default_rng(0)
    copied = spots["S3"].features.copy()
    copied[[2, 5, 11]] = spots["S1"].features[[3, 3, 7]] * [[1.0], [2.0], [0.5]]
    copied[17] = spots["S2"].features[1] + rng.normal(0, 0.01, copied.shape[1])
    changed = {**spots, "S3": dataclasses.replace(spots["S3"], features=copied.astype(np.float32))}
    found = find_leakage(sides(changed, ("S1", "S2"), ("S3", "S4")))

    def share(test: str) -> float:
        bank = [x for name in ("S1", "S2") for x in changed[name].features.astype(float)]
        near = [
            any(x @ y / np.sqrt((x @ x) * (y @ y)) > 0.999 for y in bank)
            for x in changed[test].features.astype(float)
        ]
        return sum(near) / len(near)

    assert found.near_duplicates == {"S3": share("S3"), "S4": share("S4")}
    assert found.near_duplicates["S3"] >= 4 / 45
    assert f"{share('S3'):.1%} of the spots of S3 look almost exactly" in " ".join(found.sentences())


def test_donors_on_both_sides_are_told(lab) -> None:
    spots, _ = lab
    assert find_leakage(sides(spots, ("S1", "S3"), ("S2", "S4"))).shared_donors == ("a", "b")
    assert find_leakage(sides(spots, ("S1", "S3", "S4"), ("S2",))).shared_donors == ("a",)
    assert find_leakage(sides(spots, ("S1", "S2"), ("S3", "S4"))).shared_donors == ()
    nameless = {name: dataclasses.replace(s, donor=None) for name, s in spots.items()}
    found = find_leakage(sides(nameless, ("S1",), ("S2",)))
    assert (found.shared_donors, found.unknown_donors) == ((), ("S1", "S2"))
    (line,) = leakage(unknown_donors=("S1", "S2")).sentences()
    assert line.startswith("nobody said of which donor S1, S2 are (spam embed --donor)")


def leakage(**changes: object) -> FoldLeakage:
    plain = {
        "fold": "f",
        "shared_donors": (),
        "unknown_donors": (),
        "near_duplicates": {"S1": 0.0},
        "n_dropped": 0,
        "buffer": 0.0,
    }
    return FoldLeakage(**{**plain, "unit": "µm", **changes})


def test_sentences() -> None:
    assert leakage().sentences() == []
    (line,) = leakage(shared_donors=("a", "b")).sentences()
    assert "donor a, b is on both sides" in line
    assert "says nothing about other donors" in line
    (line,) = leakage(shared_donors=("a",), buffer=317.4, n_dropped=23).sentences()
    assert "at least 317 µm" in line
    assert "23 spots" in line


def test_what_several_folds_share_is_said_once() -> None:
    found = [
        leakage(fold="S1", shared_donors=("a",)),
        leakage(fold="S2"),
        leakage(fold="S3", shared_donors=("a",)),
    ]
    assert describe_leakage(found) == [f"S1, S3: {found[0].sentences()[0]}"]


def test_an_encoder_that_has_seen_counts_of_a_test_section_is_refused(lab) -> None:
    _, features = lab
    folds = [Fold(name="a", train=("S2",), test=("S1",)), Fold(name="b", train=("S1",), test=("S2",))]
    refuse_adapted(folds, features)
    refuse_adapted(folds, dataclasses.replace(features, adapted_on=("S3",)))
    adapted = dataclasses.replace(features, adapted_on=("S3", "S2"))
    with pytest.raises(
        ConfigError, match=r"tiny_112um, tiny_224um was adapted on the counts of S2, .*--test-sections"
    ):
        refuse_adapted(folds, adapted)
    refuse_adapted(folds[:1], adapted)  # seen in training: that is what training is
