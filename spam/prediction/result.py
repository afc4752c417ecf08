"""What a prediction is, and how it is written for others to read."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from spam.atomic import replacing
from spam.models.reliability import FALSE_DISCOVERY_RATE
from spam.schemas.tile_quality import TileFlag, flag_column
from spam.typing import Array, Bool, Float32, Float64, Shaped

from .context_facts import ContextFacts

__all__ = ["PredictedSection", "write_predictions", "write_table"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictedSection:
    """Expression predicted for one section.

    Attributes
    ----------
    section, donor
        Section and donor.
    ids, genes
        Spots and genes, in order.
    xy_px, xy_um
        Coordinates; µm are None where the slide's scale is unknown.
    flags
        Spots by the flags of their tiles (`spam.store.flagged_spots`); empty where no quality was measured. Nothing is
        predicted for those of ``unreadable``: all numbers of these spots are NaN.
    unclipped
        Log1p of the expected expression per 10k counts as the network says it, (n_spots, n_genes): below 0 for what it
        takes to be absent, which the rates know and `expression` does not show.
    depth
        Library size at which `mu` and the interval are stated.
    mu
        Mean of the count distribution before zero inflation, at `depth`.
    theta
        Inverse dispersion per gene, infinite for a Poisson.
    pi
        Probability of an excess zero, 0 without zero inflation.
    lower, upper
        Ends of the central predictive interval of log1p(CP10k) of a spot of `depth` counts.
    coverage
        Probability mass of the interval.
    heldout_pearson
        Correlation of each gene on the spots that training held out at first, within their section, (n_genes,): how far to
        trust a gene on tissue like the training sections'. NaN where it is not defined or was not measured.
    heldout_q
        False-discovery rate at which that correlation is above zero, (n_genes,): spots that lie together count as fewer,
        and the number of genes is adjusted for (`HeldOut.q_value`). NaN where the correlation is.
    bank_distance
        How unlike all training images a spot's image is, (n_spots,); above 1 it is farther from them than 99 % of what an
        unseen training section shows (`AppearanceBank`). NaN for spots without a prediction, and where the checkpoint was
        trained on this section alone.
    baselines
        Log1p(CP10k) by the baselines of the checkpoint, by name.
    raw_scale_baselines
        Log1p of raw counts by the HEST recipe, for its own board, with its genes.
    provenance
        Where the numbers come from; JSON-ready.
    context
        What measured spots of the section have said (`condition`); None where nothing of it was given.
    """

    section: str
    donor: str | None
    ids: Shaped[Array, " n_spots"]
    genes: tuple[str, ...]
    xy_px: Float64[Array, "n_spots 2"]
    xy_um: Float64[Array, "n_spots 2"] | None
    flags: Mapping[TileFlag, Bool[Array, " n_spots"]]
    unclipped: Float32[Array, "n_spots n_genes"]
    depth: float
    mu: Float32[Array, "n_spots n_genes"]
    theta: Float32[Array, " n_genes"]
    pi: Float32[Array, "n_spots n_genes"]
    lower: Float32[Array, "n_spots n_genes"]
    upper: Float32[Array, "n_spots n_genes"]
    coverage: float
    heldout_pearson: Float64[Array, " n_genes"]
    heldout_q: Float64[Array, " n_genes"]
    bank_distance: Float64[Array, " n_spots"]
    baselines: Mapping[str, Float32[Array, "n_spots n_genes"]]
    raw_scale_baselines: Mapping[str, tuple[tuple[str, ...], Array]]
    provenance: dict[str, Any]
    context: ContextFacts | None = None

    @property
    def expression(self) -> Float32[Array, "n_spots n_genes"]:
        """Log1p of the expected expression per 10k counts, at least 0: what is shown and scored."""
        expression: Array = np.maximum(self.unclipped, 0.0)
        return expression

    @property
    def is_predicted(self) -> Bool[Array, " n_spots"]:
        """Spots that something was predicted for: those whose tiles could be read."""
        return ~self.flags["unreadable"] if self.flags else np.ones(len(self.ids), dtype=bool)

    @property
    def is_predictable(self) -> Bool[Array, " n_genes"]:
        """Genes that held-out spots have shown to be predicted better than by chance."""
        return self.heldout_q <= FALSE_DISCOVERY_RATE

    @property
    def is_out_of_distribution(self) -> Bool[Array, " n_spots"]:
        """Spots whose image is unlike the training sections': their predictions are not to be trusted."""
        return self.bank_distance > 1.0

    def of_spots(self, rows: Bool[Array, " n_spots"]) -> "PredictedSection":
        """Leave out all spots but these."""
        per_spot = ("ids", "xy_px", "unclipped", "mu", "pi", "lower", "upper", "bank_distance")
        return dataclasses.replace(
            self,
            **{name: getattr(self, name)[rows] for name in per_spot},
            xy_um=None if self.xy_um is None else self.xy_um[rows],
            flags={flag: values[rows] for flag, values in self.flags.items()},
            baselines={name: values[rows] for name, values in self.baselines.items()},
            raw_scale_baselines={
                name: (genes, values[rows]) for name, (genes, values) in self.raw_scale_baselines.items()
            },
        )

    def to_anndata(self) -> anndata.AnnData:
        """Return ``X`` = log1p(CP10k) with its layers, and how far to trust it.

        Layers: ``mu``, ``theta``, ``pi``, ``lower`` and ``upper``. In ``obs``: flags of the tiles, ``bank_distance`` and
        ``is_out_of_distribution``. In ``var``: ``heldout_pearson``, ``heldout_q`` and ``is_predictable``.
        """
        obs = pd.DataFrame(index=pd.Index(self.ids.astype(str), name="spot_id"))
        obs["section"] = self.section
        obs["donor"] = self.donor or "unknown"
        for flag, values in self.flags.items():
            obs[flag_column(flag)] = values
        obs["bank_distance"] = self.bank_distance
        obs["is_out_of_distribution"] = self.is_out_of_distribution
        var = pd.DataFrame(
            {
                "heldout_pearson": self.heldout_pearson,
                "heldout_q": self.heldout_q,
                "is_predictable": self.is_predictable,
            },
            index=pd.Index(self.genes, name="gene"),
        )
        result = anndata.AnnData(X=self.expression, obs=obs, var=var)
        result.layers["mu"] = self.mu
        result.layers["theta"] = np.broadcast_to(self.theta, self.mu.shape).copy()
        result.layers["pi"] = self.pi
        result.layers["lower"] = self.lower
        result.layers["upper"] = self.upper
        result.obsm["spatial"] = self.xy_px
        if self.xy_um is not None:
            result.obsm["spatial_um"] = self.xy_um
        result.uns["spam"] = {
            "units": "X, lower and upper: log1p of expression per 10k counts; mu: counts at the stated depth",
            "depth": self.depth,
            "coverage": self.coverage,
            "provenance": json.dumps(self.provenance),
        }
        return result


def write_predictions(
    predicted: PredictedSection,
    path: Path,
    *,
    is_given_spot: Bool[Array, " n_spots"] | None = None,
    is_given_gene: Bool[Array, " n_genes"] | None = None,
) -> None:
    """Write an ``.h5ad`` that replaces an older one in one step; what was given stands in ``is_given`` of obs and var."""
    adata = predicted.to_anndata()
    if is_given_spot is not None:
        adata.obs["is_given"] = is_given_spot
    if is_given_gene is not None:
        adata.var["is_given"] = is_given_gene
    with replacing(path) as partial:
        adata.write_h5ad(partial, compression="gzip")


def write_table(predicted: PredictedSection, path: Path) -> None:
    """Write the predicted matrix as ``.csv`` or ``.parquet``: one row per spot, one column per gene.

    The last columns say how far to trust a spot: ``bank_distance`` and ``is_out_of_distribution``, and where the quality of
    the tiles was measured their flags (``tile_blank`` and so on). Numbers of a spot that nothing was predicted for are
    missing.
    """
    index = pd.Index(predicted.ids.astype(str), name="spot_id")
    table = pd.DataFrame(predicted.expression, index=index, columns=list(predicted.genes))
    table["bank_distance"] = predicted.bank_distance
    table["is_out_of_distribution"] = predicted.is_out_of_distribution
    for flag, values in predicted.flags.items():
        table[flag_column(flag)] = values
    with replacing(path) as partial:
        if path.suffix == ".csv":
            table.to_csv(partial, float_format="%.5g")
        else:
            table.to_parquet(partial)
