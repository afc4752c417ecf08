"""The tissue of a simulated section: its outline, its lattice of spots, and its mixture of tissue kinds."""

import dataclasses
import functools
import zlib
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from spam.typing import Array, Float, Int

_LOBES = np.array([2, 3, 5])  # waves of the outline around the tissue
_LOBE_SD = np.array([0.10, 0.06, 0.03])  # their amplitudes, as shares of the radius
_CORRELATION_UM = 220.0  # regions of one kind span a few spots, as tumour nests in a biopsy do
_SHARPNESS = 2.6  # most places are clearly of one kind, with soft transitions
_N_WAVES = 48  # cosines per random field: enough for a normal marginal distribution


class TissueKind(NamedTuple):
    """Appearance of one kind of tissue.

    `prevalence` is added to its random field; `eosin` and `haematoxylin` are stain concentrations between the nuclei
    (1 is strong); `fibres` is the contrast of fibres; nuclei have a density, mean diameters in µm and a haematoxylin
    concentration.
    """

    name: str
    prevalence: float
    eosin: float
    haematoxylin: float
    fibres: float
    nuclei_per_mm2: float
    long_um: float
    short_um: float
    nucleus_stain: float


# `n_programmes` takes the first ones. Densities and diameters are typical of breast tissue.
KINDS = (
    TissueKind("tumour", 0.6, 0.33, 0.16, 0.12, 6000.0, 12.0, 9.5, 0.72),
    TissueKind("stroma", 0.7, 0.42, 0.02, 0.75, 1300.0, 14.0, 4.0, 0.85),
    TissueKind("immune", 0.0, 0.22, 0.12, 0.20, 11000.0, 7.0, 6.4, 1.25),
    TissueKind("fat", 0.0, 0.30, 0.02, 0.20, 350.0, 9.0, 3.5, 0.95),
    TissueKind("gland", -0.1, 0.36, 0.08, 0.35, 1500.0, 8.5, 6.0, 0.90),
    TissueKind("necrosis", -0.5, 0.62, 0.05, 0.10, 1800.0, 3.6, 3.0, 1.30),
)
KIND_TABLE = np.array([kind[1:] for kind in KINDS])  # numbers of all kinds, in the order of the fields
_PREVALENCE = KIND_TABLE[:, 0]


def random_stream(seed: int, *key: str | int) -> np.random.Generator:
    """Return the generator of `key`, such as ``("counts", donor, section)``.

    Streams of different keys are independent (`numpy.random.SeedSequence` with a spawn key), so one more donor, or one
    more draw in one stream, changes nothing elsewhere.
    """
    spawn_key = tuple(part if isinstance(part, int) else zlib.crc32(part.encode()) for part in key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=spawn_key))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TissueOutline:
    """A lobed disc around the origin: the points whose `radius_um` is at most `level_um`."""

    amplitudes: Float[Array, " n_lobes"]
    phases: Float[Array, " n_lobes"]
    level_um: float

    def radius_um(self, xy_um: Float[Array, "*points 2"]) -> Float[Array, "*points"]:
        """Return the radius of each point before the lobes stretch it."""
        x, y = xy_um[..., 0], xy_um[..., 1]
        waves = self.amplitudes * np.cos(np.arctan2(y, x)[..., None] * _LOBES + self.phases)
        stretch = np.maximum(1 + waves.sum(axis=-1), 0.4)  # 0.4: one connected piece
        return np.asarray(np.hypot(x, y) / stretch)


def hexagonal_lattice(pitch_um: float, reach_um: float) -> tuple[Int[Array, "n 2"], Float[Array, "n 2"]]:
    """Return a hexagonal lattice over the square of half side `reach_um` around the origin.

    Returns
    -------
    row_col, xy_um
        Array row and column as in Visium (columns of a row differ by 2), and positions; sorted by row.
    """
    n_rows = int(np.ceil(reach_um / (pitch_um * np.sqrt(0.75))))
    n_cols = int(np.ceil(2 * reach_um / pitch_um))
    rows, cols = np.meshgrid(np.arange(-n_rows, n_rows + 1), np.arange(-n_cols, n_cols + 1), indexing="ij")
    row_col = np.stack([rows, cols], axis=-1)[(rows + cols) % 2 == 0]
    return row_col, row_col[:, ::-1] * np.array([pitch_um / 2, pitch_um * np.sqrt(0.75)])


def lay_spots(
    n_spots: int, pitch_um: float, rng: np.random.Generator
) -> tuple[TissueOutline, Int[Array, "n_spots 2"], Float[Array, "n_spots 2"]]:
    """Draw an outline that holds exactly `n_spots` spots of a hexagonal lattice.

    Returns
    -------
    outline, row_col, xy_um
        The tissue, half a pitch wider than its outermost spot; array row and column of each spot, from 0;
        positions from the origin of the tissue.
    """
    amplitudes, phases = rng.standard_normal(3) * _LOBE_SD, rng.uniform(0, 2 * np.pi, 3)
    shape = TissueOutline(amplitudes=amplitudes, phases=phases, level_um=np.inf)
    # A disc of n lattice cells has the radius pitch * sqrt(n * sqrt(0.75) / pi); doubled for the lobes.
    row_col, xy_um = hexagonal_lattice(
        pitch_um, pitch_um * (2 * np.sqrt(n_spots * np.sqrt(0.75) / np.pi) + 2)
    )
    radius_um = shape.radius_um(xy_um)
    chosen = np.sort(np.argsort(radius_um, kind="stable")[:n_spots])
    outline = dataclasses.replace(shape, level_um=float(radius_um[chosen].max()) + pitch_um / 2)
    return outline, row_col[chosen] - row_col[chosen].min(axis=0), xy_um[chosen]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SmoothFields:
    """Standard normal random fields with a squared-exponential covariance, as sums of cosines.

    They can be evaluated anywhere, so the truth does not depend on the resolution of the image (random Fourier
    features: Rahimi and Recht, 2007).
    """

    frequencies: Float[Array, "n_fields n_waves 2"]
    phases: Float[Array, "n_fields n_waves"]

    @classmethod
    def draw(cls, rng: np.random.Generator, n_fields: int = len(KINDS)) -> "SmoothFields":
        """Draw independent fields."""
        frequencies = rng.standard_normal((n_fields, _N_WAVES, 2)) / _CORRELATION_UM
        return cls(frequencies=frequencies, phases=rng.uniform(0, 2 * np.pi, (n_fields, _N_WAVES)))

    def at(self, xy_um: Float[Array, "*points 2"]) -> Float[Array, "*points n_fields"]:
        """Evaluate the fields."""
        waves = zip(self.frequencies, self.phases, strict=True)
        fields = [np.cos(xy_um @ frequency.T + phase).sum(axis=-1) for frequency, phase in waves]
        return np.asarray(np.stack(fields, axis=-1) * np.sqrt(2 / _N_WAVES))

    def shares(self, xy_um: Float[Array, "*points 2"]) -> Float[Array, "*points n_fields"]:
        """Return the shares of `KINDS` at positions in µm: positive, sum 1."""
        return np.asarray(softmax(_SHARPNESS * (self.at(xy_um) + _PREVALENCE), axis=-1))


@functools.cache
def share_moments() -> tuple[Float[Array, " n_kinds"], Float[Array, "n_kinds n_kinds"]]:
    """Return mean and covariance of the shares over all possible sections, by Monte Carlo.

    They depend on no seed, so the same morphology means the same expression in every section.
    """
    draws = np.random.default_rng(0).standard_normal((400_000, len(KINDS)))
    shares = softmax(_SHARPNESS * (draws + _PREVALENCE), axis=1)
    return shares.mean(axis=0), np.cov(shares.T)
