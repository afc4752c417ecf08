"""What an embedding carries beside what it was trained for: section and donor, read off by a linear probe."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch

from spam.models import Embeddings
from spam.models.probe import chance_accuracy, probe_accuracy
from spam.typing import Array, Int64

from .contrast import PAIRS
from .dataset import TrainingSet
from .groups import N_BLOCKS, spatial_blocks

__all__ = ["Probe", "probe_labels"]

# Spots that the probes look at: their accuracy is then known to about .01, in seconds.
_PROBED_SPOTS = 2000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How well a label can be read off linearly: batch effects, where it is the section or the donor.

    Attributes
    ----------
    label
        ``section``: each of five blocks of every section is told by the other blocks, so that no rule gets by with having
        seen the spot next door. ``donor``: each section is told by the others, among donors with two sections or more.
    chance
        Share of the most frequent label.
    accuracy
        By what it was read off: ``frozen`` features as stored; ``input`` of the stage, which is centred within each
        section, so that means tell nothing (a fitted rule then falls below chance: a spot that is left out has moved the
        mean of the others of its section away from itself); and the embeddings, ``image``, ``gene`` and ``coord``.
    """

    label: Literal["section", "donor"]
    chance: float
    accuracy: dict[str, float]

    def describe(self) -> str:
        """Say in one line how well the label is told."""
        told = ", ".join(f"{name} {value:.2f}" for name, value in self.accuracy.items())
        return (
            f"{self.label} told linearly from {told} (chance {self.chance:.2f}; far above it: batch effects)"
        )


def probe_labels(
    data: TrainingSet, embed: Callable[[Int64[Array, " b"]], Embeddings], *, batch_size: int, seed: int
) -> tuple[Probe, ...]:
    """Probe the section and the donor of spots, trained on or held out, in what the stage reads and what it makes.

    Parameters
    ----------
    data
        The cohort; of more than 2,000 spots with counts, 2,000 are drawn.
    embed
        Embeds the rows that it is given.
    batch_size
        Spots that are embedded at a time.
    seed
        Of the draw.
    """
    rows = np.random.default_rng(seed).permutation(np.concatenate([data.train_rows, data.val_rows]))
    rows = np.sort(rows[:_PROBED_SPOTS])
    section = data.section_of[rows]
    block = np.concatenate([spatial_blocks(s.xy, min(N_BLOCKS, s.n_spots)) for s in data.spots])[rows]
    if len(np.unique(section)) < 2 or len(np.unique(block)) < 2:
        return ()
    read = _readable(data, embed, rows, batch_size)
    probes = [_probe("section", read, section, block)]
    donor = _donors(data)[section]
    # Where a donor has one section, that section cannot be told by another one of his.
    is_told = np.isin(
        donor, [d for d in np.unique(donor[donor >= 0]) if len(np.unique(section[donor == d])) > 1]
    )
    if len(np.unique(donor[is_told])) > 1:
        kept = {name: values[is_told] for name, values in read.items()}
        probes.append(_probe("donor", kept, donor[is_told], section[is_told]))
    return tuple(probes)


def _donors(data: TrainingSet) -> Int64[Array, " n_sections"]:
    """Give each section the number of its donor, -1 where it is not known."""
    names = sorted({s.donor for s in data.spots if s.donor is not None})
    return np.array([-1 if s.donor is None else names.index(s.donor) for s in data.spots], dtype=np.int64)


def _readable(
    data: TrainingSet, embed: Callable[[Int64[Array, " b"]], Embeddings], rows: Array, batch_size: int
) -> dict[str, Array]:
    """Everything that a label may be read off, by name."""
    with torch.no_grad():
        parts = [embed(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]
    whole = {
        name: torch.cat([value for part in parts if (value := getattr(part, name)) is not None]).float()
        for name in ("image", *PAIRS)
        if getattr(parts[0], name) is not None
    }
    frozen = np.concatenate([s.features for s in data.spots])
    return {
        "frozen": frozen[rows],
        "input": data.inputs[rows],
        **{name: torch.nn.functional.normalize(value, dim=1).cpu().numpy() for name, value in whole.items()},
    }


def _probe(
    label: Literal["section", "donor"], read: Mapping[str, Array], labels: Array, folds: Array
) -> Probe:
    accuracy = {name: probe_accuracy(values, labels, folds) for name, values in read.items()}
    return Probe(label=label, chance=chance_accuracy(labels), accuracy=accuracy)
