"""A section on its way to other tools: an AnnData of counts or predictions, and what is drawn of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import anndata
import numpy as np
from scipy import sparse

from spam.sections.coordinates import hires_scale, spot_diameter
from spam.store.writing import usual_spot_diameter
from spam.typing import Array, Bool, Float64, UInt8

_N_GENES = 20  # where a format holds some genes and none are named


@dataclasses.dataclass(frozen=True, kw_only=True)  # without slots, for cached_property
class ExportedSection:
    """One section of a store, or a prediction.

    Attributes
    ----------
    name
        Name of the section.
    adata
        Spots, genes, coordinates (``obsm["spatial"]``, full-resolution pixels) and, if there is one, the overview image.
    """

    name: str
    adata: anndata.AnnData

    @property
    def is_dense(self) -> bool:
        """Whether ``X`` is a dense matrix, as in predictions."""
        return self.adata.X is not None and not sparse.issparse(self.adata.X)

    @cached_property
    def xy_px(self) -> Float64[Array, "n_spots 2"]:
        """Spot centres in full-resolution pixels (x = column, y = row)."""
        return np.asarray(self.adata.obsm["spatial"], dtype=np.float64)[:, :2]

    @cached_property
    def mpp(self) -> float | None:
        """µm per full-resolution pixel; None if the file has no coordinates in µm."""
        if "spatial_um" not in self.adata.obsm or not self.xy_px.any():
            return None
        return float((self.xy_px * self.adata.obsm["spatial_um"]).sum() / (self.xy_px**2).sum())

    @property
    def diameter_px(self) -> float:
        """Diameter of a spot in full-resolution pixels, as stated or estimated from the distance between spots."""
        return spot_diameter(self._library, self.mpp) or usual_spot_diameter(self.xy_px)

    @property
    def _library(self) -> Mapping[str, Any]:
        """``uns["spatial"][section]``, or the only entry under any name."""
        stated = self.adata.uns.get("spatial")
        stated = stated if isinstance(stated, Mapping) else {}
        found = stated.get(self.name, next(iter(stated.values())) if len(stated) == 1 else {})
        return found if isinstance(found, Mapping) else {}

    @property
    def overview(self) -> tuple[UInt8[Array, "h w 3"], float] | None:
        """Overview image (white if a store has none) and its pixels per full-resolution pixel; None without both."""
        scale, images = hires_scale(self._library), self._library.get("images")
        image = images.get("hires") if isinstance(images, Mapping) else None
        if image is None or scale is None:
            return None
        pixels = np.asarray(image)
        pixels = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels[..., :3]
        if pixels.dtype != np.uint8:  # scanpy reads PNG files as numbers from 0 to 1
            whole = (
                np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1 if pixels.max() <= 1 else 255
            )
            pixels = np.round(pixels * (255 / whole)).astype(np.uint8)
        return pixels, scale

    def values(self, genes: Sequence[str]) -> Float64[Array, "n_spots n_genes"]:
        """Values of ``X`` of some genes: raw counts of a store, log1p(CP10k) of a prediction."""
        found = self.adata[:, list(genes)].X
        return np.asarray(found.toarray() if sparse.issparse(found) else found, dtype=np.float64)

    def default_genes(self) -> tuple[str, ...]:
        """Choose the 20 best predicted genes (on held-out spots of training) or, without predictions, the most variable."""
        rank = self.adata.var.get("heldout_pearson")
        # NaN last
        order = np.argsort(-self._variances() if rank is None else -rank.to_numpy(), kind="stable")
        return tuple(self.adata.var_names[order[:_N_GENES]])

    def _variances(self) -> Float64[Array, " n_genes"]:
        """Variance of log1p of ``X`` over the spots."""
        x = sparse.csc_array(self.adata.X).astype(np.float64).log1p()
        variances: Array = np.asarray((x * x).mean(axis=0) - x.mean(axis=0) ** 2).ravel()
        return variances

    @property
    def is_known(self) -> Bool[Array, " n_spots"]:
        """Spots with values: those of a prediction whose tiles could be read."""
        is_known: Array = (
            ~np.isnan(self.adata.X).all(axis=1) if self.is_dense else np.ones(self.adata.n_obs, bool)
        )
        return is_known
