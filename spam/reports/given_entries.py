"""Which entries of a drawn matrix were given to the prediction, and which are scored."""

import dataclasses

from spam.typing import Array, Bool

__all__ = ["GivenEntries"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GivenEntries:
    """Entries that the prediction was given, and those that are scored: neither is the rest of the other.

    Attributes
    ----------
    is_given
        Entries whose measured value the prediction was given.
    is_scored
        Entries that scores are of.
    note
        What to say of them below the title.
    """

    is_given: Bool[Array, "n_spots n_genes"]
    is_scored: Bool[Array, "n_spots n_genes"]
    note: str
