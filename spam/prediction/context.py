"""Prediction of a section that is measured in part: some spots, a panel of genes, or a panel at some spots."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from spam.errors import SectionError
from spam.models import log1p_cp10k
from spam.models.rate_path import PER, log_rate_of
from spam.typing import Array, Bool, Float, Float32, Float64, Int64, Shaped

from .context_facts import ContextFacts, LibrarySize
from .kriging import krige
from .panel import Bank, normalised_panel, predict_from_panel
from .predictor import Predictor
from .result import PredictedSection

__all__ = ["Context", "condition"]

_N_NEAREST = 4  # the baseline's neighbours; better than 8 where few spots are measured (docs/experiments.md)
# Up to this factor, sums of the file are taken for library sizes: at most .22 on the scale of log1p.
_WHOLE = 1.25


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Context:
    """Given entries of a section: counts of these genes at these spots; nothing is known of any other entry.

    Attributes
    ----------
    is_given_spot, is_given_gene
        Which spots of the section, and which modelled genes; an entry is given where both are true.
    counts
        Raw counts of the given genes at the given spots, in the order of the section and of the model, (n, p).
    totals
        Library size of each given spot where it is stated, else the sum of its counts over all genes of the file, modelled
        or not, (n,).
    is_stated
        Whether library sizes are stated.
    """

    is_given_spot: Bool[Array, " n_spots"]
    is_given_gene: Bool[Array, " n_genes"]
    counts: csr_matrix
    totals: Float64[Array, " n"]
    is_stated: bool = False

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
    ) -> "Context":
        """Find the modelled genes among what was measured.

        Spots without a count of them are not given, unless their library sizes are known: then these are true zeros.

        Parameters
        ----------
        counts, genes
            What was measured, (n_measured, n_measured_genes).
        rows
            Its spots as rows of the section, rising.
        library_size
            Their library sizes, where they are known otherwise than from `counts`.

        Raises
        ------
        SectionError
            If none of the genes is modelled.
        """
        position = {str(gene): i for i, gene in enumerate(genes)}
        is_given_gene = np.array([gene in position for gene in modelled], dtype=bool)
        if not is_given_gene.any() and len(genes):
            message = (
                f"none of the {len(genes)} genes of --context-h5ad ({', '.join(map(repr, map(str, genes[:5])))}) is among "
                f"the {len(modelled)} genes of the checkpoint ({', '.join(map(repr, modelled[:5]))}); name genes alike "
                "(symbols or Ensembl ids), or train on a gene set that holds the panel"
            )
            raise SectionError(message)
        chosen = counts[:, [position[gene] for gene in modelled if gene in position]]
        known = np.asarray(chosen.sum(axis=1)).ravel() if library_size is None else library_size
        is_measured = known > 0
        is_given_spot = np.zeros(n_spots, dtype=bool)
        is_given_spot[rows[is_measured]] = True
        totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        return cls(
            is_given_spot=is_given_spot,
            is_given_gene=is_given_gene,
            counts=chosen[is_measured],
            totals=(totals if library_size is None else library_size)[is_measured],
            is_stated=library_size is not None,
        )

    @property
    def scores_spots(self) -> bool:
        """Whether spots that are not given are scored (of all genes), or genes that are not given (at all spots).

        Entries that are scored make up a matrix without any given entry; of the two, the larger one is taken.
        """
        n_spots, n_genes = len(self.is_given_spot), len(self.is_given_gene)
        left_spots = (n_spots - int(self.is_given_spot.sum())) * n_genes
        return left_spots >= n_spots * (n_genes - int(self.is_given_gene.sum()))

    @property
    def is_scored_spot(self) -> Bool[Array, " n_spots"]:
        """Spots of the matrix that is scored."""
        return ~self.is_given_spot if self.scores_spots else np.ones_like(self.is_given_spot)

    @property
    def is_scored_gene(self) -> Bool[Array, " n_genes"]:
        """Genes of the matrix that is scored."""
        return np.ones_like(self.is_given_gene) if self.scores_spots else ~self.is_given_gene

    def at(self, is_predicted: Bool[Array, " n_spots"]) -> "Context":
        """Forget all spots but these: the others are no longer part of the section."""
        kept = is_predicted[self.is_given_spot]
        return dataclasses.replace(
            self,
            is_given_spot=self.is_given_spot[is_predicted],
            counts=self.counts[kept],
            totals=self.totals[kept],
        )

    def library(self, bank: Bank) -> tuple[LibrarySize, float | None]:
        """Tell where library sizes come from, and `ContextFacts.relative_share`, which decides it if they are not stated.

        Where the modelled genes make up clearly more of the file's counts than of the bank's, the rest of the library is
        not in the file: it is a panel. Otherwise the sums of the file are library sizes, also where these genes make up
        less: other tissue does that, and no panel. Tissue in which they make up more cannot be told from a panel.
        """
        if self.is_stated:
            return "stated", None
        panel_sum = bank.panel_sum(np.flatnonzero(self.is_given_gene))
        if not panel_sum > 0:  # no spots of other sections, or none that shows any of these genes
            return "sums", None
        sums = np.asarray(self.counts.sum(axis=1), dtype=np.float64).ravel()
        share = float((sums / self.totals).mean()) * PER / panel_sum
        return ("panel" if share > _WHOLE else "sums"), share

    def expression(self, bank: Bank, library_size: LibrarySize) -> Float64[Array, "n p"]:
        """Log1p(CP10k) of the given entries; of a panel, see `normalised_panel`."""
        dense = self.counts.toarray().astype(np.float64)
        if library_size == "panel":
            return normalised_panel(dense, bank.panel_sum(np.flatnonzero(self.is_given_gene)))
        return log1p_cp10k(dense, self.totals).astype(np.float64)


def condition(predictor: Predictor, predicted: PredictedSection, context: Context) -> PredictedSection:
    r"""Correct a prediction by what was measured of the section; no other entry of the section is looked at.

    1. Genes that were not measured at a measured spot are predicted from those that were (`predict_from_panel`).
    2. What the prediction missed at measured spots is carried to the others by `krige`.

    Both work on what the network says, also where it is below 0. They can bring a gene down to 0, but not below, where the
    network alone may be. The count distribution follows: its rate becomes the one that belongs to the corrected expression
    (`log_rate_of`), with what the network adds to the log-rate as it was. Dispersion, and so the relative width of
    intervals, stays as it was calibrated without context.

    Given entries are predicted like all others: the measured value has its say there by as much as it is found to
    say of a spot's neighbours, and is not copied. Use your own counts where you have them.

    The baselines then hold the prediction without context, too; the mean of the four nearest measured spots where all
    genes were given, else a ridge on the panel alone.

    Raises
    ------
    ConfigError
        If a panel is given, and the checkpoint holds no spots of other sections.
    """
    is_predicted = predicted.is_predicted
    given = context.at(is_predicted)
    if not given.is_given_spot.any() or not given.is_given_gene.any():
        return predicted
    bank = Bank.without(predictor.tensors, predictor.bank_section(predicted.section))
    before = predicted.unclipped[is_predicted]
    xy = (predicted.xy_px if predicted.xy_um is None else predicted.xy_um)[is_predicted]
    correction, measured, facts = _correction(before, xy, given, bank)
    # Below 0 rates fall steeply: a correction that went there made the likelihood of counts that were not given worse.
    after = np.maximum(before + correction, np.minimum(before, 0.0)).astype(np.float32)
    change = log_rate_of(torch.from_numpy(after)) - log_rate_of(torch.from_numpy(before))
    mu = predicted.mu[is_predicted] * change.exp().numpy()
    lower, upper = predictor.interval(
        mu, predicted.theta, predicted.pi[is_predicted], depth=predicted.depth, coverage=predicted.coverage
    )

    def spread(values: Array) -> Float32[Array, "n_spots n_genes"]:
        whole = np.full((len(is_predicted), values.shape[1]), np.nan, dtype=np.float32)
        whole[is_predicted] = values
        return whole

    return dataclasses.replace(
        predicted,
        unclipped=spread(after),
        mu=spread(mu),
        lower=spread(lower),
        upper=spread(upper),
        baselines={
            **predicted.baselines,
            "SPAM without context": predicted.expression,
            **{name: spread(values) for name, values in measured.items()},
        },
        context=facts,
        provenance={**predicted.provenance, "context": dataclasses.asdict(facts)},
    )


def _missed(
    known: Float[Array, "n_given n_some"], before: Float[Array, "n_given n_some"]
) -> Float64[Array, "n_given n_some"]:
    """Compute what the prediction lacks; nothing where both say that the gene is absent, one of them by less than 0."""
    return np.where((known <= 0) & (before <= 0), 0.0, known - before)


def _correction(
    before: Float32[Array, "n_spots n_genes"], xy: Float64[Array, "n_spots 2"], given: Context, bank: Bank
) -> tuple[Float64[Array, "n_spots n_genes"], dict[str, Array], ContextFacts]:
    """Compute what is to be added to the prediction, baselines that need no model, and facts to keep."""
    rows, genes = np.flatnonzero(given.is_given_spot), np.flatnonzero(given.is_given_gene)
    others = np.flatnonzero(~given.is_given_gene)
    library_size, share = given.library(bank)
    measured = given.expression(bank, library_size)
    correction = np.zeros(before.shape)
    correction[:, genes], field = krige(_missed(measured, before[np.ix_(rows, genes)]), rows, xy)
    panel_weights, panel_field = None, None
    baselines: dict[str, Array] = {}
    if len(others):
        missing = before[np.ix_(rows, others)]
        found = predict_from_panel(measured, missing, bank, genes, is_normalised=library_size == "panel")
        missed = _missed(found.expression, missing)
        correction[:, others], panel_field = krige(missed, rows, xy)
        correction[np.ix_(rows, others)] = missed  # of their own spot it is not noise
        panel_weights = found.weights
        baselines["panel ridge"] = np.tile(bank.gene_mean, (len(before), 1))
        baselines["panel ridge"][np.ix_(rows, others)] = found.from_panel
    else:
        nearest = cKDTree(xy[rows]).query(xy, k=np.arange(1, min(_N_NEAREST, len(rows)) + 1))[1]
        baselines["nearest measured spots"] = measured[nearest].mean(axis=1)
    facts = ContextFacts(
        n_spots=len(rows),
        n_genes=len(genes),
        library_size=library_size,
        relative_share=share,
        kriging=field,
        panel_weights=panel_weights,
        panel_kriging=panel_field,
    )
    return correction, baselines, facts
