"""How large a pixel is: µm per pixel and the scale of the hires image, as options and h5ad state them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from spam.errors import ConfigError, SectionError

__all__ = ["Scale", "Unit", "find_scale", "scale_notes"]

Unit: TypeAlias = Literal["pixels", "um", "hires"]

_MPP_PLACES = (
    ("metadata", "mpp"),
    ("metadata", "microns_per_pixel"),
    ("scalefactors", "mpp"),
    ("scalefactors", "microns_per_pixel"),  # Visium HD
)
_VISIUM_SPOT_UM = 55.0

# µm per pixel: what an image of tissue can have, from oil immersion to an overview of a slide, and beyond which
# even an option must be a slip of the unit (nm, mm).
_PLAUSIBLE_MPP = (0.05, 20.0)
_POSSIBLE_MPP = (0.01, 100.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What is known of the size of a full-resolution pixel.

    Attributes
    ----------
    mpp, mpp_source
        µm per pixel and who stated it (``option`` or ``h5ad``); both None where nobody did.
    hires
        Pixels of the Visium hires image per full-resolution pixel, or None where unknown.
    """

    mpp: float | None
    mpp_source: str | None
    hires: float | None

    def units_per_pixel(self, unit: Unit) -> float | None:
        """Return the side of a full-resolution pixel in `unit`, or None where unknown."""
        return {"pixels": 1.0, "um": self.mpp, "hires": self.hires}[unit]


def find_scale(mpp_option: float | None, library: Mapping[str, Any]) -> Scale:
    """Take µm per pixel from the option, else from the h5ad's ``uns['spatial'][section]``.

    Raises
    ------
    ConfigError
        If the option is not a number from 0.01 to 100.
    SectionError
        If a value of the h5ad is not a positive number, or its µm per pixel not one from 0.05 to 20.
    """
    hires = _stated(library, "scalefactors", "tissue_hires_scalef")
    if mpp_option is not None:
        low, high = _POSSIBLE_MPP
        if not low <= mpp_option <= high:
            message = f"--mpp must be a positive number of µm per pixel, from {low:g} to {high:g}, not {mpp_option!r}"
            raise ConfigError(message)
        return Scale(mpp=float(mpp_option), mpp_source="option", hires=hires)
    for group, key in _MPP_PLACES:
        mpp = _stated(library, group, key)
        if mpp is not None:
            _refuse_implausible(mpp, group, key)
            return Scale(mpp=mpp, mpp_source="h5ad", hires=hires)
    return Scale(mpp=None, mpp_source=None, hires=hires)


def scale_notes(scale: Scale, library: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a user should know: that the h5ad's mpp is an estimate, or a hint where there is none."""
    if scale.mpp_source == "h5ad" and _entry(library, "metadata", "mpp_is_estimate"):
        return (f"the h5ad calls its {scale.mpp:g} µm per pixel an estimate: give --mpp if you know better",)
    diameter = _stated(library, "scalefactors", "spot_diameter_fullres") if scale.mpp is None else None
    if diameter is None:
        return ()
    return (
        f"the h5ad does not state µm per pixel; its spot_diameter_fullres {diameter:.1f} would mean about "
        f"{_VISIUM_SPOT_UM / diameter:.2f} µm/px for {_VISIUM_SPOT_UM:g} µm spots: pass --mpp if so",
    )


def _refuse_implausible(mpp: float, group: str, key: str) -> None:
    low, high = _PLAUSIBLE_MPP
    if not low <= mpp <= high:
        message = (
            f"uns['spatial'][section][{group!r}][{key!r}] of the h5ad states {mpp:g} µm per pixel, but images of tissue "
            f"have {low:g} to {high:g}; give the right number with --mpp"
        )
        raise SectionError(message)


def _entry(library: Mapping[str, Any], group: str, key: str) -> Any:
    entries = library.get(group)
    return entries.get(key) if isinstance(entries, Mapping) else None


def _stated(library: Mapping[str, Any], group: str, key: str) -> float | None:
    """Return a positive number of ``uns['spatial'][section]``, or None where it is not stated."""
    value = _entry(library, group, key)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        message = (
            f"uns['spatial'][section][{group!r}][{key!r}] of the h5ad must be a positive number, not "
            f"{value!r}; correct or remove it in the h5ad"
            + ("" if key.startswith(("tissue", "spot")) else ", or give --mpp")
        )
        raise SectionError(message)
    return number
