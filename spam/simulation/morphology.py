"""Kinds of tissue that a simulated section is a mixture of, and how the mixture varies over the section."""

import dataclasses
import functools

import numpy as np

from spam.typing import Array, Float

__all__ = ["KINDS", "MixtureField", "TissueKind", "share_covariance", "smooth_patterns"]

_CORRELATION_UM = 220.0  # regions of one kind span a few spots, as tumour nests in a biopsy do
_SHARPNESS = 2.6  # high enough that most places are clearly of one kind, low enough for soft transitions
_N_WAVES = 48  # cosines per random field: enough for a normal marginal distribution


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TissueKind:
    """How one kind of tissue looks.

    Attributes
    ----------
    name
        Name of the kind and of its expression programme.
    prevalence
        Added to the kind's random field: larger means more of the tissue.
    eosin, haematoxylin
        Stain concentrations between the nuclei (1 is strong staining).
    fibres
        Contrast of the wavy fibres, 0 to 1.
    nuclei_per_mm2
        Density of nuclei.
    nucleus_um
        Mean long and short diameter of a nucleus.
    nucleus_stain
        Haematoxylin concentration of a nucleus.
    """

    name: str
    prevalence: float
    eosin: float
    haematoxylin: float
    fibres: float
    nuclei_per_mm2: float
    nucleus_um: tuple[float, float]
    nucleus_stain: float


# Order matters: `n_programmes` takes the first ones. Densities and diameters are of the order seen in breast
# tissue.
KINDS: tuple[TissueKind, ...] = (
    TissueKind(
        name="tumour",
        prevalence=0.6,
        eosin=0.33,
        haematoxylin=0.16,
        fibres=0.12,
        nuclei_per_mm2=6000.0,
        nucleus_um=(12.0, 9.5),
        nucleus_stain=0.72,
    ),
    TissueKind(
        name="stroma",
        prevalence=0.7,
        eosin=0.42,
        haematoxylin=0.02,
        fibres=0.75,
        nuclei_per_mm2=1300.0,
        nucleus_um=(14.0, 4.0),
        nucleus_stain=0.85,
    ),
    TissueKind(
        name="immune",
        prevalence=0.0,
        eosin=0.22,
        haematoxylin=0.12,
        fibres=0.2,
        nuclei_per_mm2=11000.0,
        nucleus_um=(7.0, 6.4),
        nucleus_stain=1.25,
    ),
    TissueKind(
        name="fat",
        prevalence=0.0,
        eosin=0.30,
        haematoxylin=0.02,
        fibres=0.2,
        nuclei_per_mm2=350.0,
        nucleus_um=(9.0, 3.5),
        nucleus_stain=0.95,
    ),
    TissueKind(
        name="gland",
        prevalence=-0.1,
        eosin=0.36,
        haematoxylin=0.08,
        fibres=0.35,
        nuclei_per_mm2=1500.0,
        nucleus_um=(8.5, 6.0),
        nucleus_stain=0.90,
    ),
    TissueKind(
        name="necrosis",
        prevalence=-0.5,
        eosin=0.62,
        haematoxylin=0.05,
        fibres=0.1,
        nuclei_per_mm2=1800.0,
        nucleus_um=(3.6, 3.0),
        nucleus_stain=1.3,
    ),
)


def _shares(fields: Float[Array, "*points n_kinds"]) -> Float[Array, "*points n_kinds"]:
    """Turn standard normal fields into shares that sum to 1 (softmax)."""
    scores = _SHARPNESS * (fields + np.array([kind.prevalence for kind in KINDS], dtype=fields.dtype))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


@functools.cache
def _share_moments() -> tuple[Float[Array, " n_kinds"], Float[Array, "n_kinds n_kinds"]]:
    """Mean and covariance of the shares, by Monte Carlo: the softmax of normals has no closed form."""
    draws = np.random.default_rng(0).standard_normal((400_000, len(KINDS)))
    shares = _shares(draws)
    return shares.mean(axis=0), np.cov(shares.T)


def share_covariance() -> tuple[Float[Array, " n_kinds"], Float[Array, "n_kinds n_kinds"]]:
    """Give mean and covariance of the shares of `KINDS` over all sections that could be simulated.

    They do not depend on any seed, so that the same morphology means the same expression in every section.
    """
    mean, covariance = _share_moments()
    return mean.copy(), covariance.copy()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MixtureField:
    """Shares of the tissue kinds as a smooth function of the position in µm.

    Each kind has a random field of its own: a sum of cosines that can be evaluated anywhere, so the truth does not
    depend on the resolution of the image.
    """

    frequencies: Float[Array, "n_kinds n_waves 2"]
    phases: Float[Array, "n_kinds n_waves"]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "MixtureField":
        """Draw the fields of one section."""
        frequencies, phases = _draw_waves(rng, len(KINDS))
        return cls(frequencies=frequencies, phases=phases)

    def shares(self, xy_um: Float[Array, "*points 2"]) -> Float[Array, "*points n_kinds"]:
        """Evaluate the shares of `KINDS` at positions in µm; they are positive and sum to 1."""
        return _shares(_add_waves(self.frequencies, self.phases, xy_um))


def smooth_patterns(
    rng: np.random.Generator, xy_um: Float[Array, "n_spots 2"], n_patterns: int
) -> Float[Array, "n_spots n_patterns"]:
    """Draw independent patterns of unit variance that vary over tissue as smoothly as its kinds do."""
    return _add_waves(*_draw_waves(rng, n_patterns), xy_um)


def _draw_waves(
    rng: np.random.Generator, n_fields: int
) -> tuple[Float[Array, "n_fields n_waves 2"], Float[Array, "n_fields n_waves"]]:
    """Draw frequencies and phases of standard normal fields with a squared-exponential covariance.

    Random Fourier features: Rahimi and Recht, 2007.
    """
    frequencies = rng.standard_normal((n_fields, _N_WAVES, 2)) / _CORRELATION_UM
    return frequencies, rng.uniform(0, 2 * np.pi, (n_fields, _N_WAVES))


def _add_waves(
    frequencies: Float[Array, "n_fields n_waves 2"],
    phases: Float[Array, "n_fields n_waves"],
    xy_um: Float[Array, "*points 2"],
) -> Float[Array, "*points n_fields"]:
    """Evaluate the fields."""
    fields = [
        np.cos(xy_um @ waves.T + shifts).sum(axis=-1) * np.sqrt(2 / _N_WAVES)
        for waves, shifts in zip(frequencies, phases, strict=True)
    ]
    return np.stack(fields, axis=-1)
