"""Groups of spots that must not inform each other's predictions, and predictions cross-fitted over them.

A *group* is a section, or a block of a single section: its spots do not inform each other in training. A *unit* is what a fold
leaves out: a donor, else a section, else a block. A *fold* is a `Groups` whose `is_val` marks the units that are left out.
"""

import dataclasses
import itertools
import logging
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from spam.errors import ConfigError, StoreError
from spam.models.expression import Expression, dense
from spam.models.rate_path import RatePath, choose_penalty, fit_rate_path
from spam.store import Profiles
from spam.typing import Array, Bool, Float, Float32, Float64, Int64

from .cohort import SpotData

_LOG = logging.getLogger(__name__)
N_BLOCKS = 5  # blocks of a single section: four to train on, one to validate on
MOST_FITTED = 1 << 16
"""Spots that a predictor in closed form is fitted on: more would hardly change its few hundred coefficients per gene."""
_MOST_FOLDS = 4  # of the cross-validation: each costs a training run


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """Group and role of every spot of a cohort, in the order of its sections.

    Attributes
    ----------
    group
        Group number per spot, (n,).
    is_val
        Whether the spot is held out for validation, (n,).
    are_blocks
        True if the groups are blocks of a section, not whole sections.
    """

    group: Int64[Array, " n"]
    is_val: Bool[Array, " n"]
    are_blocks: bool


def duplicates_of(
    spots: Sequence[SpotData], profiles: Sequence[Profiles]
) -> Iterator[tuple[SpotData, SpotData, str]]:
    """Yield pairs of sections with equal counts, each with a sentence; log a warning of pairs that share only images."""
    for (a, b), (p, q) in zip(*(itertools.combinations(each, 2) for each in (spots, profiles)), strict=True):
        if share := p.share_of_counts(q):
            yield (
                a,
                b,
                f"sections {a.name!r} and {b.name!r} are the same tissue ({share:.0%} of the compared counts are equal)",
            )
        elif share := p.share_of_images(q):
            _LOG.warning(
                "sections %r and %r show the same image (%.0f%% of the compared features are equal), but differ in counts",
                *(a.name, b.name, 100 * share),
            )


def check_duplicates(
    spots: Sequence[SpotData], profiles: Sequence[Profiles], held_out: Sequence[Sequence[str]]
) -> None:
    """Refuse the same tissue on both sides of a validation split or from two donors; warn of others.

    Parameters
    ----------
    held_out
        Names of the sections that each split holds out.

    Raises
    ------
    ConfigError
        Naming all such pairs.
    """
    faults = []
    for a, b, sentence in duplicates_of(spots, profiles):
        if any(len({s.name in names for s in (a, b)}) > 1 for names in held_out):
            faults.append(f"{sentence}, but one of them is held out for validation")
        elif None not in (a.donor, b.donor) and a.donor != b.donor:
            faults.append(f"{sentence}, but their donors are {a.donor!r} and {b.donor!r}")
        else:
            _LOG.warning("%s: its spots count twice", sentence)
    if faults:
        listed = "; ".join(faults)
        message = (
            f"{listed[0].upper()}{listed[1:]}. Leave one of each pair out of --sections and --val-sections."
        )
        raise ConfigError(message)


def spatial_blocks(xy: Float[Array, "n 2"], n_blocks: int) -> Int64[Array, " n"]:
    """Cut spots into `n_blocks` (at most n) strips of equal size along the section's longer axis."""
    centred = xy - xy.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    order = np.lexsort((np.arange(len(xy)), centred @ axis))
    blocks = np.empty(len(xy), dtype=np.int64)
    blocks[order] = np.arange(len(xy)) * n_blocks // len(xy)
    return blocks


def assign_groups(spots: Sequence[SpotData], val_sections: Sequence[str]) -> Groups:
    """Assign every spot its group and role.

    Two or more training sections are a group each. A single training section is cut into blocks, because it has no other
    section to retrieve references from; without validation sections its last block is held out. Every
    validation section is a separate group.

    Raises
    ------
    StoreError
        If a single section is too small to be cut into blocks.
    """
    sizes = [s.n_spots for s in spots]
    train = [s for s in spots if s.name not in val_sections] or list(spots)
    if len(train) > 1:
        is_val = np.repeat([s.name in val_sections for s in spots], sizes)
        return Groups(group=np.repeat(np.arange(len(spots)), sizes), is_val=is_val, are_blocks=False)
    lone = train[0]
    if lone.n_spots < 2 * N_BLOCKS:
        message = (
            f"Section {lone.name!r} has {lone.n_spots} spots, too few to be cut into {N_BLOCKS} blocks. Train on more "
            "sections or a larger one."
        )
        raise StoreError(message)
    group = np.repeat(N_BLOCKS + np.arange(len(spots)), sizes)
    is_lone = np.repeat([s is lone for s in spots], sizes)
    group[is_lone] = spatial_blocks(lone.xy, N_BLOCKS)
    is_val = ~is_lone if len(spots) > 1 else group == N_BLOCKS - 1
    return Groups(group=group, is_val=is_val, are_blocks=True)


def units_of(spots: Sequence[SpotData], groups: Groups) -> Int64[Array, " n"]:
    """Number the units: donors if all are known and there are two or more, else sections, or blocks of a single one."""
    donors = [s.donor for s in spots]
    if len(spots) == 1:
        return groups.group
    return _numbered(
        spots, donors if None not in donors and len(set(donors)) > 1 else [s.name for s in spots]
    )


def _numbered(spots: Sequence[SpotData], names: Sequence[str | None]) -> Int64[Array, " n"]:
    number = np.unique(np.array(names), return_inverse=True)[1]
    return np.repeat(number, [s.n_spots for s in spots])


def folds_of(spots: Sequence[SpotData], totals: Float64[Array, " n"]) -> tuple[Groups, ...]:
    """Leave out each unit (`units_of`) with counts in turn, several at once if there are more than four.

    If too little is left to train on without a donor, sections are left out in turn. If there are fewer than two units, or
    too little is left without one, there is a single fold, which holds out the last section (or block) and trains on the rest.

    Raises
    ------
    StoreError
        If a single section is too small to be cut into blocks.
    """
    whole = assign_groups(spots, ())
    if len(spots) == 1:
        folds = [dataclasses.replace(whole, is_val=is_val) for is_val in _left_out(whole.group, totals)]
        return tuple(folds) if len(folds) > 1 else (whole,)
    section = np.repeat(np.arange(len(spots)), [s.n_spots for s in spots])
    for units in (units_of(spots, whole), section):
        left_out = _left_out(units, totals)
        if len(left_out) > 1 and all(_can_train(section, is_val, totals) for is_val in left_out):
            return tuple(
                assign_groups(spots, [spots[i].name for i in np.unique(section[is_val])])
                for is_val in left_out
            )
    return (assign_groups(spots, [spots[-1].name]),)


def _left_out(units: Int64[Array, " n"], totals: Float64[Array, " n"]) -> list[Bool[Array, " n"]]:
    """Mark the spots that each fold leaves out."""
    known = np.unique(units[totals > 0])
    return [np.isin(units, known[first::_MOST_FOLDS]) for first in range(min(len(known), _MOST_FOLDS))]


def _can_train(section: Int64[Array, " n"], is_val: Bool[Array, " n"], totals: Float64[Array, " n"]) -> bool:
    """Whether two sections with counts are left, or a single section that can be cut into blocks."""
    n_counted = len(np.unique(section[~is_val & (totals > 0)]))
    is_single = len(np.unique(section[~is_val])) == 1
    return n_counted > 1 or (n_counted == 1 and is_single and int((~is_val).sum()) >= 2 * N_BLOCKS)


def at_most(rows: Int64[Array, " n"], most: int) -> Int64[Array, " m"]:
    """Return the rows, or a random sample of `most` of them, in their order."""
    if len(rows) <= most:
        return rows
    sample: Array = rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:most])]
    return sample


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CrossFit:
    """Paths that were each fitted without one group and without validation spots (`cross_fit`).

    Attributes
    ----------
    paths
        One for each group.
    rank
        Place of each spot's group in `paths`, (n,).
    """

    paths: tuple[RatePath, ...]
    rank: Int64[Array, " n"]

    def at(
        self, rows: Int64[Array, " b"], inputs: Float[Array, "b q"]
    ) -> tuple[Float32[Array, "b n_genes"], Float32[Array, "b n_genes"], Float32[Array, "b n_genes"]]:
        """Predict some spots, each by the path without its group.

        Parameters
        ----------
        rows, inputs
            The spots and their image inputs.

        Returns
        -------
        Output of the ridge (0 without one), the gene mean that it is added to, both in log1p(CP10k), and the offset of the
        log-rate.
        """
        pattern, level, offset = np.zeros((3, len(rows), len(self.paths[0].gene_mean)), dtype=np.float32)
        rank = self.rank[rows]
        for g in np.unique(rank):
            path, own = self.paths[g], rank == g
            level[own], offset[own] = path.gene_mean, path.offset
            if path.has_ridge:
                pattern[own] = path.ridge.predict(inputs[own])
        return pattern, level, offset


def cross_fit(
    inputs: Float[Array, "n q"],
    expression: Expression,
    counts: csr_matrix,
    totals: Float64[Array, " n"],
    section: Int64[Array, " n"],
    groups: Groups,
    *,
    has_ridge: bool,
) -> CrossFit:
    """Fit a path for every group, without its spots and without validation spots.

    The penalty is also chosen without the group. So the path predicts a training spot as it will predict a new section:
    the spot's own counts cannot reach its own prediction.
    """
    names, rank = np.unique(groups.group, return_inverse=True)
    paths = []
    for g in names:
        fit = np.flatnonzero(~groups.is_val & (groups.group != g) & (totals > 0))
        alpha, x, known = None, inputs[:0], expression[fit]
        if has_ridge:
            fit = at_most(fit, MOST_FITTED)
            x, known = inputs[fit], dense(expression[fit])
            alpha = choose_penalty(x, known, groups.group[fit])
        paths.append(fit_rate_path(x, known, counts[fit], totals[fit], section[fit], alpha=alpha))
    return CrossFit(paths=tuple(paths), rank=rank)
