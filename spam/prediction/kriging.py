"""Kriging of residuals: the error of a prediction at measured spots corrects the prediction at the spots around them."""

import dataclasses
import itertools

import numpy as np
from scipy import linalg
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from spam.typing import Array, Float, Float64, Int64

_LEVELS = (0.01, 0.1, 1.0)
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
_LENGTHS = (1.5, 3.0, 6.0)  # in spot distances
_N_NEAR = 200  # nearer spots screen off farther ones; bounds the cost of a large section
_N_CHOOSING = 500  # measured spots that suffice to choose three numbers; bounds the cost likewise


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResidualField:
    r"""Covariance of a gene's residual between spots at distance `d`, relative to its variance.

    .. math:: c(d) = level + share \, e^{-d / length} + (1 - share) \, [d = 0, \text{same spot}]

    Attributes
    ----------
    level
        Variance of the offset common to the whole section.
    share
        Fraction of the variance that is spatially smooth; the rest is independent between spots (nugget).
    length
        Distance at which the smooth covariance falls to 1/e, in the unit of the coordinates.
    """

    level: float
    share: float
    length: float

    def covariance(self, a: Float[Array, "n 2"], b: Float[Array, "m 2"]) -> Float64[Array, "n m"]:
        """Covariance of the offset and the smooth part between two sets of spots."""
        shared: Array = self.level + self.share * np.exp(-cdist(a, b) / self.length)
        return shared

    def measured(self, xy: Float[Array, "n 2"]) -> Float64[Array, "n n"]:
        """Covariance of measured residuals, with the nugget."""
        return self.covariance(xy, xy) + (1.0 - self.share) * np.eye(len(xy))


def choose_field(residual: Float[Array, "n g"], xy: Float[Array, "n 2"], *, spacing: float) -> ResidualField:
    r"""Choose one field for all genes by leave-one-spot-out cross-validation.

    The left-out error has a closed form, :math:`e_i = [K^{-1} r]_i / [K^{-1}]_{ii}` (Sundararajan and Keerthi, Neural
    Comput 13:1103, 2001, doi 10.1162/08997660151134343). It is summed over spots, divided by each gene's sum of squares,
    and averaged over genes. One field per gene was not better (docs/experiments-log.md). The null field (no correction) wins
    ties, so a single measured spot changes nothing.

    Parameters
    ----------
    residual
        Measured minus predicted expression of `n` spots.
    spacing
        Distance between neighbouring spots.
    """
    chosen = np.unique(np.linspace(0, len(xy) - 1, min(len(xy), _N_CHOOSING)).round().astype(np.int64))
    residual, xy = np.asarray(residual, dtype=np.float64)[chosen], xy[chosen]
    total = (residual**2).sum(axis=0)
    residual, total = residual[:, total > 0], total[total > 0]
    shapes = [(0.0, 1.0), *itertools.product(_SHARES, _LENGTHS)]
    fields = [ResidualField(level=0.0, share=0.0, length=spacing)]
    fields += [
        ResidualField(level=level, share=share, length=spacing * length)
        for (share, length), level in itertools.product(shapes, _LEVELS)
    ]
    errors = []
    for field in fields:
        inverse = linalg.inv(field.measured(xy))
        left_out = (inverse @ residual) / np.diag(inverse)[:, None]
        errors.append(((left_out**2).sum(axis=0) / total).mean() if len(total) else 0.0)
    return fields[int(np.argmin(np.round(errors, 12)))]  # rounded: ties are not decided by float noise


def krige(
    residual: Float[Array, "n_measured g"], rows: Int64[Array, " n_measured"], xy: Float[Array, "n_spots 2"]
) -> tuple[Float64[Array, "n_spots g"], ResidualField]:
    """Predict the residual of every spot from that of the measured spots: simple kriging around zero.

    Measured spots are smoothed too, because the nugget is treated as noise. Far from measured spots only the common
    offset remains. Each spot uses its 200 nearest measured spots.

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
    The expected residual, and the chosen field.
    """
    measured, residual = xy[rows], np.asarray(residual, dtype=np.float64)
    spacing = np.median(cKDTree(xy).query(xy, k=[2])[0])
    # Without a distance (one spot, or all at one place) any unit will do.
    field = choose_field(residual, measured, spacing=float(spacing) if 0 < spacing < np.inf else 1.0)
    expected = np.zeros((len(xy), residual.shape[1]))
    if field.level == field.share == 0.0:
        return expected, field
    k = min(_N_NEAR, len(rows))
    near = np.sort(cKDTree(measured).query(xy, k=np.arange(1, k + 1))[1], axis=1)
    sets, which = np.unique(near, axis=0, return_inverse=True)
    for i, members in enumerate(sets):  # a single set for up to 200 measured spots
        spots = np.flatnonzero(which.ravel() == i)
        among = field.measured(measured[members])
        weights = linalg.solve(among, field.covariance(measured[members], xy[spots]), assume_a="pos")
        expected[spots] = weights.T @ residual[members]
    return expected, field
