"""Where the tissue lies, and the hexagonal lattice of spots under it."""

import dataclasses

import numpy as np

from spam.typing import Array, Bool, Float, Int

__all__ = ["TissueOutline", "hexagonal_lattice", "lay_spots"]

_LOBES = (2, 3, 5)  # periods of the outline's waves around the tissue
_LOBE_SD = (0.10, 0.06, 0.03)  # their sizes, as shares of the radius


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TissueOutline:
    """A blob around the origin: a disc of radius `level_um`, stretched by a wavy function of the angle."""

    amplitudes: Float[Array, " n_lobes"]
    phases: Float[Array, " n_lobes"]
    level_um: float

    def radius_um(self, xy_um: Float[Array, "*points 2"]) -> Float[Array, "*points"]:
        """Radius of each point in µm before the stretch: the outline is where it equals `level_um`."""
        x, y = xy_um[..., 0], xy_um[..., 1]
        angle = np.arctan2(y, x)
        reach = np.ones_like(angle)
        for lobes, amplitude, phase in zip(_LOBES, self.amplitudes, self.phases, strict=True):
            reach += amplitude * np.cos(lobes * angle + phase)
        return np.asarray(np.hypot(x, y) / np.maximum(reach, 0.4))  # 0.4: no lobe cuts the tissue in two

    def contains(self, xy_um: Float[Array, "*points 2"]) -> Bool[Array, "*points"]:
        """Tell which points lie in the tissue."""
        return np.asarray(self.radius_um(xy_um) <= self.level_um)


def hexagonal_lattice(pitch_um: float, reach_um: float) -> tuple[Int[Array, "n 2"], Float[Array, "n 2"]]:
    """Lay a hexagonal lattice over the square of half side `reach_um` around the origin.

    Returns
    -------
    row_col, xy_um
        Array row and column as in Visium (columns of a row differ by 2), and positions in µm; rows first.
    """
    n_rows = int(np.ceil(reach_um / (pitch_um * np.sqrt(0.75))))
    n_cols = int(np.ceil(2 * reach_um / pitch_um))
    rows, cols = np.meshgrid(np.arange(-n_rows, n_rows + 1), np.arange(-n_cols, n_cols + 1), indexing="ij")
    row_col = np.stack([rows, cols], axis=-1)[(rows + cols) % 2 == 0]
    xy_um = row_col[:, ::-1] * np.array([pitch_um / 2, pitch_um * np.sqrt(0.75)])
    return row_col, xy_um


def lay_spots(
    n_spots: int, pitch_um: float, rng: np.random.Generator
) -> tuple[TissueOutline, Int[Array, "n_spots 2"], Float[Array, "n_spots 2"]]:
    """Draw an outline that holds exactly `n_spots` spots of a hexagonal lattice.

    Returns
    -------
    outline, row_col, xy_um
        The tissue, half a pitch wider than its outermost spot; array row and column of each spot from 0;
        positions in µm from the tissue's origin.
    """
    amplitudes = rng.standard_normal(len(_LOBES)) * np.array(_LOBE_SD)
    phases = rng.uniform(0, 2 * np.pi, len(_LOBES))
    shape = TissueOutline(amplitudes=amplitudes, phases=phases, level_um=np.inf)
    # A disc of n lattice cells has radius pitch * sqrt(n * sqrt(0.75) / pi): doubled for the lobes.
    reach_um = pitch_um * (2 * np.sqrt(n_spots * np.sqrt(0.75) / np.pi) + 2)
    row_col, xy_um = hexagonal_lattice(pitch_um, reach_um)
    radius_um = shape.radius_um(xy_um)
    chosen = np.sort(np.argsort(radius_um, kind="stable")[:n_spots])
    level_um = float(radius_um[chosen].max()) + pitch_um / 2
    outline = dataclasses.replace(shape, level_um=level_um)
    row_col = row_col[chosen]
    return outline, row_col - row_col.min(axis=0), xy_um[chosen]
