"""Groups of spots that must not inform each other's predictions: sections, or blocks of a lone section."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from spam.errors import StoreError
from spam.models.rate_path import choose_penalty, fit_rate_path
from spam.typing import Array, Bool, Float, Float32, Float64, Int64

from .cohort import SpotData

N_BLOCKS = 5  # blocks of a lone section: four to train on, one to validate on


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
        True when the groups are blocks of a section, not whole sections.
    """

    group: Int64[Array, " n"]
    is_val: Bool[Array, " n"]
    are_blocks: bool

    @property
    def train_groups(self) -> list[int]:
        """Numbers of the groups that are trained on."""
        return [int(g) for g in np.unique(self.group[~self.is_val])]


def spatial_blocks(xy: Float[Array, "n 2"], n_blocks: int) -> Int64[Array, " n"]:
    """Cut spots into strips of equal size along the section's longer axis.

    Parameters
    ----------
    xy
        Coordinates in any unit.
    n_blocks
        Number of strips, at most ``n``.
    """
    centred = xy - xy.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    order = np.lexsort((np.arange(len(xy)), centred @ axis))
    blocks = np.empty(len(xy), dtype=np.int64)
    blocks[order] = np.arange(len(xy)) * n_blocks // len(xy)
    return blocks


def assign_groups(spots: Sequence[SpotData], val_sections: Sequence[str]) -> Groups:
    """Give every spot its group and role.

    Two or more training sections are a group each. A single training section is cut into blocks: it has no other
    section to retrieve references from; without a validation section of its own its last block is held out. Every
    validation section is a group of its own.

    Raises
    ------
    StoreError
        If a lone section is too small to be cut into blocks.
    """
    train = [s for s in spots if s.name not in val_sections] or list(spots)
    held_out = [s for s in spots if s not in train]
    if len(train) > 1:
        group = np.concatenate([np.full(s.n_spots, i, dtype=np.int64) for i, s in enumerate(spots)])
        is_val = np.concatenate([np.full(s.n_spots, s.name in val_sections) for s in spots])
        return Groups(group=group, is_val=is_val, are_blocks=False)
    (lone,) = train
    if lone.n_spots < 2 * N_BLOCKS:
        message = (
            f"section {lone.name!r} has {lone.n_spots} spots, too few to be cut into {N_BLOCKS} blocks of at least two; "
            "train on more sections or a larger one"
        )
        raise StoreError(message)
    groups, roles = [], []
    for i, section in enumerate(spots):
        is_lone = section.name == lone.name
        blocks = (
            spatial_blocks(section.xy, N_BLOCKS)
            if is_lone
            else np.full(section.n_spots, N_BLOCKS + i, dtype=np.int64)
        )
        groups.append(blocks)
        roles.append(
            np.ones(section.n_spots, dtype=bool) if not is_lone else (blocks == N_BLOCKS - 1) & (not held_out)
        )
    return Groups(group=np.concatenate(groups), is_val=np.concatenate(roles), are_blocks=True)


def cross_fit(
    inputs: Float[Array, "n q"],
    expression: Float[Array, "n n_genes"],
    counts: csr_matrix,
    totals: Float64[Array, " n"],
    section: Int64[Array, " n"],
    groups: Groups,
    *,
    has_ridge: bool,
) -> tuple[Float32[Array, "n n_genes"], Float32[Array, "n n_genes"], Float32[Array, "n n_genes"]]:
    """Predict every spot by a path that has seen neither its group nor any validation spot.

    The penalty is chosen anew for each group, without it. So a training spot meets the path as a new section will: its
    own counts cannot reach its own prediction.

    Returns
    -------
    What the ridge adds (0 without one), the mean that it is added to, both in log1p(CP10k), and the offset of the
    log-rate: (n, n_genes) each.
    """
    pattern, level, offset = np.empty((3, *expression.shape), dtype=np.float32)
    for g in np.unique(groups.group):
        rows = groups.group == g
        fit = ~groups.is_val & ~rows & (totals > 0)
        alpha = choose_penalty(inputs[fit], expression[fit], groups.group[fit]) if has_ridge else None
        path = fit_rate_path(
            inputs[fit], expression[fit], counts[fit], totals[fit], section[fit], alpha=alpha
        )
        pattern[rows], level[rows] = path.ridge.predict(inputs[rows]), path.gene_mean
        offset[rows] = path.offset
    return pattern, level, offset
