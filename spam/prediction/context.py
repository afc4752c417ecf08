"""Prediction of a partly measured section: some spots, a panel of genes, or a panel at some spots."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from spam.errors import SectionError
from spam.models import log1p_cp10k
from spam.models.rate_path import PER, log_rate_of
from spam.store import advice_on_names
from spam.typing import Array, Bool, Float, Float32, Float64, Int64, Shaped

from .kriging import krige
from .panel import Bank, normalised_panel, predict_from_panel
from .predicted_section import ContextReport, LibrarySize, PredictedSection, at_all_spots
from .predictor import Predictor

_N_NEAREST = (
    4  # neighbours of the baseline; better than 8 if few spots are measured (docs/experiments-log.md)
)
# Below this factor the sums of the file count as library sizes: an error of at most .22 on the log1p scale.
_PANEL_SHARE = 1.25


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Context:
    """Given entries of a section: counts of some genes at some spots.

    Attributes
    ----------
    is_given_spot, is_given_gene
        By spot of the section and by modelled gene; an entry is given if both are true.
    counts
        Raw counts of the given entries, in the order of the section and of the model, (n, p).
    totals
        Library size of each given spot: as stated, else the sum of its counts over all genes of the file, (n,).
    is_stated
        Whether library sizes are stated.
    ignored
        Parts of the file that are not given entries, see `ContextReport`.
    """

    is_given_spot: Bool[Array, " n_spots"]
    is_given_gene: Bool[Array, " n_genes"]
    counts: csr_matrix
    totals: Float64[Array, " n"]
    is_stated: bool = False
    ignored: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def gather(
        cls,
        counts: csr_matrix,
        genes: Shaped[Array, " n_measured_genes"],
        rows: Int64[Array, " n_measured"],
        *,
        n_spots: int,
        modelled: Sequence[str],
        library_size: Float64[Array, " n_measured"] | None = None,
        n_unknown_spots: int = 0,
    ) -> "Context":
        """Select the modelled genes among the measured ones.

        Spots without any count of them are not given, unless their library sizes are stated: then these are true zeros.

        Parameters
        ----------
        counts, genes
            What was measured, (n_measured, n_measured_genes).
        rows
            Its spots as rows of the section, ascending.
        library_size
            Stated library sizes.

        Raises
        ------
        SectionError
            If none of the genes is modelled.
        """
        position = {str(gene): i for i, gene in enumerate(genes)}
        is_given_gene = np.array([gene in position for gene in modelled], dtype=bool)
        if not is_given_gene.any() and len(genes):
            message = (
                f"None of the {len(genes)} genes of --context-h5ad ({', '.join(map(str, genes[:5]))}) is among the "
                f"{len(modelled)} genes of the checkpoint ({', '.join(modelled[:5])}). "
                f"{advice_on_names(genes, modelled) or 'Use the same kind of gene names (symbols or Ensembl ids).'}"
            )
            raise SectionError(message)
        chosen = counts[:, [position[gene] for gene in modelled if gene in position]]
        totals = (
            np.asarray(counts.sum(axis=1), dtype=np.float64).ravel() if library_size is None else library_size
        )
        is_measured = totals > 0 if library_size is not None else np.asarray(chosen.sum(axis=1)).ravel() > 0
        is_given_spot = np.zeros(n_spots, dtype=bool)
        is_given_spot[rows[is_measured]] = True
        n_unmodelled, n_empty = len(genes) - int(is_given_gene.sum()), int((~is_measured).sum())
        return cls(
            is_given_spot=is_given_spot,
            is_given_gene=is_given_gene,
            counts=chosen[is_measured],
            totals=totals[is_measured],
            is_stated=library_size is not None,
            ignored={
                "unmodelled genes": n_unmodelled,
                "unknown spots": n_unknown_spots,
                "empty spots": n_empty,
            },
        )

    @property
    def scores_spots(self) -> bool:
        """Whether spots that are not given are scored (all genes), or genes that are not given (all spots).

        Scored entries form a matrix without given entries; the larger of the two is chosen.
        """
        n_spots, n_genes = len(self.is_given_spot), len(self.is_given_gene)
        left_spots = (n_spots - int(self.is_given_spot.sum())) * n_genes
        return left_spots >= n_spots * (n_genes - int(self.is_given_gene.sum()))

    @property
    def is_scored_spot(self) -> Bool[Array, " n_spots"]:
        """Spots of the scored matrix."""
        return ~self.is_given_spot if self.scores_spots else np.ones_like(self.is_given_spot)

    @property
    def is_scored_gene(self) -> Bool[Array, " n_genes"]:
        """Genes of the scored matrix."""
        return np.ones_like(self.is_given_gene) if self.scores_spots else ~self.is_given_gene

    def of_spots(self, is_kept: Bool[Array, " n_spots"]) -> "Context":
        """Keep only these spots of the section."""
        kept = is_kept[self.is_given_spot]
        return dataclasses.replace(
            self,
            is_given_spot=self.is_given_spot[is_kept],
            counts=self.counts[kept],
            totals=self.totals[kept],
        )

    def library(self, bank: Bank) -> tuple[LibrarySize, float | None]:
        """Decide where library sizes come from, with `ContextReport.relative_share` unless they are stated.

        If the given genes make up clearly more of the file's counts than of the training spots', the file is a panel, and
        its sums are not library sizes. Otherwise they are, also if the genes make up less: other tissue does that, a
        panel does not. Tissue in which they make up more cannot be distinguished from a panel.
        """
        if self.is_stated:
            return "stated", None
        panel_sum = bank.panel_sum(np.flatnonzero(self.is_given_gene))
        if not panel_sum > 0:  # no other sections, or no counts of these genes in them
            return "sums", None
        sums = np.asarray(self.counts.sum(axis=1), dtype=np.float64).ravel()
        share = float((sums / self.totals).mean()) * PER / panel_sum
        return ("panel" if share > _PANEL_SHARE else "sums"), share

    def expression(self, bank: Bank, library_size: LibrarySize) -> Float64[Array, "n p"]:
        """Log1p(CP10k) of the given entries; of a panel, see `normalised_panel`."""
        dense = self.counts.toarray().astype(np.float64)
        if library_size == "panel":
            return normalised_panel(dense, bank.panel_sum(np.flatnonzero(self.is_given_gene)))
        return log1p_cp10k(dense, self.totals).astype(np.float64)


def condition(predictor: Predictor, predicted: PredictedSection, context: Context) -> PredictedSection:
    """Correct a prediction with the measured part of the section; no other counts of the section are read.

    1. Genes not measured at a measured spot are predicted from those that were (`predict_from_panel`).
    2. The residual at measured spots corrects the other spots (`krige`).

    Both correct the unclipped network output. They can lower a gene to 0 but not below; only the network can. The rate of
    the count distribution follows the corrected expression (`log_rate_of`), with the network's own contribution to the
    log-rate unchanged. Dispersion, and so the relative width of intervals, is that calibrated without context.

    Given entries are predicted like all others, with the weight that measured spots have for their neighbours, and not
    copied: use your own counts there.

    Baselines gain the prediction without context and, if all genes were given, the mean of the four nearest measured
    spots, else a ridge on the panel alone.

    Raises
    ------
    CheckpointError, ConfigError
        If a panel is given, and the checkpoint holds no bank or no spots of other sections.
    """
    is_predicted = predicted.is_predicted
    given = context.of_spots(is_predicted)
    n_unreadable = int((context.is_given_spot & ~is_predicted).sum())
    report = ContextReport(
        n_spots=int(given.is_given_spot.sum()),
        n_genes=int(given.is_given_gene.sum()),
        ignored={**context.ignored, "unreadable spots": n_unreadable},
        scored="spots" if context.scores_spots else "genes",
    )
    if not report.n_spots or not report.n_genes:
        return dataclasses.replace(predicted, context=report)
    bank = Bank.without(predictor.tensors, predictor.bank_section(predicted.training_section))
    before = predicted.unclipped[is_predicted]
    xy = (predicted.xy_px if predicted.xy_um is None else predicted.xy_um)[is_predicted]
    corrected, baselines, report = _correct(before, xy, given, bank, report)
    # Below 0 the rate falls steeply: corrections there lowered the likelihood of held-out counts.
    after = np.maximum(corrected, np.minimum(before, 0.0)).astype(np.float32)
    change = log_rate_of(torch.from_numpy(after)) - log_rate_of(torch.from_numpy(before))
    mu = predicted.mu[is_predicted] * change.exp().numpy()
    lower, upper = predictor.interval(
        mu, predicted.theta, predicted.pi[is_predicted], depth=predicted.depth, level=predicted.level
    )
    changed = {"unclipped": after, "mu": mu, "lower": lower, "upper": upper}
    added = {"SPAM without context": np.maximum(before, 0.0), **baselines}
    everywhere: dict[str, Any] = {
        name: at_all_spots(values.astype(np.float32, copy=False), is_predicted)
        for name, values in {**changed, **added}.items()
    }
    return dataclasses.replace(
        predicted,
        **{name: everywhere[name] for name in changed},
        baselines={**predicted.baselines, **{name: everywhere[name] for name in added}},
        context=report,
        provenance={**predicted.provenance, "context": dataclasses.asdict(report)},
    )


def _correct(
    before: Float32[Array, "n_spots n_genes"],
    xy: Float64[Array, "n_spots 2"],
    given: Context,
    bank: Bank,
    report: ContextReport,
) -> tuple[Float64[Array, "n_spots n_genes"], dict[str, Array], ContextReport]:
    """Corrected expression, baselines from the measured part alone, and the completed report."""
    rows, genes = np.flatnonzero(given.is_given_spot), np.flatnonzero(given.is_given_gene)
    others = np.flatnonzero(~given.is_given_gene)
    library_size, share = given.library(bank)
    measured = given.expression(bank, library_size)
    corrected = before.astype(np.float64)
    shift, field = krige(_residual(measured, before[np.ix_(rows, genes)]), rows, xy)
    corrected[:, genes] += shift
    report = dataclasses.replace(report, library_size=library_size, relative_share=share, kriging=field)
    if not len(others):
        nearest = cKDTree(xy[rows]).query(xy, k=np.arange(1, min(_N_NEAREST, len(rows)) + 1))[1]
        return corrected, {"nearest measured spots": measured[nearest].mean(axis=1)}, report
    image = before[np.ix_(rows, others)]
    found, from_panel, weights = predict_from_panel(
        measured, image, bank, genes, is_normalised=library_size == "panel"
    )
    residual = _residual(found, image)
    shift, panel_field = krige(residual, rows, xy)
    shift[rows] = residual  # at the measured spots themselves it is not noise
    corrected[:, others] += shift
    ridge = np.tile(bank.gene_mean, (len(before), 1))
    ridge[np.ix_(rows, others)] = from_panel
    report = dataclasses.replace(report, panel_weights=weights, panel_kriging=panel_field)
    return corrected, {"panel ridge": ridge}, report


def _residual(
    known: Float[Array, "n_given g"], predicted: Float[Array, "n_given g"]
) -> Float64[Array, "n_given g"]:
    """Measured minus predicted; zero where both are at most 0, i.e. the gene is absent in both."""
    return np.where((known <= 0) & (predicted <= 0), 0.0, known - predicted)
