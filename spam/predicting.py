"""`spam predict`: prediction, then scores where there is ground truth, then plots."""

import dataclasses
import json
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
from spam.progress import SILENT, Progress
from spam.reports import SectionView, plot_expression_maps, plot_pcc_histogram, plot_scatter
from spam.schemas.predict_config import PredictConfig
from spam.sections import read_measured_part
from spam.store import StoredSection, open_store

__all__ = ["PredictReport", "predict"]

_N_DRAWN = 4
_WRITTEN = (
    "predictions.h5ad",
    "predictions.csv",
    "predictions.parquet",
    "metrics.json",
    "genes.csv",
    "plots/expression_maps.png",
    "plots/pcc_histogram.png",
    "plots/scatter.png",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PredictReport:
    """Outcome of `predict`.

    Attributes
    ----------
    section
        Section that was predicted.
    n_spots, n_genes
        Size of the predicted matrix.
    is_training_section
        True if the checkpoint has seen the section's counts: then the scores say nothing about new tissue.
    files
        Everything that was written.
    board
        Scores of the model and every baseline, or None without ground truth.
    n_unmeasured
        Modelled genes that the section has not measured.
    n_unreadable
        Spots whose tiles could not be read: nothing is predicted for them, and they are not scored.
    n_unlike
        Spots whose image is unlike all that was trained on.
    n_predictable
        Genes that held-out spots have shown to be predicted better than by chance.
    context
        What ``--context-h5ad`` gave of the section; None without it.
    """

    section: str
    n_spots: int
    n_genes: int
    is_training_section: bool
    files: tuple[Path, ...]
    board: BoardReport | None
    n_unmeasured: int
    n_unreadable: int
    n_unlike: int
    n_predictable: int
    context: ContextReport | None

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "section": self.section,
            "n_spots": self.n_spots,
            "n_genes": self.n_genes,
            "is_training_section": self.is_training_section,
            "n_unmeasured": self.n_unmeasured,
            "n_unreadable": self.n_unreadable,
            "n_unlike": self.n_unlike,
            "n_predictable": self.n_predictable,
            "context": None if self.context is None else dataclasses.asdict(self.context),
            "files": [str(path) for path in self.files],
            "metrics": None if self.board is None else self.board.to_mapping(),
        }

    def summary(self) -> str:
        """Show the boards, or say why there are none."""
        lines = [f"section {self.section}: {self.n_spots} spots x {self.n_genes} genes"]
        if self.is_training_section:
            lines.append(
                "WARNING: the checkpoint was trained on this section; these scores say nothing about new tissue"
            )
        lines.append(self._trust())
        if self.context is not None:
            lines.append(self.context.sentence())
        if 0 < self.n_unmeasured < self.n_genes:
            lines.append(
                f"{self.n_unmeasured} of these genes were not measured in the section and are not scored"
            )
        if self.n_unreadable:
            lines.append(
                f"tiles of {self.n_unreadable} of these spots could not be read when they were embedded: nothing is "
                "predicted for these spots, and they are not scored"
            )
        unscored = "no ground truth, so no scores" if self.context is None else "nothing is left to score"
        lines.append(unscored if self.board is None else self.board.markdown())
        lines.append(f"written: {', '.join(str(path) for path in self.files)}")
        return "\n".join(lines)

    def _trust(self) -> str:
        """Say in a line how far the numbers can be trusted; more of an unseen section than a hundredth is unusual."""
        warning = "WARNING: " if 2 * self.n_unlike > self.n_spots else ""
        return (
            f"{warning}{self.n_unlike} of {self.n_spots} spots ({self.n_unlike / self.n_spots:.0%}) look unlike the "
            "training sections (obs['is_out_of_distribution']); on held-out spots, "
            f"{self.n_predictable} of {self.n_genes} genes were predicted better than by chance (var['is_predictable'])"
        )


def predict(config: PredictConfig, *, progress: Progress = SILENT) -> PredictReport:
    """Predict one section of a store, score it where it has counts, and draw it.

    The prediction reads no counts of the section in the store, only those that ``--context-h5ad`` gives; the scores do,
    afterwards, and leave out what was given.

    Raises
    ------
    MissingInputError, StoreError, CheckpointError
        If store, section or checkpoint are missing or do not fit together.
    SectionError, ConfigError
        If what is given of the section is not raw counts of it, or nothing that the checkpoint can use.
    OutputExistsError
        If the out dir holds predictions already and overwriting was not asked for.
    """
    if config.store is None or config.ckpt is None or config.out_dir is None:
        message = "--store, --ckpt and --out-dir are needed"  # PredictConfig has refused this already
        raise ConfigError(message)
    section = _choose_section(config)
    predictor = Predictor.load(config.ckpt, resolve_device(config.device))
    _check_out_dir(config, section.meta.name)
    _check_plot_genes(config, predictor.meta.genes)
    context, given = _read_context(config, section, predictor)
    predicted = predictor.predict(
        section, depth=config.depth, coverage=config.coverage, batch_size=config.batch_size, progress=progress
    )
    if context is not None:
        predicted = condition(predictor, predicted, context)
    out = config.out_dir
    out.mkdir(parents=True, exist_ok=True)
    for name in _WRITTEN:  # with --overwrite: scores of another section must not lie beside these predictions
        (out / name).unlink(missing_ok=True)
    files = [out / "predictions.h5ad", *(out / f"predictions.{name}" for name in config.formats)]
    write_predictions(
        predicted,
        files[0],
        is_given_spot=None if context is None else context.is_given_spot,
        is_given_gene=None if context is None else context.is_given_gene,
    )
    for path in files[1:]:
        write_table(predicted, path)
    measured = (
        set() if section.genes is None else {str(gene) for gene in section.genes} & set(predicted.genes)
    )
    n_unreadable = int((~predicted.is_predicted).sum())
    board = score_predicted(section, predictor, predicted, context)
    if board is not None:
        files += [out / "metrics.json", out / "genes.csv"]
        metrics = {
            "section": predicted.section,
            "is_training_section": predicted.provenance["is_training_section"],
            "n_unreadable": n_unreadable,
            "context": None if given is None else dataclasses.asdict(given),
            "model": MODEL,
            **board.to_mapping(),
            "provenance": predicted.provenance,
            "config": {
                **config.to_mapping(),
                "store": PurePath(str(config.store)).name,
                "ckpt": config.ckpt.name,
                "context_h5ad": None if config.context_h5ad is None else config.context_h5ad.name,
                "out_dir": None,
            },
        }
        write_text(out / "metrics.json", json.dumps(metrics, indent=1))
        write_text(out / "genes.csv", board.gene_table().to_csv())
    if config.plots:
        files += _draw(config, section, predicted, board)
    return PredictReport(
        section=predicted.section,
        n_spots=len(predicted.ids),
        n_genes=len(predicted.genes),
        is_training_section=bool(predicted.provenance["is_training_section"]),
        files=tuple(files),
        board=board,
        n_unmeasured=len(predicted.genes) - len(measured),
        n_unreadable=n_unreadable,
        n_unlike=int(predicted.is_out_of_distribution.sum()),
        n_predictable=int(predicted.is_predictable.sum()),
        context=given,
    )


def _choose_section(config: PredictConfig) -> StoredSection:
    assert config.store is not None
    store = open_store(config.store)
    if config.section is None and len(store.section_names) != 1:
        message = (
            f"store {store.address!r} has {len(store.section_names)} sections "
            f"({', '.join(store.section_names)}); say which one with --section"
        )
        raise ConfigError(message)
    return store.section(config.section or store.section_names[0])


def _read_context(
    config: PredictConfig, section: StoredSection, predictor: Predictor
) -> tuple[Context | None, ContextReport | None]:
    """Read what is given of the section, before anything is predicted."""
    if config.context_h5ad is None:
        return None, None
    part = read_measured_part(config.context_h5ad, section=section.meta.name, ids=section.ids)
    context = Context.gather(
        part.counts, part.genes, part.rows, n_spots=section.n_spots, modelled=predictor.meta.genes
    )
    given = ContextReport.of(
        context,
        n_genes_of_file=len(part.genes),
        n_spots_of_file=len(part.rows) + part.n_unknown,
        n_unknown=part.n_unknown,
    )
    return context, given


def _check_out_dir(config: PredictConfig, section: str) -> None:
    """Refuse to write over predictions unless asked to."""
    assert config.out_dir is not None
    path = config.out_dir / "predictions.h5ad"
    if path.exists() and not config.overwrite:
        message = (
            f"{str(path)!r} is there already; choose another --out-dir for section {section!r}, or write over it with "
            "--overwrite"
        )
        raise OutputExistsError(message)


def _check_plot_genes(config: PredictConfig, genes: tuple[str, ...]) -> None:
    """Refuse to draw genes that are not modelled, before anything is written."""
    unknown = [gene for gene in config.plot_genes if gene not in genes]
    if unknown:
        message = (
            f"--plot-genes: {', '.join(unknown)} not among the {len(genes)} genes of the checkpoint "
            f"(such as {', '.join(genes[:5])})"
        )
        raise ConfigError(message)


def _draw(
    config: PredictConfig, section: StoredSection, predicted: PredictedSection, board: BoardReport | None
) -> list[Path]:
    """Draw maps, and with ground truth the histogram and the scatter plots."""
    assert config.out_dir is not None
    folder = config.out_dir / "plots"
    folder.mkdir(exist_ok=True)
    drawn = _choose_drawn(config, predicted, board)
    columns = [predicted.genes.index(gene) for gene in drawn]
    truth = None
    if board is not None:
        counts = section.counts()
        order = {str(gene): i for i, gene in enumerate(section.genes if section.genes is not None else ())}
        totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        measured = [gene for gene in drawn if gene in order]
        found = log1p_cp10k(counts[:, [order[gene] for gene in measured]], totals)
        truth = np.full(
            (section.n_spots, len(drawn)), np.nan, dtype=np.float32
        )  # unmeasured genes are drawn grey
        truth[:, [drawn.index(gene) for gene in measured]] = found
    overview = section.overview()
    view = SectionView(
        name=section.meta.name,
        xy_px=section.xy_px,
        mpp=section.meta.mpp,
        overview=None if overview is None else overview.image,
        overview_scale=1.0 if overview is None else overview.scale,
    )
    prediction = predicted.expression[:, columns]
    files = [plot_expression_maps(view, drawn, prediction, folder / "expression_maps.png", truth=truth)]
    if board is not None and truth is not None:
        table = board.gene_table()
        names = [column[: -len(".pearson")] for column in table.columns if column.endswith(".pearson")]
        files.append(
            plot_pcc_histogram(
                {name: table[f"{name}.pearson"].to_numpy() for name in names}, folder / "pcc_histogram.png"
            )
        )
        files.append(plot_scatter(truth, prediction, drawn, folder / "scatter.png"))
    return files


def _choose_drawn(config: PredictConfig, predicted: PredictedSection, board: BoardReport | None) -> list[str]:
    """Take the genes asked for, else the best predicted ones, else those predicted to vary most."""
    if config.plot_genes:
        return list(config.plot_genes)
    if board is not None:
        best = board.gene_table()[f"{MODEL}.pearson"].sort_values(ascending=False, kind="stable")
        return [str(gene) for gene in best.index[:_N_DRAWN]]
    order = np.argsort(-np.nanstd(predicted.expression, axis=0), kind="stable")
    return [predicted.genes[i] for i in order[:_N_DRAWN]]
