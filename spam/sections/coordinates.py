"""Tile centres in full-resolution pixels: the table's columns and units, the pixel size, and the check with the h5ad."""

import dataclasses
from collections.abc import Mapping
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np

from spam.errors import ConfigError, SectionError
from spam.typing import Array, Float64

from .lab_section import quoted
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
_VISIUM_SPOT_UM = 55.0

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
        A note if the h5ad's mpp is an estimate, or a hint from the spot diameter if there is no mpp.
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
        If a value in the h5ad is not a positive number, or its µm per pixel is not from 0.05 to 20.
    """
    hires = _stated(library, "scalefactors", "tissue_hires_scalef")
    if mpp_option is not None:
        low, high = _POSSIBLE_MPP
        if not low <= mpp_option <= high:
            message = f"--mpp must be µm per pixel, from {low:g} to {high:g}, not {mpp_option!r}."
            raise ConfigError(message)
        return Scale(mpp=float(mpp_option), mpp_source="option", hires=hires)
    low, high = PLAUSIBLE_MPP
    for group, key in _MPP_PLACES:
        mpp = _stated(library, group, key)
        if mpp is None:
            continue
        if not low <= mpp <= high:
            message = (
                f"{_place(group, key)} is {mpp:g}, expected {low:g} to {high:g} µm per pixel. Give --mpp."
            )
            raise SectionError(message)
        note = f"the h5ad marks its {mpp:g} µm per pixel as an estimate; see --mpp"
        is_estimate = bool(_entry(library, "metadata", "mpp_is_estimate"))
        return Scale(mpp=mpp, mpp_source="h5ad", hires=hires, notes=(note,) if is_estimate else ())
    diameter = _stated(library, "scalefactors", "spot_diameter_fullres")
    if diameter is None:
        return Scale(hires=hires)
    mpp = _VISIUM_SPOT_UM / diameter
    note = f"µm per pixel unknown; spot_diameter_fullres {diameter:.1f} means about {mpp:.2f}; see --mpp"
    return Scale(hires=hires, notes=(note,))


def _place(group: str, key: str) -> str:
    return f"uns['spatial'][section][{group!r}][{key!r}] of the h5ad"


def _entry(library: Mapping[str, Any], group: str, key: str) -> Any:
    entries = library.get(group)
    return entries.get(key) if isinstance(entries, Mapping) else None


def stated_factor(library: Mapping[str, Any], name: str) -> float | None:
    """Return one of the ``scalefactors`` of the h5ad where only drawings depend on it; None if it is no positive number."""
    try:
        factor = float(_entry(library, "scalefactors", name))
    except (TypeError, ValueError):
        return None
    return factor if 0 < factor < np.inf else None


def _stated(library: Mapping[str, Any], group: str, key: str) -> float | None:
    value = _entry(library, group, key)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        message = f"{_place(group, key)} must be a positive number, not {value!r}. Correct it, or see --mpp."
        raise SectionError(message)
    return number


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
        known, found = "; ".join(map(", ".join, CENTRE_COLUMNS)), ", ".join(map(repr, table.frame.columns))
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
        message = f"{table.path}: {int(broken.sum())} rows have no finite number in {names}: ids {ids}."
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
    no note if they agree; else the largest distance and, if there is one, the common factor.

    Raises
    ------
    SectionError
        If they disagree as read, but agree in another order or unit; names the options.
    """
    if obsm is None:
        return ()
    spatial = np.asarray(obsm, dtype=np.float64)[:, :2]
    if not np.isfinite(spatial).all():
        return ("obsm['spatial'] of the h5ad holds NaN; it was not compared with the table",)

    def disagreement(other: Reading) -> tuple[float, float]:
        distance = float(np.abs(to_pixels(xy, other, scale) - spatial).max())
        return distance, max(1.0, 1.0 / (scale.units_per_pixel(other.unit) or 1.0))

    distance, tolerance = disagreement(reading)
    if distance <= tolerance:
        return ()
    units: tuple[Unit, ...] = ("um",) if reading.columns == UM_COLUMNS else ("pixels", "um", "hires")
    for unit, is_swapped in product(units, (False, True)):
        other = dataclasses.replace(reading, unit=unit, is_swapped=is_swapped)
        if scale.units_per_pixel(unit) is None:
            continue
        other_distance, other_tolerance = disagreement(other)
        if other_distance <= other_tolerance:
            options = [f"--coordinates {unit}"] * (unit != "pixels") + ["--swap-xy"] * is_swapped
            again = f"with {' '.join(options)}" if options else "without --coordinates and --swap-xy"
            message = f"The table is up to {distance:.0f} px off obsm['spatial'] of the h5ad. Run again {again}: they agree."
            raise SectionError(message)
    note = f"the table differs from obsm['spatial'] of the h5ad by up to {distance:.1f} px; the table is used"
    px = to_pixels(xy, reading, scale)
    factor = float((px * spatial).sum()) / (float((spatial * spatial).sum()) or 1.0)
    if len(px) > 1 and factor > 0 and np.abs(px - factor * spatial).max() <= tolerance:
        note += f", but it is {factor:.4g} times obsm['spatial']: check --coordinates and --mpp"
    return (note,)
