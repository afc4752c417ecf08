"""`spam predict`: predict a section, score it against its counts if it has some, and draw it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from spam.atomic import write_text
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
from spam.store import StoredSection, open_store
from spam.typing import Array, Float32

_WRITTEN = (
    *("predictions.h5ad", "predictions.csv", "predictions.parquet", "metrics.json", "genes.csv"),
    *("plots/expression_maps.png", "plots/pcc_histogram.png", "plots/scatter.png"),
)
_N_DRAWN = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PredictReport:
    """Outcome of `predict`.

    Attributes
    ----------
    section, n_spots, n_genes
        Predicted section, and the size of the predicted matrix.
    is_training_section
        True if the checkpoint was trained on the section: its scores then do not describe new tissue.
    is_calibrated_on_new_donors
        Whether intervals were calibrated on donors without training sections.
    coverage
        Requested coverage of the intervals.
    n_unmeasured
        Modelled genes that the section has not measured.
    n_unreadable
        Spots with unreadable tiles: neither predicted nor scored.
    n_unlike
        Spots whose image is unlike the training sections; None if the checkpoint was trained on this section alone.
    n_predictable
        Genes predicted better than by chance on held-out spots; None if there were no held-out spots.
    context
        What ``--context-h5ad`` gave; None without it.
    files
        Written files.
    board
        Scores of the model and the baselines; None without ground truth.
    """

    section: str
    n_spots: int
    n_genes: int
    is_training_section: bool
    is_calibrated_on_new_donors: bool
    coverage: float
    n_unmeasured: int
    n_unreadable: int
    n_unlike: int | None
    n_predictable: int | None
    context: ContextReport | None
    files: tuple[Path, ...]
    board: BoardReport | None

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        board = plain.pop("board")
        plain["context"] = None if self.context is None else dataclasses.asdict(self.context)
        plain["files"] = [str(path) for path in self.files]
        return {**plain, "metrics": None if board is None else board.to_mapping()}

    def summary(self) -> str:
        """Return the boards, with warnings first."""
        lines = [f"section {self.section}: {self.n_spots} spots x {self.n_genes} genes"]
        if self.is_training_section:
            lines.append(
                "WARNING: the checkpoint was trained on this section; scores do not describe new tissue"
            )
        if self.n_unlike is None:
            lines.append("the checkpoint was trained on this section alone: no test for unlike spots")
        else:
            # On an unseen section of the same kind, one spot in a hundred is unlike.
            warning = "WARNING: " if 2 * self.n_unlike > self.n_spots else ""
            share = f"{self.n_unlike} of {self.n_spots} spots ({self.n_unlike / self.n_spots:.0%})"
            lines.append(
                f"{warning}{share} look unlike the training sections (obs['is_out_of_distribution'])"
            )
        if self.n_predictable is None:
            lines.append("the checkpoint was not tested on held-out spots")
        else:
            share = f"{self.n_predictable} of {self.n_genes} genes"
            lines.append(
                f"{share} were predicted better than by chance on held-out spots (var['is_predictable'])"
            )
        if not self.is_training_section and not self.is_calibrated_on_new_donors:
            lines.append(
                "intervals were calibrated on sections of the training donors: for another donor they may cover fewer "
                f"counts than the requested {self.coverage:.0%}"
            )
        if self.context is not None:
            lines.append(self.context.sentence())
        if 0 < self.n_unmeasured < self.n_genes:
            lines.append(
                f"{self.n_unmeasured} of these genes were not measured in the section and are not scored"
            )
        if self.n_unreadable:
            lines.append(f"{self.n_unreadable} spots with unreadable tiles are neither predicted nor scored")
        unscored = "no ground truth, so no scores" if self.context is None else "no entries left to score"
        lines.append(unscored if self.board is None else self.board.markdown())
        lines.append(f"written: {', '.join(str(path) for path in self.files)}")
        return "\n".join(lines)


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
        If the output folder holds predictions, without ``--overwrite``.
    """
    assert config.store is not None  # PredictConfig checks these three
    assert config.ckpt is not None
    assert config.out_dir is not None
    out = config.out_dir
    if (out / "predictions.h5ad").exists() and not config.overwrite:
        message = f"{str(out / 'predictions.h5ad')!r} exists. Choose another --out-dir, or replace it with --overwrite."
        raise OutputExistsError(message)
    section = _choose_section(config)
    predictor = Predictor.load(config.ckpt, resolve_device(config.device))
    unknown = [gene for gene in config.plot_genes if gene not in predictor.meta.genes]
    if unknown:
        genes = f"{len(predictor.meta.genes)} genes of the checkpoint ({', '.join(predictor.meta.genes[:5])}, …)"
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
    out.mkdir(parents=True, exist_ok=True)
    for (
        name
    ) in _WRITTEN:  # with --overwrite, scores of another section must not remain beside these predictions
        (out / name).unlink(missing_ok=True)
    files = [out / "predictions.h5ad", *(out / f"predictions.{name}" for name in config.formats)]
    given = None if context is None else (context.is_given_spot, context.is_given_gene)
    write_predictions(predicted, files[0], given=given)
    for path in files[1:]:
        write_table(predicted, path)
    board = score_predicted(section, predictor, predicted, context)
    n_unreadable = int((~predicted.is_predicted).sum())
    if board is not None:
        metrics = {
            "section": predicted.section,
            "is_training_section": predicted.provenance["is_training_section"],
            "n_unreadable": n_unreadable,
            "context": None if predicted.context is None else dataclasses.asdict(predicted.context),
            "model": MODEL,
            **board.to_mapping(),
            "provenance": predicted.provenance,
            "config": _without_folders(config),
        }
        files += [out / "metrics.json", out / "genes.csv"]
        write_text(out / "metrics.json", json.dumps(metrics, indent=1))
        write_text(out / "genes.csv", board.gene_table().to_csv())
    if config.plots:
        files += _draw(config, section, predicted, board, context)
    measured = set() if section.genes is None else set(section.genes.astype(str)) & set(predicted.genes)
    is_alone = np.isnan(predicted.bank_distance).all()
    return PredictReport(
        section=predicted.section,
        n_spots=len(predicted.ids),
        n_genes=len(predicted.genes),
        is_training_section=bool(predicted.provenance["is_training_section"]),
        is_calibrated_on_new_donors=bool(predicted.provenance["is_calibrated_on_new_donors"]),
        coverage=predicted.coverage,
        n_unmeasured=len(predicted.genes) - len(measured),
        n_unreadable=n_unreadable,
        n_unlike=None if is_alone else int(predicted.is_out_of_distribution.sum()),
        n_predictable=None if predictor.heldout is None else int(predicted.is_predictable.sum()),
        context=predicted.context,
        files=tuple(files),
        board=board,
    )


def _choose_section(config: PredictConfig) -> StoredSection:
    store = open_store(config.store)
    if config.section is None and len(store.section_names) != 1:
        names = ", ".join(store.section_names)
        message = f"Store {store.address!r} has {len(store.section_names)} sections ({names}). Choose one with --section."
        raise ConfigError(message)
    return store.section(config.section or store.section_names[0])


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


def _without_folders(config: PredictConfig) -> dict[str, Any]:
    """Options with names instead of paths, which do not belong in a shared file."""
    names = {key: getattr(config, key) for key in ("store", "ckpt", "context_h5ad")}
    bare = {key: None if path is None else PurePath(str(path)).name for key, path in names.items()}
    return {**config.to_mapping(), **bare, "out_dir": None}


def _draw(
    config: PredictConfig,
    section: StoredSection,
    predicted: PredictedSection,
    board: BoardReport | None,
    context: Context | None,
) -> list[Path]:
    """Draw maps and, with ground truth, the histogram and the scatter plots of the scored entries."""
    assert config.out_dir is not None
    maps, histogram, scatter = (config.out_dir / name for name in _WRITTEN if name.startswith("plots/"))
    scores = None if board is None else board.gene_table()
    genes = list(config.plot_genes)
    if not genes:  # the best predicted ones, else those with the highest predicted variance
        spread = (
            np.nanstd(predicted.expression, axis=0)
            if scores is None
            else scores[f"{MODEL}.pearson"].to_numpy()
        )
        names = predicted.genes if scores is None else scores.index
        order = np.argsort(-spread, kind="stable")  # NaN sorts last
        genes = [str(names[i]) for i in order[:_N_DRAWN]]
    columns = [predicted.genes.index(gene) for gene in genes]
    prediction = predicted.unclipped[:, columns].clip(min=0)
    truth = None if board is None else _measured(section, genes)
    given, overview = None, section.overview()
    if context is not None and context.is_given_spot.any():
        is_given = np.outer(context.is_given_spot, context.is_given_gene[columns])
        note = "outlined: given" if is_given.any() else "counts of other genes were given"
        scored = "; r of spots that were not given" if board is not None and context.scores_spots else ""
        is_scored = np.outer(context.is_scored_spot, context.is_scored_gene[columns])
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
    pearson = {
        column.removesuffix(".pearson"): scores[column].to_numpy()
        for column in scores.columns
        if column.endswith(".pearson")
    }
    plot_pcc_histogram(pearson, histogram)
    spots, shown = np.arange(section.n_spots), np.arange(len(genes))
    if context is not None:
        spots, shown = np.flatnonzero(context.is_scored_spot), np.flatnonzero(context.is_scored_gene[columns])
    if not len(shown):
        return [maps, histogram]
    entries = np.ix_(spots, shown)
    plot_scatter(truth[entries], prediction[entries], [genes[i] for i in shown], scatter)
    return [maps, histogram, scatter]


def _measured(section: StoredSection, genes: Sequence[str]) -> Float32[Array, "n_spots n_genes"]:
    """Log1p(CP10k) of some genes; NaN (drawn grey) for genes that the section has not measured."""
    counts = section.counts()
    order = {str(gene): i for i, gene in enumerate(section.genes if section.genes is not None else ())}
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    measured = np.full((section.n_spots, len(genes)), np.nan, dtype=np.float32)
    known = [i for i, gene in enumerate(genes) if gene in order]
    measured[:, known] = log1p_cp10k(counts[:, [order[genes[i]] for i in known]], totals)
    return measured
