"""Tile centres in full-resolution pixels: columns and units of the table, pixel size, spot pitch, comparison with the h5ad."""

import dataclasses
from collections.abc import Mapping
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy.spatial import cKDTree

from spam.errors import ConfigError, SectionError, counted, shortened
from spam.typing import Array, Bool, Float64

from .lab_section import SpotArray, quoted
from .tile_table import BOX_COLUMNS, Table

Unit: TypeAlias = Literal["pixels", "um", "hires"]

UM_COLUMNS = ("x_um", "y_um")
# In this order: pixels of the H&E image before those of another image, and these before µm.
CENTRE_COLUMNS = (
    ("x", "y"),
    ("x_he_px", "y_he_px"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    BOX_COLUMNS,
    ("x_morph_px", "y_morph_px"),
    UM_COLUMNS,
)

_MPP_PLACES = (
    ("metadata", "mpp"),
    ("metadata", "microns_per_pixel"),
    ("scalefactors", "mpp"),
    ("scalefactors", "microns_per_pixel"),  # Visium HD
)
_PITCH_KEYS = (("metadata", "spot_pitch_um"), ("metadata", "pitch_um"), ("scalefactors", "bin_size_um"))
_VISIUM_PITCH_UM = 100.0
# Space Ranger's spot_diameter_fullres is that of a theoretical spot of 65 µm; other programs write the 55 µm of the print.
_VISIUM_SPOT_UM = (65.0, 55.0)

_N_PROBES = 2000  # spots whose neighbours are looked at: a lattice repeats itself
# A spot of a hexagonal lattice has six neighbours at one distance. Spots of legacy ST arrays (square, printed with a jitter
# of 15 %) and cells have none; at the rim of the tissue up to three quarters of the spots lack some of the six.
_HEXAGON, _LEAST_HEXAGONS = 1.15, 0.1
_SQUARE, _LEAST_SQUARES = 1.5, 0.5  # the same for four neighbours; random points have 0.17
_MPP_TOLERANCE = 0.05  # nominal and measured pixel sizes differ by a few per cent; a wrong one by a factor
_PITCH_TOLERANCE = {"Visium": 0.1}
_STATED_PITCH_TOLERANCE = 0.25  # printed spots are up to 15 % away from their place
_MOST = 0.5  # of the spots: a few wrong rows must not hide what all others say
_SAME = 1e-3  # of two pixel sizes: rounded to three digits

PLAUSIBLE_MPP = (0.05, 20.0)
"""µm per pixel that an image of tissue can have, from 200x oil immersion to an overview scan (72 dpi would be 353 µm)."""
_POSSIBLE_MPP = (0.01, 100.0)  # beyond, even an option must be a slip of the unit (nm, mm)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Size of a full-resolution pixel.

    Attributes
    ----------
    mpp, mpp_source
        µm per pixel and its source (``option`` or ``h5ad``); both None if unknown.
    hires
        Pixels of the Visium hires image per full-resolution pixel, or None if unknown.
    notes
        What ``--mpp`` overrides, or that the h5ad's mpp is an estimate.
    """

    mpp: float | None = None
    mpp_source: str | None = None
    hires: float | None = None
    notes: tuple[str, ...] = ()

    def units_per_pixel(self, unit: Unit) -> float | None:
        """Return the side of a full-resolution pixel in `unit`, or None if unknown."""
        return {"pixels": 1.0, "um": self.mpp, "hires": self.hires}[unit]


def find_scale(mpp_option: float | None, library: Mapping[str, Any]) -> Scale:
    """Take µm per pixel from the option, else from the h5ad's ``uns['spatial'][section]``.

    Raises
    ------
    ConfigError
        If the option is not from 0.01 to 100.
    SectionError
        If a value in the h5ad is not a positive number, its µm per pixel is not from 0.05 to 20, or it states two values.
    """
    hires = _stated(library, "scalefactors", "tissue_hires_scalef")
    places = [place for place in _MPP_PLACES if _entry(library, *place) is not None]
    if mpp_option is not None:
        low, high = _POSSIBLE_MPP
        if not low <= mpp_option <= high:
            message = f"--mpp must be µm per pixel, from {low:g} to {high:g}, not {mpp_option!r}."
            raise ConfigError(message)
        stated = ((_place(*place), _entry(library, *place)) for place in places)
        notes = tuple(filter(None, (overridden(mpp_option, where, value) for where, value in stated)))
        return Scale(mpp=float(mpp_option), mpp_source="option", hires=hires, notes=notes)
    low, high = PLAUSIBLE_MPP
    found: dict[str, float] = {}
    for place in places:
        mpp = found[_place(*place)] = _stated(library, *place) or 0.0
        if not low <= mpp <= high:
            message = f"{_place(*place)} is {mpp:g}, expected {low:g} to {high:g} µm per pixel. Give --mpp."
            raise SectionError(message)
    if not found:
        return Scale(hires=hires)
    mpp = next(iter(found.values()))
    if max(found.values()) > min(found.values()) * (1 + _MPP_TOLERANCE):
        words = ", ".join(f"{where} is {value:g}" for where, value in found.items())
        message = f"The h5ad states several µm per pixel: {words}. Give the right one with --mpp."
        raise SectionError(message)
    is_estimate = bool(_entry(library, "metadata", "mpp_is_estimate"))
    note = f"the h5ad marks its {mpp:g} µm per pixel as an estimate; see --mpp"
    return Scale(mpp=mpp, mpp_source="h5ad", hires=hires, notes=(note,) if is_estimate else ())


def overridden(mpp_option: float, where: str, value: Any) -> str | None:
    """Say which stated µm per pixel the option overrides and by which factor; None if both are the same."""
    number = _number(value)
    if number is None:
        return f"--mpp {mpp_option:g} is used; {where} is {shortened(value)}, which is no pixel size"
    if abs(mpp_option - number) <= _SAME * number:
        return None
    return f"--mpp {mpp_option:g} overrides the {number:g} µm per pixel of {where} (by a factor of {mpp_option / number:.3g})"


def _place(group: str, key: str) -> str:
    return f"uns['spatial'][section][{group!r}][{key!r}] of the h5ad"


def _entry(library: Mapping[str, Any], group: str, key: str) -> Any:
    entries = library.get(group)
    return entries.get(key) if isinstance(entries, Mapping) else None


def _number(value: Any) -> float | None:
    """Return a value of a file (R writes arrays of length one) as a positive finite number, or None if it is not one."""
    try:
        number = float(np.asarray(value).item())
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number < np.inf else None


def hires_scale(library: Mapping[str, Any]) -> float | None:
    """Return the pixels of the hires image per full-resolution pixel; None if the library states no positive number."""
    return _number(_entry(library, "scalefactors", "tissue_hires_scalef"))


def spot_diameter(library: Mapping[str, Any], mpp: float | None) -> float | None:
    """Return the diameter of a spot in full-resolution pixels that the h5ad states, in pixels or in µm; None if it does not."""
    diameter_um = _number(_entry(library, "metadata", "spot_diameter_um"))
    stated = _number(_entry(library, "scalefactors", "spot_diameter_fullres"))
    return stated or (diameter_um / mpp if diameter_um and mpp else None)


def _stated(library: Mapping[str, Any], group: str, key: str) -> float | None:
    value = _entry(library, group, key)
    if value is None:
        return None
    number = _number(value)
    if number is None:
        message = f"{_place(group, key)} must be a positive number, not {shortened(value)}. Correct it, or see --mpp."
        raise SectionError(message)
    return number


def find_array(xy_px: Float64[Array, "n 2"], library: Mapping[str, Any]) -> SpotArray | None:
    """Recognise the array that the spots were printed on, by the distances between neighbours; None for cells and others.

    Either the h5ad states the distance (``metadata['spot_pitch_um']``, ``scalefactors['bin_size_um']``), or the spots lie on
    a hexagonal lattice, as those of Visium do (100 µm). A part of a section is enough if it has neighbours.
    """
    if len(xy_px) <= 6:
        return None
    probes = xy_px[:: -(-len(xy_px) // _N_PROBES)]
    near = cKDTree(xy_px).query(probes, k=7)[0][:, 1:]
    stated = (_number(_entry(library, *place)) for place in _PITCH_KEYS)
    pitch_um = next(filter(None, stated), None)
    for name, n_near, ratio, least in (
        ("Visium", 6, _HEXAGON, _LEAST_HEXAGONS),
        ("", 4, _SQUARE, _LEAST_SQUARES),
    ):
        is_regular = near[:, n_near - 1] < ratio * near[:, 0]
        if is_regular.mean() >= least and (pitch_um or name):
            pitch_px = float(np.median(near[is_regular, :n_near].mean(axis=1)))
            is_visium = pitch_um in (None, _VISIUM_PITCH_UM) and bool(name)
            return SpotArray(
                name="Visium" if is_visium else "the h5ad",
                pitch_um=pitch_um or _VISIUM_PITCH_UM,
                pitch_px=pitch_px,
            )
    return None


def pitch_hint(array: SpotArray | None, library: Mapping[str, Any]) -> str | None:
    """Estimate µm per pixel from the spot pitch, compared with ``spot_diameter_fullres``; None without either."""
    diameter_px = _number(_entry(library, "scalefactors", "spot_diameter_fullres"))
    by_diameter = {um: um / diameter_px for um in _VISIUM_SPOT_UM} if diameter_px else {}
    diameter = f"spot_diameter_fullres {diameter_px or 0:.1f}"
    if array is None:
        guesses = (f"{diameter} means about {mpp:.3g} (Visium: {um:g} µm)" for um, mpp in by_diameter.items())
        found = next(guesses, None)
    else:
        found = f"a spot pitch of {array.pitch_px:.1f} px means about {array.mpp:.3g} ({array.name}: {array.pitch_um:g} µm)"
        gaps = {um: abs(mpp / array.mpp - 1) for um, mpp in by_diameter.items()}
        same = [
            f"with which {diameter} agrees ({um:g} µm)" for um, gap in gaps.items() if gap <= _MPP_TOLERANCE
        ]
        found += f", {next(iter(same), f'{diameter} does not fit')}" if by_diameter else ""
    return f"µm per pixel unknown; {found}; see --mpp" if found else None


def require_pitch(array: SpotArray | None, mpp: float | None, source: str | None, section: str) -> None:
    """Raise if µm per pixel puts the spots at a distance that their array does not have.

    Raises
    ------
    SectionError
        Names both distances, and the ``--mpp`` that fits.
    """
    if array is None or mpp is None:
        return
    tolerance = _PITCH_TOLERANCE.get(array.name, _STATED_PITCH_TOLERANCE)
    if abs(array.pitch_px * mpp - array.pitch_um) <= tolerance * array.pitch_um:
        return
    origin = "--mpp" if source == "option" else f"from the {source}"
    pitch = f"the spot pitch {'stated' if array.name != 'Visium' else 'of Visium'}"
    message = (
        f"With {mpp:g} µm per pixel ({origin}), neighbouring spots of section {section!r} are {array.pitch_px * mpp:.4g} µm "
        f"apart, but {pitch} is {array.pitch_um:g} µm. Give --mpp {array.mpp:.4g}, or check the coordinates."
    )
    raise SectionError(message)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the table's coordinates are read.

    Attributes
    ----------
    columns
        Two columns of centres, or the four of `BOX_COLUMNS`.
    unit
        Unit of the columns.
    is_swapped
        Whether the first column is the row and the second the column.
    """

    columns: tuple[str, ...]
    unit: Unit
    is_swapped: bool


def choose_reading(table: Table, *, unit: Unit, is_swapped: bool) -> Reading:
    """Choose the coordinate columns of a table.

    Columns named in µm are always read in µm; with ``--coordinates um`` they come first.

    Raises
    ------
    SectionError
        If the table has no coordinates.
    ConfigError
        If it has only µm but ``--coordinates hires`` was given.
    """
    order = (UM_COLUMNS, *CENTRE_COLUMNS) if unit == "um" else CENTRE_COLUMNS
    columns = next((names for names in order if all(name in table for name in names)), None)
    if columns is None:
        known, found = "; ".join(map(", ".join, CENTRE_COLUMNS)), quoted(table.frame.columns)
        message = f"{table.path} has no coordinates ({known}), only {found}."
        raise SectionError(message)
    if columns == UM_COLUMNS and unit == "hires":
        message = f"{table.path} has only {', '.join(columns)}. Leave out --coordinates hires."
        raise ConfigError(message)
    return Reading(columns=columns, unit="um" if columns == UM_COLUMNS else unit, is_swapped=is_swapped)


def table_coordinates(table: Table, reading: Reading) -> Float64[Array, "n_rows 2"]:
    """Return the centres in the units of the table; a box gives its middle.

    Raises
    ------
    SectionError
        If a coordinate is not a finite number; names the ids.
    """
    values = table.numbers(reading.columns)
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        ids, names = quoted(table.text(table.id_column)[broken].tolist()), ", ".join(reading.columns)
        cells = quoted(table.frame.loc[broken, list(reading.columns)].iloc[0])
        rows = counted(int(broken.sum()), "row", "have")
        message = f"{table.path}: {rows} no finite number in {names}: ids {ids}; the first has {cells}."
        raise SectionError(message)
    return (values[:, :2] + values[:, 2:]) / 2 if reading.columns == BOX_COLUMNS else values


def to_pixels(xy: Float64[Array, "n 2"], reading: Reading, scale: Scale) -> Float64[Array, "n 2"]:
    """Convert the table's coordinates to (column, row) in full-resolution pixels.

    Raises
    ------
    SectionError
        If the scale of the unit is unknown.
    """
    ordered = np.ascontiguousarray(xy[:, ::-1]) if reading.is_swapped else xy
    units = scale.units_per_pixel(reading.unit)
    if units is not None:
        return ordered / units
    message = f"--coordinates hires needs {_place('scalefactors', 'tissue_hires_scalef')}, which is missing."
    if reading.unit == "um":
        message = f"The table's {', '.join(reading.columns)} need µm per pixel, which is unknown. Give --mpp."
    raise SectionError(message)


def compare_with_h5ad(
    xy: Float64[Array, "n 2"], obsm: Any, reading: Reading, scale: Scale
) -> tuple[str, ...]:
    """Compare the table's coordinates `xy` with ``obsm['spatial']`` of the same spots, or None.

    They agree if they differ by at most one unit of the table (and one pixel), because tables are often rounded. Returns
    no note if they agree; else the number of spots, the largest distance and, if there is one, the common factor. Spots
    that are not finite in the h5ad are counted in a note, and the others compared.

    Raises
    ------
    SectionError
        If more spots agree in another order or unit, and over half of them do; names the options.
    """
    if obsm is None:
        return ()
    spatial = np.asarray(obsm, dtype=np.float64)[:, :2]
    is_known = np.isfinite(spatial).all(axis=1)
    n, n_lost = int(is_known.sum()), int((~is_known).sum())
    lost = f"obsm['spatial'] of the h5ad holds NaN or infinity for {n_lost} of {len(xy)} spots; they were not compared"
    notes = (lost,) if n_lost else ()
    if not n:
        return notes
    xy, spatial = xy[is_known], spatial[is_known]

    def agreeing(other: Reading, factor: float = 1.0) -> Bool[Array, " n"]:
        tolerance = max(1.0, 1.0 / (scale.units_per_pixel(other.unit) or 1.0))
        distances = np.abs(to_pixels(xy, other, scale) - factor * spatial)
        return np.asarray(distances.max(axis=1) <= tolerance)

    px = to_pixels(xy, reading, scale)
    agrees = agreeing(reading)
    if agrees.all():
        return notes
    distance = float(np.abs(px - spatial).max())
    best, words = max(int(agrees.sum()), int(_MOST * n)), None
    units: tuple[Unit, ...] = ("um",) if reading.columns == UM_COLUMNS else ("pixels", "um", "hires")
    for unit, is_swapped in product(units, (False, True)):
        if scale.units_per_pixel(unit) is None:
            continue
        other = dataclasses.replace(reading, unit=unit, is_swapped=is_swapped)
        n_agreeing = int(agreeing(other).sum())
        if n_agreeing > best:
            options = [f"--coordinates {unit}"] * (unit != "pixels") + ["--swap-xy"] * is_swapped
            best = n_agreeing
            words = f"with {' '.join(options)}" if options else "without --coordinates and --swap-xy"
    if words is not None:
        found = f"The table is up to {distance:.6g} px off obsm['spatial'] of the h5ad"
        message = f"{found}. Run again {words}: then {best} of {n} spots agree."
        raise SectionError(message)
    where = f"by up to {round(distance, 1):.6g} px ({int((~agrees).sum())} of {n} spots)"
    note = f"the table differs from obsm['spatial'] of the h5ad {where}; the table is used"
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = float(np.nanmedian(px / spatial))
    if n > 1 and 0 < factor < np.inf and agreeing(reading, factor).sum() > best:
        note += f", but it is {factor:.4g} times obsm['spatial']: check --coordinates and --mpp"
    return (*notes, note)
