"""What a prediction missed at measured spots, carried to the spots around them: kriging of the residual."""

import dataclasses
import itertools

import numpy as np
from scipy import linalg
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from spam.typing import Array, Float, Float64, Int64

__all__ = ["ResidualField", "choose_field", "krige"]

_LEVELS = (0.01, 0.1, 1.0)
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
_LENGTHS = (1.5, 3.0, 6.0)  # in steps from spot to spot
_N_NEAR = 200  # spots farther away are screened off by the nearer ones; bounds the cost of a large section
_N_CHOOSING = 500  # measured spots that are enough to choose three numbers; bounds the cost likewise


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResidualField:
    r"""Covariance of the residual of a gene between spots at a distance `d`, relative to its variance.

    .. math:: c(d) = level + share \, e^{-d / length} + (1 - share) \, [d = 0, \text{same spot}]

    Attributes
    ----------
    level
        Variance of what the whole section has in common.
    share
        Share of the variance that is smooth in space; the rest belongs to the spot and its sampling, and says nothing of
        others.
    length
        Distance over which the smooth part falls to 1/e, in the unit of the coordinates.
    """

    level: float
    share: float
    length: float

    def covariance(self, a: Float[Array, "n 2"], b: Float[Array, "m 2"]) -> Float64[Array, "n m"]:
        """Covariance of the level and the smooth part between two sets of spots."""
        shared: Array = self.level + self.share * np.exp(-cdist(a, b) / self.length)
        return shared

    def measured(self, xy: Float[Array, "n 2"]) -> Float64[Array, "n n"]:
        """Covariance of what is measured: with what belongs to each spot alone."""
        return self.covariance(xy, xy) + (1.0 - self.share) * np.eye(len(xy))


def choose_field(residual: Float[Array, "n g"], xy: Float[Array, "n 2"], *, spacing: float) -> ResidualField:
    r"""Choose one field for all genes by leaving out one measured spot at a time.

    The left-out error has a closed form, :math:`e_i = [K^{-1} r]_i / [K^{-1}]_{ii}` (Sundararajan and Keerthi, Neural
    Comput 13:1103, 2001, doi 10.1162/08997660151134343). It is summed over spots, relative to each gene's own sum of
    squares, and averaged over genes. A gene of its own field was not better (docs/experiments.md). No field at all is
    tried first and wins ties: one spot alone teaches nothing.

    Parameters
    ----------
    residual
        Measured minus predicted expression of `n` spots.
    spacing
        Distance from a spot to its neighbours.
    """
    chosen = np.unique(np.linspace(0, len(xy) - 1, min(len(xy), _N_CHOOSING)).round().astype(np.int64))
    residual, xy = np.asarray(residual, dtype=np.float64)[chosen], xy[chosen]
    total = (residual**2).sum(axis=0)
    varies = total > 0
    fields = [
        ResidualField(level=level, share=share, length=spacing * length)
        for (share, length), level in itertools.product(
            [(0.0, 1.0), *itertools.product(_SHARES, _LENGTHS)], _LEVELS
        )
    ]
    fields.insert(0, ResidualField(level=0.0, share=0.0, length=spacing))
    errors = []
    for field in fields:
        inverse = linalg.inv(field.measured(xy))
        left_out = (inverse @ residual[:, varies]) / np.diag(inverse)[:, None]
        errors.append(((left_out**2).sum(axis=0) / total[varies]).mean() if varies.any() else 0.0)
    # Rounding must not decide between fields that say the same.
    return fields[int(np.argmin(np.round(errors, 12)))]


def krige(
    residual: Float[Array, "n_measured g"], rows: Int64[Array, " n_measured"], xy: Float[Array, "n_spots 2"]
) -> tuple[Float64[Array, "n_spots g"], ResidualField]:
    """Predict the residual of every spot from that of the measured ones: simple kriging around zero.

    Far from any measured spot only the common level is left; where nothing is learned from one spot for another, zero.
    At a measured spot it is smoothed too: what belongs to the spot alone is taken for noise. Each spot looks at its 200
    nearest measured ones.

    Parameters
    ----------
    residual
        Measured minus predicted expression.
    rows
        Measured spots, as rows of `xy`.
    xy
        Coordinates of all spots.

    Returns
    -------
    The expected residual, and the field that was chosen.
    """
    measured = xy[rows]
    field = choose_field(residual, measured, spacing=_spacing(xy))
    residual = np.asarray(residual, dtype=np.float64)
    expected = np.zeros((len(xy), residual.shape[1]))
    if field.level == field.share == 0.0:
        return expected, field
    k = min(_N_NEAR, len(rows))
    near = np.sort(cKDTree(measured).query(xy, k=np.arange(1, k + 1))[1], axis=1)
    sets, which = np.unique(near, axis=0, return_inverse=True)
    for i, members in enumerate(sets):  # one for all spots where there are up to 200 measured ones
        spots = np.flatnonzero(which.ravel() == i)
        weights = linalg.solve(
            field.measured(measured[members]), field.covariance(measured[members], xy[spots]), assume_a="pos"
        )
        expected[spots] = weights.T @ residual[members]
    return expected, field


def _spacing(xy: Float[Array, "n_spots 2"]) -> float:
    """Median distance of a spot to the nearest other one; 1 where there is none, or all lie on one another."""
    if len(xy) < 2:
        return 1.0
    return float(np.median(cKDTree(xy).query(xy, k=[2])[0])) or 1.0
