"""`spam predict`: predict a section, score it against its counts if it has some, and draw it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam.atomic import claimed, staged, write_text
from spam.errors import ConfigError, OutputExistsError
from spam.evaluation import MODEL, BoardReport, score_predicted
from spam.hardware import resolve_device
from spam.models import log1p_cp10k
from spam.prediction import (
    Context,
    ContextReport,
    PredictedSection,
    Predictor,
    condition,
    write_predictions,
    write_table,
)
from spam.prediction.panel import Bank
from spam.progress import SILENT, Progress
from spam.reports import GivenEntries, SectionView, plot_expression_maps, plot_pcc_histogram, plot_scatter
from spam.schemas.predict_config import PredictConfig
from spam.sections import read_measured_part
from spam.store import StoredSection, advice_on_names, open_store
from spam.typing import Array, Float32

_WRITTEN = (
    *("predictions.h5ad", "predictions.csv", "predictions.parquet", "metrics.json", "genes.csv"),
    *("plots/expression_maps.png", "plots/pcc_histogram.png", "plots/scatter.png"),
)
_N_DRAWN = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictReport:
    """Outcome of `predict`.

    Attributes
    ----------
    predicted
        The prediction.
    n_unmeasured
        Modelled genes that the section has not measured.
    files
        Written files.
    board
        Scores of the model and the baselines; None without ground truth.
    unscored
        Why there are no scores; None if there are.
    gene_advice
        How to make the gene names of the section match, if most modelled genes were not found in it and a change is known.
    """

    predicted: PredictedSection
    n_unmeasured: int
    files: tuple[Path, ...]
    board: BoardReport | None
    unscored: str | None = None
    gene_advice: str = ""

    @property
    def context(self) -> ContextReport | None:
        """What ``--context-h5ad`` gave; None without it."""
        return self.predicted.context

    @property
    def n_unreadable(self) -> int:
        """Number of spots with unreadable tiles, neither predicted nor scored."""
        return int((~self.predicted.is_predicted).sum())

    @property
    def n_unlike(self) -> int | None:
        """Number of spots whose image is unlike the training sections; None if these are this section alone."""
        is_alone = np.isnan(self.predicted.bank_distance).all()
        return None if is_alone else int(self.predicted.is_out_of_distribution.sum())

    @property
    def n_predictable(self) -> int:
        """Number of genes predicted better than by chance on held-out spots."""
        return int(self.predicted.is_predictable.sum())

    def weights_in_words(self) -> str:
        """State the weights of the predictors, and why they differ from those chosen in training."""
        weights, chosen = (
            self.predicted.provenance[name] for name in ("weights", "weights_of_similar_sections")
        )
        listed = ", ".join(f"{name} {weight:.0%}" for name, weight in weights.items())
        if weights == chosen:
            return f"weights of the predictors: {listed}"
        return (
            f"weights of the predictors: {listed} (network {chosen['network']:.0%} for sections like those of training; this one "
            "is farther from them than any that training left out, so the ridge has more weight)"
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        provenance, context = self.predicted.provenance, self.context
        return {
            "section": self.predicted.section,
            "n_spots": len(self.predicted.ids),
            "n_genes": len(self.predicted.genes),
            "is_training_section": provenance["is_training_section"],
            "training_section": self.predicted.training_section,
            "is_calibrated_on_new_donors": provenance["is_calibrated_on_new_donors"],
            "weights": provenance["weights"],
            "coverage": self.predicted.coverage,
            "n_unmeasured": self.n_unmeasured,
            "n_unreadable": self.n_unreadable,
            "n_unlike": self.n_unlike,
            "n_predictable": self.n_predictable,
            "unscored": self.unscored,
            "context": None if context is None else dataclasses.asdict(context),
            "files": [str(path) for path in self.files],
            "metrics": None if self.board is None else self.board.to_mapping(),
        }

    def summary(self) -> str:
        """Return the boards, with warnings first."""
        n_spots, n_genes = self.predicted.unclipped.shape
        provenance, trained_as = self.predicted.provenance, self.predicted.training_section
        lines = [f"section {self.predicted.section}: {n_spots} spots x {n_genes} genes"]
        if trained_as is not None:
            name = "" if trained_as == self.predicted.section else f" under the name {trained_as!r}"
            lines.append(
                f"WARNING: the checkpoint was trained on this section{name}; scores do not describe new tissue"
            )
        if self.n_unlike is None:
            lines.append("the checkpoint was trained on this section alone: no test for unlike spots")
        else:
            # On an unseen section of the same kind, one spot in a hundred is unlike.
            warning = "WARNING: " if 2 * self.n_unlike > n_spots else ""
            share = f"{self.n_unlike} of {n_spots} spots ({self.n_unlike / n_spots:.0%})"
            lines.append(
                f"{warning}{share} look unlike the training sections (obs['is_out_of_distribution'])"
            )
        lines.append(self.weights_in_words())
        share = f"{self.n_predictable} of {n_genes} genes"
        lines.append(
            f"{share} count as predictable, because most spots are unlike those of training (var['is_predictable'])"
            if self.predicted.is_mostly_unlike
            else f"{share} were predicted better than by chance on held-out spots (var['is_predictable'])"
        )
        if not provenance["is_training_section"] and not provenance["is_calibrated_on_new_donors"]:
            lines.append(
                "intervals were calibrated on sections of the training donors: for another donor they may cover fewer "
                f"counts than the requested {self.predicted.coverage:.0%}"
            )
        if self.context is not None:
            lines.append(self.context.sentence())
        if 0 < self.n_unmeasured < n_genes:
            warning = "WARNING: " if 2 * self.n_unmeasured > n_genes else ""
            lines.append(
                f"{warning}{self.n_unmeasured} of these genes were not measured in the section and are not scored. "
                f"{self.gene_advice}".rstrip(". ")
            )
        if self.n_unreadable:
            lines.append(f"{self.n_unreadable} spots with unreadable tiles are neither predicted nor scored")
        lines.append(
            f"{self.unscored} {self.gene_advice}".rstrip() if self.board is None else self.board.markdown()
        )
        return "\n".join([*lines, f"written: {', '.join(map(str, self.files))}"])


def predict(config: PredictConfig, *, progress: Progress = SILENT) -> PredictReport:
    """Predict one section of a store, score it if it has counts, and draw it.

    The prediction reads no counts of the section in the store, only those in ``--context-h5ad``; the scores do,
    afterwards, and leave out what was given.

    Raises
    ------
    MissingInputError, StoreError, CheckpointError
        If store, section or checkpoint are missing or do not fit together.
    SectionError, ConfigError
        If the context is not raw counts of the section, or cannot be used by the checkpoint.
    OutputExistsError
        If the output folder holds predictions, without ``--overwrite``, or another process writes to it.
    """
    assert config.out_dir is not None  # checked by PredictConfig
    with claimed(config.out_dir, "--out-dir"):
        return _predict(config, config.out_dir, progress)


def _predict(config: PredictConfig, out: Path, progress: Progress) -> PredictReport:
    assert config.store is not None  # checked by PredictConfig
    assert config.ckpt is not None
    if (out / "predictions.h5ad").exists() and not config.overwrite:
        message = f"{str(out / 'predictions.h5ad')!r} exists. Choose another --out-dir, or replace it with --overwrite."
        raise OutputExistsError(message)
    section = _choose_section(config.store, config.section)
    predictor = Predictor.load(config.ckpt, resolve_device(config.device))
    unknown = [gene for gene in config.plot_genes if gene not in predictor.meta.genes]
    if unknown:
        genes = (
            f"{len(predictor.meta.genes)} genes of the checkpoint ({', '.join(predictor.meta.genes[:5])}, …)"
        )
        message = f"--plot-genes {' '.join(unknown)}: not among the {genes}."
        raise ConfigError(message)
    context = _read_context(config, section, predictor)
    predicted = predictor.predict(
        section,
        depth=config.depth,
        coverage=config.coverage,
        batch_size=config.batch_size,
        with_baselines=section.meta.has_counts,
        progress=progress,
    )
    if context is not None:
        predicted = condition(predictor, predicted, context)
    if predicted.training_section is None and (trained_as := predictor.section_with_counts(section)):
        known = {"is_training_section": True, "training_section": trained_as}
        predicted = dataclasses.replace(predicted, provenance={**predicted.provenance, **known})
    with staged(out, last=_WRITTEN[0], obsolete=_WRITTEN) as folder:
        files = [folder / "predictions.h5ad", *(folder / f"predictions.{name}" for name in config.formats)]
        of_section = () if section.genes is None else section.genes.tolist()
        unmeasured = {*predicted.genes} - {*of_section}
        measured = _measured(section, predicted.genes) if len(unmeasured) < len(predicted.genes) else None
        board = score_predicted(section, predictor, predicted, context)
        write_predictions(
            predicted,
            section,
            files[0],
            measured=measured,
            accuracy=None if board is None else _accuracy(board),
            given=None if context is None else (context.is_given_spot, context.is_given_gene),
        )
        for path in files[1:]:
            write_table(predicted, path)
        if board is not None:
            files += [folder / "metrics.json", folder / "genes.csv"]
            write_text(folder / "genes.csv", board.gene_table().to_csv())
        if config.plots:
            truth = None if board is None else measured
            files += _draw(folder, config.plot_genes, section, predicted, board, truth, context)
        report = PredictReport(
            predicted=predicted,
            n_unmeasured=len(unmeasured),
            files=tuple(out / path.relative_to(folder) for path in files),
            board=board,
            unscored=None if board is not None else _why_unscored(section, predicted),
            gene_advice=advice_on_names(of_section, predicted.genes) if of_section else "",
        )
        if board is not None:
            shown = {
                key: value for key, value in report.to_mapping().items() if key not in ("files", "metrics")
            }
            about = {"model": MODEL, "provenance": predicted.provenance, "config": config.to_record()}
            write_text(
                folder / "metrics.json", json.dumps({**shown, **board.to_mapping(), **about}, indent=1)
            )
    return report


def _why_unscored(section: StoredSection, predicted: PredictedSection) -> str:
    """Say why a section has no scores."""
    if section.genes is None:
        return "The section has no counts in the store, so there are no scores."
    if {*section.genes.tolist()}.isdisjoint(predicted.genes):
        some = ", ".join(section.genes[:3]), ", ".join(predicted.genes[:3])
        return (
            f"WARNING: the section has counts of {len(section.genes)} genes ({some[0]}, ...), but none of these names is "
            f"among the {len(predicted.genes)} genes of the checkpoint ({some[1]}, ...), so there are no scores."
        )
    if predicted.context is not None:
        return "All counts were given with --context-h5ad, so none are left to score."
    return "No predicted spot has counts, so there are no scores."


def _choose_section(address: Path | str, name: str | None) -> StoredSection:
    store = open_store(address)
    if name is None and len(store.section_names) != 1:
        names = ", ".join(store.section_names)
        message = f"Store {store.address!r} has {len(store.section_names)} sections ({names}). Choose one with --section."
        raise ConfigError(message)
    return store.section(name or store.section_names[0])


def _read_context(config: PredictConfig, section: StoredSection, predictor: Predictor) -> Context | None:
    """Read the measured part of the section; refuse a panel that the checkpoint cannot use before anything is predicted."""
    if config.context_h5ad is None:
        return None
    part = read_measured_part(config.context_h5ad, section=section.meta.name, ids=section.ids)
    context = Context.gather(
        part.counts,
        part.genes,
        part.rows,
        n_spots=section.n_spots,
        modelled=predictor.meta.genes,
        library_size=part.library_size,
        n_unknown_spots=part.n_unknown,
    )
    if not context.is_given_gene.all():
        Bank.without(predictor.tensors, predictor.bank_section(section.meta.name)).check()
    return context


def _draw(
    out: Path,
    plot_genes: Sequence[str],
    section: StoredSection,
    predicted: PredictedSection,
    board: BoardReport | None,
    measured: Float32[Array, "n_spots n_genes"] | None,
    context: Context | None,
) -> list[Path]:
    """Draw maps and, with ground truth, the histogram and the scatter plots of the scored entries."""
    maps, histogram, scatter = (out / name for name in _WRITTEN if name.startswith("plots/"))
    scores = None if board is None else board.gene_table().filter(regex=r"\.pearson$")
    genes = list(plot_genes)
    if not genes:  # the best predicted ones, else those with the highest predicted variance
        rank = np.nanstd(predicted.expression, axis=0) if scores is None else scores[f"{MODEL}.pearson"]
        names = predicted.genes if scores is None else scores.index
        genes = [str(names[i]) for i in np.argsort(-np.asarray(rank), kind="stable")[:_N_DRAWN]]  # NaN last
    columns = [predicted.genes.index(gene) for gene in genes]
    prediction = predicted.unclipped[:, columns].clip(min=0)
    truth = None if measured is None else measured[:, columns]
    is_scored = np.ones(prediction.shape, dtype=bool)
    given, overview = None, section.overview()
    if context is not None:
        is_scored = np.outer(context.is_scored_spot, context.is_scored_gene[columns])
    if context is not None and context.is_given_spot.any():
        is_given = np.outer(context.is_given_spot, context.is_given_gene[columns])
        note = "outlined: given" if is_given.any() else "counts of other genes were given"
        scored = "; r of spots that were not given" if board is not None and context.scores_spots else ""
        given = GivenEntries(is_given=is_given, is_scored=is_scored, note=f"{note} (--context-h5ad){scored}")
    view = SectionView(
        name=section.meta.name,
        xy_px=section.xy_px,
        mpp=section.meta.mpp,
        overview=None if overview is None else overview.image,
        overview_scale=1.0 if overview is None else overview.scale,
    )
    plot_expression_maps(view, genes, prediction, truth, given, maps)
    if scores is None or truth is None:
        return [maps]
    plot_pcc_histogram({name.removesuffix(".pearson"): r.to_numpy() for name, r in scores.items()}, histogram)
    if not is_scored.any():
        return [maps, histogram]
    entries = np.ix_(is_scored.any(axis=1), is_scored.any(axis=0))  # scored entries form a matrix
    shown = [genes[i] for i in np.flatnonzero(is_scored.any(axis=0))]
    plot_scatter(truth[entries], prediction[entries], shown, scatter)
    return [maps, histogram, scatter]


def _accuracy(board: BoardReport) -> pd.DataFrame:
    """Scores of the model for each gene on this section, as ``section_pearson`` etc."""
    scores = board.gene_table().filter(regex=rf"^{MODEL}\.")
    return scores.rename(columns=lambda name: f"section_{name.removeprefix(f'{MODEL}.')}")


def _measured(section: StoredSection, genes: Sequence[str]) -> Float32[Array, "n_spots n_genes"]:
    """Log1p(CP10k) of some genes; NaN (drawn grey) for genes that the section has not measured."""
    counts = section.counts()
    order = {str(gene): i for i, gene in enumerate(section.genes if section.genes is not None else ())}
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    measured = np.full((section.n_spots, len(genes)), np.nan, dtype=np.float32)
    known = [i for i, gene in enumerate(genes) if gene in order]
    measured[:, known] = log1p_cp10k(counts[:, [order[genes[i]] for i in known]], totals)
    return measured
