"""The rotation, scale and shift that bring spots onto their slide: searched from many starts, and measured."""

import dataclasses
import math

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from spam.typing import Array, Float64

from .placement import AS_GIVEN, EXCHANGED, LEAST_COVERED, Evidence, better_placement, is_better, placements
from .slide import Slide
from .tile_cutting import cut_tile

# Coordinates of a reduced image, or in µm, are scaled about the corner of the slide.
_FACTORS = 1.03 ** np.arange(-70, 71)  # 1/8 to 8
_SHIFTS = range(-4, 5)  # in distances of neighbouring spots
_ANGLES = (-8.0, -4.0, 0.0, 4.0, 8.0)  # degrees, with shifts of at most two distances
_N_REFINED = 4
_STEPS = np.array([2.0, 0.03, 0.5, 0.5])  # of the search: degrees, log of the scale, distances
_MOST_STEPS_OF_SCALE = 5  # 15 %
_LEAST_GAIN = 0.03
_LEAST_SEARCHED = 100  # spots: with 49, wrong corrections were found

# Root mean square distance (in distances of spots) over which a placement counts as another. In 16 real sections the search moved
# right placements by at most 0.32.
_DISPLACED = 0.35

_MOST_CELLS, _AROUND_UM, _NUCLEAR_BLUR_UM, _CLEAR_ERRORS = 500, 65, 1.5, 6.0
# Mean resultant length of the directions to four neighbours; legacy ST arrays, printed with a jitter, have 0.7, random points 0.
_LEAST_ON_LATTICE, _ALIGNED, _SQUARE, _HEXAGON = 20, 0.3, 4, 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Where the spots belong, relative to where they are.

    Attributes
    ----------
    way
        One of the `placements`, applied first.
    angle, scale
        Rotation in degrees (clockwise on the picture) and factor about the centre of the spots.
    shift_px
        Shift of their centre.
    matrix, offset_px
        The same as ``xy @ matrix.T + offset_px``.
    gain
        By how much the mean score is higher.
    is_wrong
        Whether the spots are misplaced: the gain is no chance, and the change larger than the error of the search.
    """

    way: str
    angle: float
    scale: float
    shift_px: tuple[float, float]
    matrix: Float64[Array, "2 2"]
    offset_px: Float64[Array, " 2"]
    gain: float
    is_wrong: bool

    def apply(self, xy_px: Float64[Array, "n 2"]) -> Float64[Array, "n 2"]:
        """Return the places where spots belong."""
        return np.asarray(xy_px @ self.matrix.T + self.offset_px)

    def shifted(self, right_px: float, down_px: float) -> "Registration":
        """Return this registration with a further shift, by which the spots are wrong."""
        shift = np.array([right_px, down_px])
        return dataclasses.replace(
            self,
            shift_px=(self.shift_px[0] + right_px, self.shift_px[1] + down_px),
            offset_px=self.offset_px + shift,
            is_wrong=True,
        )

    @staticmethod
    def identity() -> "Registration":
        """Return the registration of spots that are where they belong."""
        return Registration(
            way=AS_GIVEN,
            angle=0.0,
            scale=1.0,
            shift_px=(0.0, 0.0),
            matrix=np.eye(2),
            offset_px=np.zeros(2),
            gain=0.0,
            is_wrong=False,
        )


def moved(
    xy_px: Float64[Array, "n 2"], angle: float, scale: float, shift_px: tuple[float, float]
) -> Float64[Array, "n 2"]:
    """Turn points about their centre (degrees, clockwise on the picture), scale them, and shift them."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    centre = xy_px.mean(axis=0)
    return np.asarray((xy_px - centre) @ turn.T * scale + centre + np.asarray(shift_px))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    way: str
    values: tuple[float, float, float, float]  # degrees, log of the scale, shift in distances


def register(evidence: Evidence) -> Registration:
    """Search for the placement with the highest score.

    Starts are the eight `placements`, scales about the corner of the slide (also with x and y exchanged; the spots must then
    enclose most of the tissue), shifts and small rotations; the best are refined by the Nelder-Mead method. Without counts of 100
    spots, only the placements are compared: tissue alone fits alike in many places, and at any smaller scale.
    """
    ways = placements(evidence.xy_px, *evidence.size)
    distance = evidence.distance_px
    if not evidence.has_fit or len(evidence.rows) < _LEAST_SEARCHED:
        better = better_placement(evidence)
        return _registration(evidence, better[0] if better else AS_GIVEN, np.zeros(4), is_wrong=bool(better))

    def place(start: _Start, steps: Array = np.zeros(4)) -> Float64[Array, "n 2"]:  # noqa: B008  never changed
        return _moved(ways[start.way], np.array(start.values) + steps * _STEPS, distance)

    def loss(steps: Array, start: _Start) -> float:
        if abs(steps[1]) > _MOST_STEPS_OF_SCALE:
            return math.inf
        return -float(evidence.scores(place(start, steps)).mean())

    plain = [_Start(way=way, values=(0.0, 0.0, 0.0, 0.0)) for way in ways]
    scaled = [one for one in _scales(evidence, ways) if evidence.covered(place(one)) >= LEAST_COVERED]
    starts = sorted([*plain, *scaled, *_shifts()], key=lambda start: loss(np.zeros(4), start))
    simplex = np.vstack([np.zeros(4), np.eye(4)])
    options = {"initial_simplex": simplex, "xatol": 0.03, "fatol": 1e-4}
    found = [
        (minimize(loss, np.zeros(4), (start,), method="Nelder-Mead", options=options), start)
        for start in starts[:_N_REFINED]
    ]
    best, start = min(found, key=lambda one: float(one[0].fun))
    there, whole = place(start, best.x), ways[start.way]
    # The plain placement, unless moving it is better and more than the error of the search. Half a section may lie on more tissue
    # elsewhere, but explains less there.
    moves = ((there - whole) ** 2).sum(axis=1).mean() ** 0.5 / distance
    explains = evidence.fits(there).mean() >= evidence.fits(evidence.xy_px).mean()
    is_moved = moves >= _DISPLACED and bool(explains)
    is_moved = is_moved and is_better(evidence.scores(there), evidence.scores(whole), _LEAST_GAIN)
    values = np.array(start.values) + best.x * _STEPS if is_moved else np.zeros(4)
    end, given = evidence.scores(there if is_moved else whole), evidence.scores(evidence.xy_px)
    is_wrong = (is_moved or start.way != AS_GIVEN) and is_better(end, given, _LEAST_GAIN)
    return _registration(evidence, start.way, values, is_wrong=True) if is_wrong else Registration.identity()


def _moved(xy_px: Float64[Array, "n 2"], values: Array, distance: float) -> Float64[Array, "n 2"]:
    angle, log_scale, right, down = values.tolist()
    return moved(xy_px, angle, math.exp(log_scale), (right * distance, down * distance))


def _registration(evidence: Evidence, way: str, values: Array, *, is_wrong: bool) -> Registration:
    """Describe a placement that was moved by degrees, the log of a scale, and a shift in distances."""
    distance = evidence.distance_px
    there = _moved(placements(evidence.xy_px, *evidence.size)[way], values, distance)
    linear = np.linalg.lstsq(np.column_stack([evidence.xy_px, np.ones(len(there))]), there, rcond=None)[0].T
    return Registration(
        way=way,
        angle=float(values[0]),
        scale=math.exp(values[1]),
        shift_px=(float(values[2] * distance), float(values[3] * distance)),
        matrix=linear[:, :2],
        offset_px=linear[:, 2],
        gain=float((evidence.scores(there) - evidence.scores(evidence.xy_px)).mean()),
        is_wrong=is_wrong,
    )


def _shifts() -> list[_Start]:
    return [
        _Start(way=AS_GIVEN, values=(angle, 0.0, float(right), float(down)))
        for angle in _ANGLES
        for right in _SHIFTS
        for down in _SHIFTS
        if not angle or max(abs(right), abs(down)) <= 2
    ]


def _scales(evidence: Evidence, ways: dict[str, Float64[Array, "n 2"]]) -> list[_Start]:
    """Return scales about the corner of the slide, as scales about the centre of the spots and shifts."""
    centres = {way: ways[way].mean(axis=0) / evidence.distance_px for way in (AS_GIVEN, EXCHANGED)}
    return [
        _Start(way=way, values=(0.0, math.log(s), float((s - 1) * x), float((s - 1) * y)))
        for way, (x, y) in centres.items()
        for s in _FACTORS
    ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NuclearOffset:
    """Where the nuclei are around cells.

    Attributes
    ----------
    mean
        Mean optical density around a cell, minus that of its surroundings; 1 µm per pixel, the cell in the middle.
    offset_um
        Place of the peak relative to the cell (right, down).
    errors
        Height of the peak in standard errors.
    """

    mean: Float64[Array, "px px"]
    offset_um: tuple[float, float]
    errors: float

    @property
    def is_clear(self) -> bool:
        """Whether the peak is a nucleus: spots and random places have up to 4 standard errors, lung cells 24."""
        return self.errors >= _CLEAR_ERRORS


def nuclear_offset(slide: Slide, xy_px: Float64[Array, "n 2"], mpp: float) -> NuclearOffset:
    """Average the picture around (at most 500) cells, and find the nuclei by the peak of its optical density."""
    chosen = np.random.default_rng(0).permutation(len(xy_px))[:_MOST_CELLS]
    densities = []
    for x, y in xy_px[np.sort(chosen)].tolist():
        tile = cut_tile(slide, x, y, native_px=_AROUND_UM / mpp, out_px=_AROUND_UM)
        density = -np.log((tile.astype(np.float32) + 1) / 256).mean(axis=2)
        densities.append(ndimage.gaussian_filter(density - density.mean(), _NUCLEAR_BLUR_UM))
    around = np.stack(densities).astype(np.float64)
    mean = around.mean(axis=0)
    errors = mean / (around.std(axis=0) / math.sqrt(len(around)) + 1e-9)
    row, column = np.unravel_index(int(mean.argmax()), mean.shape)
    middle = _AROUND_UM // 2
    return NuclearOffset(
        mean=mean,
        offset_um=(float(column - middle), float(row - middle)),
        errors=float(errors[row, column]),
    )


def lattice_angle(xy_px: Float64[Array, "n 2"]) -> float | None:
    """Return by how many degrees the rows of a lattice are turned against the picture; None for points on no lattice.

    The angle is that of the nearest row, column or diagonal: at most 22.5° (square lattice) or 15° (hexagonal).
    """
    if len(xy_px) < _LEAST_ON_LATTICE:
        return None
    _, near = cKDTree(xy_px).query(xy_px, k=5)
    steps = (xy_px[near[:, 1:]] - xy_px[:, None]).reshape(-1, 2)
    turns = np.arctan2(steps[:, 1], steps[:, 0])
    means = {fold: complex(np.exp(1j * fold * turns).mean()) for fold in (_SQUARE, _HEXAGON)}
    fold = _SQUARE if abs(means[_SQUARE]) >= _ALIGNED else _HEXAGON
    if abs(means[fold]) < _ALIGNED:
        return None
    angle, period = math.degrees(np.angle(means[fold])) / fold, 360 / max(fold, 8)
    return angle - period * round(angle / period)
