"""In which order an epoch visits the spots that it trains on."""

import numpy as np

from spam.errors import ConfigError
from spam.typing import Array, Int64, Shaped

from .dataset import TrainingSet

__all__ = ["balanced", "check_donors", "random_order"]


def random_order(
    rows: Int64[Array, " n"], data: TrainingSet, rng: np.random.Generator, *, balance_donors: bool
) -> Int64[Array, " n_visits"]:
    """Shuffle rows of `data`: all of them, or at random equally many of every donor."""
    shuffled: Array = rng.permutation(rows)
    return balanced(shuffled, _donor_of(data)[shuffled]) if balance_donors else shuffled


def balanced(rows: Int64[Array, " n"], label: Shaped[Array, " n"]) -> Int64[Array, " n_visits"]:
    """Let labels take turns, so that every run of rows has equally many of each, or one more of some.

    Returns
    -------
    As many rows of each label as the rarest one has: its first ones. None comes twice, for a batch must not contrast a
    spot with itself.
    """
    each = [rows[label == one] for one in np.unique(label)]
    shortest = min(map(len, each))
    turns: Array = np.stack([one[:shortest] for one in each], axis=1)
    return turns.ravel()


def check_donors(rows: Int64[Array, " n"], data: TrainingSet) -> None:
    """Refuse to balance a single donor.

    Raises
    ------
    ConfigError
        Naming the donor of all rows.
    """
    donors = np.unique(_donor_of(data)[rows])
    if len(donors) < 2:
        message = (
            f"--balance-donors has nothing to balance: all spots to train on are of one donor ({', '.join(donors)}); "
            "leave it out, or name sections of other donors in --sections"
        )
        raise ConfigError(message)


def _donor_of(data: TrainingSet) -> Shaped[Array, " n"]:
    """Name each spot's donor; a section without one stands for itself."""
    donors: Array = np.array([s.donor or s.name for s in data.spots])[data.section_of]
    return donors
