"""What could leak from training into test sections: refused where scores would be worthless, told where it may be meant."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from spam.errors import ConfigError
from spam.graphs import knn
from spam.training.cohort import FeatureChoice, SpotData

from .fold_sides import FoldSides
from .folds import Fold

__all__ = ["FoldLeakage", "describe_leakage", "find_leakage", "refuse_adapted"]

_NEAR_DUPLICATE = 0.999  # cosine; the same pixels lie above, pixels that were compressed anew from .985 up


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FoldLeakage:
    """What training and test sections of one fold have in common.

    Attributes
    ----------
    fold
        Name of the fold.
    shared_donors
        Donors with sections on both sides: their sections may be serial cuts of one block of tissue.
    unknown_donors
        Sections on either side of whom nobody said which donor they are of.
    near_duplicates
        Share of the spots of each test section whose features point almost the same way (cosine above 0.999) as those of
        a training spot.
    n_dropped
        Spots that were left out between the blocks of a lone section.
    buffer
        Least distance of training and test spots of a lone section, in `unit`; 0 between sections.
    unit
        Unit of `buffer`.
    """

    fold: str
    shared_donors: tuple[str, ...]
    unknown_donors: tuple[str, ...]
    near_duplicates: Mapping[str, float]
    n_dropped: int
    buffer: float
    unit: str

    def sentences(self) -> list[str]:
        """Say what a reader of the scores must know."""
        lines = []
        if self.buffer:
            lines.append(
                f"training spots lie at least {self.buffer:.0f} {self.unit} from test spots and are joined with none in the "
                f"graph; {self.n_dropped} spots between them are on neither side"
            )
        elif self.unknown_donors:
            lines.append(
                f"nobody said of which donor {', '.join(self.unknown_donors)} are (spam embed --donor): if one is on both "
                "sides, this says nothing about other donors, and serial sections of one block of tissue make it easy"
            )
        if self.shared_donors and not self.buffer:
            lines.append(
                f"donor {', '.join(self.shared_donors)} is on both sides, so this says nothing about other donors, and "
                "serial sections of one block of tissue make it easy"
            )
        lines += [
            f"{share:.1%} of the spots of {section} look almost exactly like a training spot (cosine above "
            f"{_NEAR_DUPLICATE}): check that the same tissue is not stored under two names"
            for section, share in self.near_duplicates.items()
            if share > 0
        ]
        return lines


def refuse_adapted(folds: Sequence[Fold], features: FeatureChoice) -> None:
    """Refuse features of an encoder that has seen counts of a test section.

    Raises
    ------
    ConfigError
        Naming the sections and what to do.
    """
    tested = dict.fromkeys(name for fold in folds for name in fold.test)
    seen = [name for name in tested if name in features.adapted_on]
    if seen:
        message = (
            f"the encoder of features {', '.join(features.keys)} was adapted on the counts of {', '.join(seen)}, which are "
            "test sections here, so every score on them would be too high; choose other features with --enc-name, or test on "
            "other sections with --train-sections and --test-sections"
        )
        raise ConfigError(message)


def find_leakage(sides: FoldSides) -> FoldLeakage:
    """Compare the two sides of a fold."""
    train_donors = {spots.donor for spots in sides.train}
    donors = dict.fromkeys(spots.donor for spots in sides.test if spots.donor in train_donors)
    bank = np.concatenate([spots.features for spots in sides.train])
    return FoldLeakage(
        fold=sides.fold.name,
        shared_donors=tuple(donor for donor in donors if donor is not None),
        unknown_donors=tuple(spots.name for spots in (*sides.train, *sides.test) if spots.donor is None),
        near_duplicates={spots.name: _near_duplicates(bank, spots) for spots in sides.test},
        n_dropped=sides.n_dropped,
        buffer=sides.buffer,
        unit="µm" if sides.test[0].graph.meta.unit == "um" else "px",
    )


def describe_leakage(leakage: Sequence[FoldLeakage]) -> list[str]:
    """Say each thing that folds share once, with the names of the folds."""
    folds: dict[str, list[str]] = {}
    for found in leakage:
        for sentence in found.sentences():
            folds.setdefault(sentence, []).append(found.fold)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in folds.items()]


def _near_duplicates(bank: np.ndarray, spots: SpotData) -> float:
    """Share of spots with a training spot of almost the same direction."""
    nearest = knn(bank, spots.features, k=1, metric="cosine").distances[:, 0]  # 1 - cosine
    return float((nearest < 1 - _NEAR_DUPLICATE).mean())
