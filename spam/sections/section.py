"""A tissue section as the rest of the toolkit sees it, whatever files it came from."""

import dataclasses
from pathlib import Path
from typing import TypeAlias

from scipy.sparse import csr_matrix

from spam.schemas.store_format import SourceFile
from spam.typing import Array, Float64, Shaped

from .join_report import JoinReport

__all__ = ["Section", "SlideSource", "TileFiles", "TileSource"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlideSource:
    """One slide from which every tile of the section is cut."""

    path: Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TileFiles:
    """Tiles that were cropped before: one file per spot, in the order of the spots."""

    paths: tuple[Path, ...]


TileSource: TypeAlias = SlideSource | TileFiles


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section: the joined spots with their coordinates, counts and tiles, all in one order.

    The order is that of the h5ad, or of the table where there is no h5ad.

    Attributes
    ----------
    name, donor
        Section and donor; the donor is None where nobody said.
    ids
        Unique ids of the spots or cells, a NumPy text array (``<U``).
    xy_px
        Centres of the tiles as (column, row) in full-resolution slide pixels.
    xy_um
        The same in µm, or None where `mpp` is unknown.
    mpp, mpp_source
        µm per full-resolution pixel, and who said so: ``option`` or ``h5ad``; None where neither did (whoever
        opens the slide may know).
    counts, genes
        Raw counts as int32 and the names of their columns (``<U``); both None for pure prediction.
    obs
        Annotation columns of the h5ad: text (``<U``, missing is empty), numbers (missing is NaN) and
        booleans.
    tiles
        Where the pixels are.
    patch_px
        Side of the tiles in slide pixels as the table states it, or None where it states none or several.
    hires_scale
        Pixels of the Visium hires image per full-resolution pixel, or None where the h5ad holds none.
    join
        What matched and what did not.
    sources
        The files read, with digests.
    """

    name: str
    donor: str | None
    ids: Shaped[Array, " n_spots"]
    xy_px: Float64[Array, "n_spots 2"]
    xy_um: Float64[Array, "n_spots 2"] | None
    mpp: float | None
    mpp_source: str | None
    counts: csr_matrix | None
    genes: Shaped[Array, " n_genes"] | None
    obs: dict[str, Array]
    tiles: TileSource
    patch_px: int | None
    hires_scale: float | None
    join: JoinReport
    sources: tuple[SourceFile, ...]

    @property
    def n_spots(self) -> int:
        """Number of spots, which is at least one."""
        return len(self.ids)
