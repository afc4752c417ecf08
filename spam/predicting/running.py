"""From store and checkpoint to predictions, scores and plots in a folder."""

import dataclasses
import json
from pathlib import PurePath

import numpy as np

from spam.atomic import write_text
from spam.errors import ConfigError, OutputExistsError
from spam.evaluation import MODEL, score_predicted
from spam.hardware import resolve_device
from spam.prediction import Context, ContextReport, Predictor, condition, write_predictions, write_table
from spam.progress import SILENT, Progress
from spam.schemas.predict_config import PredictConfig
from spam.sections import MeasuredPart, read_measured_part
from spam.store import StoredSection, open_store

from .drawing import draw
from .predict_report import PredictReport

__all__ = ["predict"]

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
    part, context = _read_context(config, section, predictor)
    predicted = predictor.predict(
        section, depth=config.depth, coverage=config.coverage, batch_size=config.batch_size, progress=progress
    )
    given = None
    if part is not None and context is not None:
        predicted = condition(predictor, predicted, context)
        given = ContextReport.of(
            context,
            predicted,
            n_genes_of_file=len(part.genes),
            n_spots_of_file=len(part.rows) + part.n_unknown,
            n_unknown=part.n_unknown,
        )
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
        files += draw(config, section, predicted, board, context)
    return PredictReport(
        section=predicted.section,
        n_spots=len(predicted.ids),
        n_genes=len(predicted.genes),
        is_training_section=bool(predicted.provenance["is_training_section"]),
        is_calibrated_on_new_donors=bool(predicted.provenance["is_calibrated_on_new_donors"]),
        coverage=predicted.coverage,
        files=tuple(files),
        board=board,
        n_unmeasured=len(predicted.genes) - len(measured),
        n_unreadable=n_unreadable,
        n_unlike=None
        if np.isnan(predicted.bank_distance).all()
        else int(predicted.is_out_of_distribution.sum()),
        n_predictable=None if predictor.heldout is None else int(predicted.is_predictable.sum()),
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
) -> tuple[MeasuredPart | None, Context | None]:
    """Read what is given of the section, before anything is predicted."""
    if config.context_h5ad is None:
        return None, None
    part = read_measured_part(config.context_h5ad, section=section.meta.name, ids=section.ids)
    context = Context.gather(
        part.counts,
        part.genes,
        part.rows,
        n_spots=section.n_spots,
        modelled=predictor.meta.genes,
        library_size=part.library_size,
    )
    return part, context


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
