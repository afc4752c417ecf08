"""Where the nuclei, fat vacuoles and gland lumens of a simulated section lie."""

import dataclasses

import numpy as np

from spam.typing import Array, Float, Int

from .lattice import TissueOutline, hexagonal_lattice
from .morphology import KINDS, MixtureField

__all__ = ["Ellipses", "place_holes", "place_nuclei"]

_NUCLEUS_PITCH_UM = 9.0  # nuclei keep about this distance; fits the densest kind (11000 per mm²)
_VACUOLE_PITCH_UM = 56.0  # adipocytes
_LUMEN_PITCH_UM = 95.0  # glands
_RING_PITCH_UM = 7.5  # nuclei of the epithelium around a lumen
_FAT, _GLAND = (next(i for i, kind in enumerate(KINDS) if kind.name == name) for name in ("fat", "gland"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ellipses:
    """Ellipses in µm: centres, long and short diameters, direction of the long one, index into `KINDS`."""

    xy_um: Float[Array, "n 2"]
    diameters_um: Float[Array, "n 2"]
    angle: Float[Array, " n"]
    kind: Int[Array, " n"]


def _candidates(
    pitch_um: float, reach_um: float, jitter: float, rng: np.random.Generator
) -> Float[Array, "n 2"]:
    """Lay a hexagonal lattice and push each point by up to `jitter` pitches: even, but not regular."""
    _, xy_um = hexagonal_lattice(pitch_um, reach_um)
    return np.asarray(xy_um + rng.uniform(-jitter, jitter, xy_um.shape) * pitch_um)


def _shapes(mean_um: Float[Array, "n 2"], spread: float, rng: np.random.Generator) -> Float[Array, "n 2"]:
    """Vary diameters log-normally around their means."""
    return np.asarray(mean_um * np.exp(rng.normal(0, spread, mean_um.shape)))


def place_holes(
    outline: TissueOutline, mixture: MixtureField, reach_um: float, rng: np.random.Generator
) -> Ellipses:
    """Place fat vacuoles and gland lumens, each as likely as its kind's share at the place."""
    found = []
    for kind, pitch_um, jitter, size_um, spread in (
        (_FAT, _VACUOLE_PITCH_UM, 0.08, 54.0, 0.06),
        (_GLAND, _LUMEN_PITCH_UM, 0.15, 36.0, 0.25),
    ):
        xy_um = _candidates(pitch_um, reach_um, jitter, rng)
        xy_um = xy_um[outline.radius_um(xy_um) < outline.level_um - size_um / 2]
        xy_um = xy_um[rng.uniform(size=len(xy_um)) < mixture.shares(xy_um)[:, kind]]
        found.append(
            Ellipses(
                xy_um=xy_um,
                diameters_um=_shapes(np.full((len(xy_um), 2), size_um), spread, rng),
                angle=rng.uniform(0, np.pi, len(xy_um)),
                kind=np.full(len(xy_um), kind),
            )
        )
    return _join(found)


def place_nuclei(
    outline: TissueOutline,
    mixture: MixtureField,
    holes: Ellipses,
    reach_um: float,
    rng: np.random.Generator,
) -> Ellipses:
    """Place nuclei at the density of the local mixture, none in a hole, and a ring around each lumen."""
    xy_um = _candidates(_NUCLEUS_PITCH_UM, reach_um, 0.4, rng)
    xy_um = xy_um[outline.contains(xy_um)]
    cell_mm2 = _NUCLEUS_PITCH_UM**2 * np.sqrt(0.75) / 1e6
    density = np.array([kind.nuclei_per_mm2 for kind in KINDS])
    chance = np.cumsum(mixture.shares(xy_um) * density * cell_mm2, axis=1)
    kind = (rng.uniform(size=len(xy_um))[:, None] >= chance).sum(axis=1)  # len(KINDS): no nucleus here
    is_there = kind < len(KINDS)
    xy_um, kind = xy_um[is_there], kind[is_there]
    mean_um = np.array([kind.nucleus_um for kind in KINDS])[kind]
    scattered = Ellipses(
        xy_um=xy_um,
        diameters_um=_shapes(mean_um, 0.15, rng),
        angle=rng.uniform(0, np.pi, len(xy_um)),
        kind=kind,
    )
    return _outside(_join([scattered, _epithelium(holes, rng)]), holes)


def _epithelium(holes: Ellipses, rng: np.random.Generator) -> Ellipses:
    """Place one ring of nuclei around each gland lumen, long side outwards."""
    is_lumen = holes.kind == _GLAND
    rings = []
    for centre, diameters, turn in zip(
        holes.xy_um[is_lumen], holes.diameters_um[is_lumen], holes.angle[is_lumen], strict=True
    ):
        radii = diameters / 2 + 7.0  # µm: a nucleus sits this far from the lumen
        around = np.arange(0, 2 * np.pi, _RING_PITCH_UM / radii.mean())
        x, y = radii[0] * np.cos(around), radii[1] * np.sin(around)
        ring = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1)
        rings.append((centre + ring + rng.normal(0, 0.8, ring.shape), around + turn))
    xy_um = np.concatenate([np.empty((0, 2)), *(ring for ring, _ in rings)])
    mean_um = np.tile(np.array(KINDS[_GLAND].nucleus_um), (len(xy_um), 1))
    return Ellipses(
        xy_um=xy_um,
        diameters_um=_shapes(mean_um, 0.12, rng),
        angle=np.concatenate([np.empty(0), *(angle for _, angle in rings)]),
        kind=np.full(len(xy_um), _GLAND),
    )


def _outside(nuclei: Ellipses, holes: Ellipses) -> Ellipses:
    """Leave out the nuclei that lie in a hole."""
    is_free = np.ones(len(nuclei.xy_um), dtype=bool)
    for centre, diameters, turn in zip(holes.xy_um, holes.diameters_um, holes.angle, strict=True):
        x, y = (nuclei.xy_um - centre).T
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        is_free &= np.hypot(2 * along / diameters[0], 2 * across / diameters[1]) > 1
    return Ellipses(
        xy_um=nuclei.xy_um[is_free],
        diameters_um=nuclei.diameters_um[is_free],
        angle=nuclei.angle[is_free],
        kind=nuclei.kind[is_free],
    )


def _join(parts: list[Ellipses]) -> Ellipses:
    """Put several sets together."""
    return Ellipses(
        xy_um=np.concatenate([part.xy_um for part in parts]),
        diameters_um=np.concatenate([part.diameters_um for part in parts]),
        angle=np.concatenate([part.angle for part in parts]),
        kind=np.concatenate([part.kind for part in parts]),
    )
