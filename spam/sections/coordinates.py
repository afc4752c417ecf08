"""Tile centres in full-resolution pixels, from whatever columns and unit the table has."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from spam.errors import ConfigError, SectionError
from spam.typing import Array, Float64, Shaped

from .scale import Scale, Unit
from .table import Table
from .wording import quoted

__all__ = [
    "BOX_COLUMNS",
    "CENTRE_COLUMNS",
    "Reading",
    "choose_reading",
    "compare_with_h5ad",
    "table_coordinates",
    "to_pixels",
]

BOX_COLUMNS = ("x0_he_px", "y0_he_px", "x1_he_px", "y1_he_px")
UM_COLUMNS = ("x_um", "y_um")
# In this order: pixels of the H&E image win over those of another image, and these over µm.
CENTRE_COLUMNS = (
    ("x", "y"),
    ("x_he_px", "y_he_px"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    BOX_COLUMNS,
    ("x_morph_px", "y_morph_px"),
    UM_COLUMNS,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way to read the table's coordinates: which columns, in which unit, in which order.

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

    @property
    def options(self) -> str:
        """The options that ask for this unit and order, as the end of a sentence: ``with --swap-xy``."""
        asked = [f"--coordinates {self.unit}"] if self.unit != "pixels" else []
        asked += ["--swap-xy"] if self.is_swapped else []
        return f"with {' '.join(asked)}" if asked else "without --coordinates and --swap-xy"


def choose_reading(table: Table, *, unit: Unit, is_swapped: bool) -> Reading:
    """Choose the coordinate columns of a table.

    Columns named in µm are always read in µm; with ``--coordinates um`` they come first.

    Raises
    ------
    SectionError
        If the table has no coordinates.
    ConfigError
        If it has µm alone and is to be read as hires pixels.
    """
    order = (UM_COLUMNS, *CENTRE_COLUMNS) if unit == "um" else CENTRE_COLUMNS
    columns = next((names for names in order if all(name in table for name in names)), None)
    if columns is None:
        accepted = "; ".join(", ".join(names) for names in CENTRE_COLUMNS)
        found = ", ".join(repr(column) for column in table.frame.columns)
        message = (
            f"{table.path} has no coordinates: it needs one of these sets of columns: {accepted}; its "
            f"columns are {found}"
        )
        raise SectionError(message)
    if columns == UM_COLUMNS and unit == "hires":
        message = (
            f"--coordinates hires contradicts {table.path}, whose only coordinates are {', '.join(columns)}; "
            "leave it out"
        )
        raise ConfigError(message)
    return Reading(columns=columns, unit="um" if columns == UM_COLUMNS else unit, is_swapped=is_swapped)


def table_coordinates(
    table: Table, reading: Reading, *, ids: Shaped[Array, " n_rows"]
) -> Float64[Array, "n_rows 2"]:
    """Return the centres as the table writes them; a box gives its middle.

    Raises
    ------
    SectionError
        If a coordinate is missing, no number, NaN or infinite; names the ids.
    """
    values = table.numbers(reading.columns)
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        message = (
            f"{table.path}: {int(broken.sum())} rows have no finite number in {', '.join(reading.columns)}, "
            f"first for the ids {quoted(list(ids[broken]))}; give each row its coordinates, or remove these "
            "rows"
        )
        raise SectionError(message)
    return (values[:, :2] + values[:, 2:]) / 2 if reading.columns == BOX_COLUMNS else values


def to_pixels(xy: Float64[Array, "n 2"], reading: Reading, scale: Scale) -> Float64[Array, "n 2"]:
    """Turn the table's coordinates into (column, row) of full-resolution pixels.

    Raises
    ------
    SectionError
        If µm are to be turned into pixels and µm per pixel is unknown, or hires pixels and the h5ad has no
        ``tissue_hires_scalef``.
    """
    ordered = np.ascontiguousarray(xy[:, ::-1]) if reading.is_swapped else xy
    units = scale.units_per_pixel(reading.unit)
    if units is not None:
        return ordered / units
    if reading.unit == "um":
        message = (
            f"the table's coordinates {', '.join(reading.columns)} are in µm, and µm per pixel is unknown: "
            "give --mpp (the slide's µm per full-resolution pixel)"
        )
    else:
        message = (
            "--coordinates hires needs uns['spatial'][section]['scalefactors']['tissue_hires_scalef'] in "
            "the h5ad, which is not there; give the table in full-resolution pixels, or add the scale "
            "factor to the h5ad"
        )
    raise SectionError(message)


def compare_with_h5ad(
    xy: Float64[Array, "n 2"],
    spatial: Float64[Array, "n 2"],
    reading: Reading,
    scale: Scale,
) -> tuple[str, ...]:
    """Compare the table's coordinates `xy` with ``obsm['spatial']`` of the same spots.

    Equal means within one unit of the table, so that rounded coordinates are equal. Returns no note if they
    agree, one that states the largest distance if they differ in a way that no option explains, and the factor
    between the two if there is a common one.

    Raises
    ------
    SectionError
        If they differ as read, but agree when x and y are swapped or the unit is another one; names the
        options.
    """
    distance = _distance(xy, spatial, reading, scale)
    if distance <= _tolerance(reading, scale):
        return ()
    for other in _other_readings(reading, scale):
        tolerance = _tolerance(other, scale)
        if _distance(xy, spatial, other, scale) <= tolerance:
            message = (
                f"the table's {', '.join(reading.columns)} lie up to {distance:.0f} px from obsm['spatial'] "
                f"of the h5ad, but equal it when read {other.options}: run again {other.options}, or "
                "correct obsm['spatial'] if the table is right"
            )
            raise SectionError(message)
    note = f"the table lies up to {distance:.1f} px from obsm['spatial'] of the h5ad; the table was used"
    factor = _common_factor(to_pixels(xy, reading, scale), spatial, tolerance=_tolerance(reading, scale))
    if factor is not None:
        note += (
            f", but it equals obsm['spatial'] times {factor:.4g}: one of the two is no full-resolution pixel of "
            "the slide; if it is the table, see --coordinates and --mpp"
        )
    return (note,)


def _common_factor(
    xy: Float64[Array, "n 2"], spatial: Float64[Array, "n 2"], *, tolerance: float
) -> float | None:
    """Return the one factor that turns `spatial` into `xy` within `tolerance` pixels; none if there is none."""
    length = float((spatial * spatial).sum())
    factor = float((xy * spatial).sum()) / length if length > 0 else 0.0
    is_common = len(xy) > 1 and factor > 0 and np.abs(xy - factor * spatial).max() <= tolerance
    return factor if is_common else None


def _other_readings(reading: Reading, scale: Scale) -> Iterator[Reading]:
    """Yield every other order, and every other unit that an option can ask for and whose scale is known."""
    units: tuple[Unit, ...] = ("um",) if reading.columns == UM_COLUMNS else ("pixels", "um", "hires")
    for unit in units:
        for is_swapped in (False, True):
            other = dataclasses.replace(reading, unit=unit, is_swapped=is_swapped)
            if other != reading and scale.units_per_pixel(unit) is not None:
                yield other


def _distance(
    xy: Float64[Array, "n 2"],
    spatial: Float64[Array, "n 2"],
    reading: Reading,
    scale: Scale,
) -> float:
    """Largest distance in pixels along one axis."""
    return float(np.abs(to_pixels(xy, reading, scale) - spatial).max())


def _tolerance(reading: Reading, scale: Scale) -> float:
    """One unit of the table in pixels, but at least one pixel: tables and h5ads are often rounded."""
    return max(1.0, 1.0 / (scale.units_per_pixel(reading.unit) or 1.0))
