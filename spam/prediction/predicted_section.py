"""A predicted section, and the files that it is written to."""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anndata
import numpy as np
import pandas as pd

from spam.atomic import replacing
from spam.h5ad_output import write_h5ad
from spam.models.reliability import FALSE_DISCOVERY_RATE
from spam.schemas.tile_spec import TileFlag, flag_column
from spam.store import StoredSection
from spam.store.anndata_files import add_places
from spam.store.layout import LIBRARY
from spam.store.writing import library_column
from spam.typing import Array, Bool, Float, Float32, Float64, Shaped

from .kriging import ResidualField

_ROWS = 4096  # spots that are computed with at a time

LibrarySize: TypeAlias = Literal["stated", "sums", "panel"]
"""Library sizes of measured spots: stated in the file, the sums of its counts, or unknown because it holds a panel."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContextReport:
    """Which part of a context file a prediction used, and what was estimated from it (`condition`).

    Attributes
    ----------
    n_spots, n_genes
        Given spots and modelled genes.
    ignored
        Numbers of ``unmodelled genes`` (they count only for library sizes), ``unknown spots`` (not in the section), ``empty
        spots`` (no count of a modelled gene) and ``unreadable spots`` (no prediction) of the file.
    scored
        Whether the spots or the genes that were not given are scored.
    library_size
        Where library sizes come from; None if nothing was given.
    relative_share
        Share of the given genes in the file's counts, over their share in the training spots' counts; 1 for similar tissue,
        above 1 if the file lacks genes. None if library sizes are stated, or if the training spots show none of the genes.
    kriging, panel_kriging
        Covariance of the residuals of the given genes, and of the others (None if all genes were given).
    panel_weights
        Weights of image prediction and panel for the other genes.
    """

    n_spots: int
    n_genes: int
    ignored: dict[str, int]
    scored: Literal["spots", "genes"]
    library_size: LibrarySize | None = None
    relative_share: float | None = None
    kriging: ResidualField | None = None
    panel_weights: tuple[float, float] | None = None
    panel_kriging: ResidualField | None = None

    def sentence(self) -> str:
        """Return what was given, ignored and scored, in one line."""
        ignored = ", ".join(f"{n} {what}" for what, n in self.ignored.items() if n)
        library = {
            None: "",
            "stated": "; library sizes from its obs['library_size']",
            "sums": "; library sizes are the sums of its counts (otherwise state them in obs['library_size'])",
            "panel": (
                f"; treated as a panel with unknown library sizes, since these genes make up {self.relative_share or 0:.3g} "
                "times their share of the training spots' counts (otherwise state library sizes in obs['library_size'])"
            ),
        }
        return (
            f"context: counts of {self.n_genes} modelled genes at {self.n_spots} spots"
            + (f" (ignored: {ignored})" if ignored else "")
            + f"{library[self.library_size]}; only {self.scored} that were not given are scored"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictedSection:
    """Predicted expression of one section; all values of spots with unreadable tiles are NaN.

    Attributes
    ----------
    section, donor
        Names; donor None if unknown.
    ids, genes
        Spots and genes, in order.
    xy_px, xy_um
        Coordinates; µm are None if the scale of the slide is unknown.
    flags
        Spots by tile flag (`spam.store.flagged_spots`); empty if quality was not measured.
    unclipped
        Network output, log1p of expression per 10k counts, (n_spots, n_genes). Values below 0 mean absent; they matter for
        the rates, and `expression` clips them.
    depth
        Library size of `mu` and of the interval.
    mu
        Mean of the count distribution before zero inflation, at `depth`.
    theta
        Inverse dispersion per gene, infinite for a Poisson.
    pi
        Probability of an excess zero; 0 without zero inflation.
    lower, upper
        Ends of the central predictive interval, log1p(CP10k) of a spot of `depth` counts.
    coverage
        Probability mass of the interval.
    level
        Nominal level of the interval, after calibration (`HeldOut.level_for`).
    heldout_pearson, heldout_q
        Correlation of each gene within held-out sections of training, and its false-discovery rate
        (`HeldOut.q_value`), (n_genes,). NaN if undefined.
    bank_distance
        Distance of a spot's image to the training images, (n_spots,); 1 is the 99th percentile for an unseen training
        section (`AppearanceBank`). NaN if the checkpoint was trained on this section alone.
    baselines
        Log1p(CP10k) by baseline.
    raw_scale_baselines
        Log1p of raw counts by the HEST recipe, with its genes.
    provenance
        Checkpoint, training sections, encoder and software; JSON-ready.
    context
        Report of `condition`; None without context.
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
    level: float
    heldout_pearson: Float64[Array, " n_genes"]
    heldout_q: Float64[Array, " n_genes"]
    bank_distance: Float64[Array, " n_spots"]
    baselines: Mapping[str, Float32[Array, "n_spots n_genes"]]
    raw_scale_baselines: Mapping[str, tuple[tuple[str, ...], Array]]
    provenance: dict[str, Any]
    context: ContextReport | None = None

    @property
    def expression(self) -> Float32[Array, "n_spots n_genes"]:
        """Log1p of expected expression per 10k counts, at least 0: written, drawn and scored."""
        expression: Array = np.maximum(self.unclipped, 0.0)
        return expression

    @property
    def is_predicted(self) -> Bool[Array, " n_spots"]:
        """Spots with readable tiles."""
        return ~self.flags["unreadable"] if self.flags else np.ones(len(self.ids), dtype=bool)

    @property
    def training_section(self) -> str | None:
        """Name of the training section that this is, under this or another name; None for new tissue."""
        name: str | None = self.provenance["training_section"]
        return name

    @property
    def is_mostly_unlike(self) -> bool:
        """Whether more than half of the predicted spots are out of distribution."""
        return bool(2 * self.is_out_of_distribution.sum() > self.is_predicted.sum())

    @property
    def is_predictable(self) -> Bool[Array, " n_genes"]:
        """Genes predicted better than by chance on held-out spots; none if most spots are unlike those."""
        return (self.heldout_q <= FALSE_DISCOVERY_RATE) & (not self.is_mostly_unlike)

    @property
    def is_out_of_distribution(self) -> Bool[Array, " n_spots"]:
        """Spots whose image is unlike the training sections; do not rely on their predictions."""
        return self.bank_distance > 1.0

    def of_spots(self, is_kept: Bool[Array, " n_spots"]) -> "PredictedSection":
        """Keep only these spots."""
        if is_kept.all():
            return self
        per_spot = ("ids", "xy_px", "unclipped", "mu", "pi", "lower", "upper", "bank_distance")
        raw = {name: (genes, values[is_kept]) for name, (genes, values) in self.raw_scale_baselines.items()}
        return dataclasses.replace(
            self,
            **{name: getattr(self, name)[is_kept] for name in per_spot},
            xy_um=None if self.xy_um is None else self.xy_um[is_kept],
            flags={flag: values[is_kept] for flag, values in self.flags.items()},
            baselines={name: values[is_kept] for name, values in self.baselines.items()},
            raw_scale_baselines=raw,
        )

    def spot_columns(self) -> dict[str, Shaped[Array, " n_spots"]]:
        """Reliability of each spot: ``bank_distance``, ``is_out_of_distribution``, and its tile flags if measured."""
        reliability = {
            "bank_distance": self.bank_distance,
            "is_out_of_distribution": self.is_out_of_distribution,
        }
        return reliability | {flag_column(flag): values for flag, values in self.flags.items()}


Allocate: TypeAlias = Callable[[tuple[int, int]], Array]
"""Makes a float32 array of a shape."""


def in_memory(shape: tuple[int, int]) -> Float32[Array, "n_spots n_genes"]:
    """Allocate an array in memory."""
    return np.empty(shape, dtype=np.float32)


def on_disk(folder: Path) -> Allocate:
    """Allocate arrays in nameless files of a folder, which the operating system keeps in memory only while it has room."""

    def allocate(shape: tuple[int, int]) -> Float32[Array, "n_spots n_genes"]:
        with tempfile.TemporaryFile(dir=folder) as file:  # the map keeps it open
            if hasattr(os, "posix_fallocate"):  # otherwise a full disk would end the process later
                os.posix_fallocate(file.fileno(), 0, 4 * math.prod(shape))
            mapped = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
        return mapped.view(np.ndarray)  # anndata does not write a memory map

    return allocate


def filled(
    allocate: Allocate, shape: tuple[int, int], values_of: Callable[[slice], Array | float]
) -> Float32[Array, "n_spots n_genes"]:
    """Allocate an array, and fill it some rows at a time."""
    array = allocate(shape)
    for start in range(0, shape[0], _ROWS):
        array[start : start + _ROWS] = values_of(slice(start, start + _ROWS))
    return array


def at_all_spots(
    values: Float[Array, "n_predicted ..."],
    is_predicted: Bool[Array, " n_spots"],
    allocate: Allocate | None = None,
) -> Float[Array, "n_spots ..."]:
    """Rows of the predicted spots at their places, NaN at the others; no copy if all spots are predicted.

    `allocate` makes the array of a float32 matrix; None: in memory.
    """
    if is_predicted.all():
        return values
    shape = (len(is_predicted), *values.shape[1:])
    whole = np.empty(shape, dtype=values.dtype) if allocate is None else allocate(shape)
    whole[~is_predicted] = np.nan
    whole[is_predicted] = values
    return whole


def write_predictions(
    predicted: PredictedSection,
    section: StoredSection,
    path: Path,
    *,
    measured: Float32[Array, "n_spots n_genes"] | None = None,
    accuracy: pd.DataFrame | None = None,
    given: tuple[Bool[Array, " n_spots"], Bool[Array, " n_genes"]] | None = None,
    allocate: Allocate = in_memory,
) -> None:
    """Write an ``.h5ad`` with ``X`` = log1p(CP10k), replacing an existing file in one step.

    Layers: ``mu``, ``theta``, ``pi``, ``lower``, ``upper``, and ``measured`` in the unit of ``X`` (NaN for genes that were not
    measured). ``obs``: the laboratory's columns, then `PredictedSection.spot_columns`; a column of the laboratory of the same
    name becomes ``lab_<name>``. ``var``: ``heldout_pearson``, ``heldout_q``, ``is_predictable``, and `accuracy`. Given spots and
    genes are marked ``is_given`` in both. Coordinates, image and spot diameter are those of the section.

    Parameters
    ----------
    predicted, section
        The prediction, and the section that it is of.
    path
        File to write.
    measured
        Measured log1p(CP10k) of the predicted genes.
    accuracy
        Scores on this section, a row per scored gene.
    given
        Spots and genes that were given as context.
    allocate
        Where large arrays are kept.
    """
    spots: dict[str, Any] = {"section": predicted.section, "donor": predicted.donor or "unknown"}
    spots |= {LIBRARY: library_column(section.meta), **predicted.spot_columns()}
    genes = pd.DataFrame(index=pd.Index(predicted.genes, name="gene"))
    genes = genes.assign(
        heldout_pearson=predicted.heldout_pearson,
        heldout_q=predicted.heldout_q,
        is_predictable=predicted.is_predictable,
    )
    if accuracy is not None:
        genes = genes.join(accuracy)
    if given is not None:
        spots["is_given"], genes["is_given"] = given
    lab = {name: values for name, values in section.obs.items() if name not in ("section", "donor")}
    lab = {f"lab_{name}" if name in spots else name: values for name, values in lab.items()}
    layers = {name: getattr(predicted, name) for name in ("mu", "pi", "lower", "upper")}
    if measured is not None:
        layers["measured"] = measured
    units = "X, lower, upper and measured: log1p of expression per 10k counts; mu: counts at the stated depth"
    shape = predicted.unclipped.shape
    about = {"units": units, "depth": predicted.depth, "coverage": predicted.coverage}
    adata = anndata.AnnData(
        X=filled(allocate, shape, lambda rows: np.maximum(predicted.unclipped[rows], 0.0)),
        obs=pd.DataFrame({**lab, **spots}, index=pd.Index(predicted.ids.astype(str), name="spot_id")),
        var=genes,
        layers={**layers, "theta": filled(allocate, shape, lambda _: predicted.theta)},
        uns={"spam": {**about, "provenance": json.dumps(predicted.provenance)}},
    )
    add_places(adata, section)
    with replacing(path) as partial:
        write_h5ad(adata, partial, compression="gzip")


def write_table(predicted: PredictedSection, path: Path) -> None:
    """Write the predicted matrix as ``.csv`` or ``.parquet``: a row per spot, a column per gene, then `spot_columns`."""
    index = pd.Index(predicted.ids.astype(str), name="spot_id")
    table = pd.DataFrame(predicted.expression, index=index, columns=list(predicted.genes))
    table = table.assign(**predicted.spot_columns())
    with replacing(path) as partial:
        if path.suffix == ".csv":
            table.to_csv(partial, float_format="%.5g")
        else:
            table.to_parquet(partial)
