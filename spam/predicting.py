"""`spam predict`: predict a section, score it against its counts if it has some, and draw it."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam.atomic import claimed, staged, write_text
from spam.errors import ConfigError, OutputExistsError
from spam.evaluation import MODEL, BoardReport, FinishedPrediction, PredictReport, score_predicted
from spam.hardware import resolve_device
from spam.memory import budget_bytes
from spam.models import log1p_cp10k
from spam.prediction import (
    Context,
    PredictedSection,
    Predictor,
    condition,
    write_predictions,
    write_table,
)
from spam.prediction.panel import Bank
from spam.prediction.predicted_section import Allocate, filled, in_memory, on_disk
from spam.progress import SILENT, Progress
from spam.reporting import report as write_report
from spam.reports import (
    PAGE,
    SEEN,
    GivenEntries,
    SectionView,
    plot_expression_maps,
    plot_pcc_histogram,
    plot_scatter,
)
from spam.schemas.checkpoint_meta import CHECKPOINT_NAME
from spam.schemas.predict_config import PredictConfig
from spam.schemas.report_config import ReportConfig
from spam.schemas.store_format import quality_key
from spam.sections import read_measured_part
from spam.store import StoredSection, advice_on_names, is_remote, local_file, open_store
from spam.training.groups import at_most
from spam.training.loop import HEALTH
from spam.typing import Array, Float32
from spam.versions import software_versions

_WRITTEN = (
    *("predictions.h5ad", "predictions.csv", "predictions.parquet", "metrics.json", "genes.csv"),
    *("scores.md", PAGE),
    *("plots/expression_maps.png", "plots/pcc_histogram.png", "plots/scatter.png"),
)
_N_DRAWN = 4
_MOST_RANKED = 10_000  # spots whose predictions decide which genes vary most
_N_MATRICES = 10  # of spots and genes, in float32, about
# Options that change no result, and paths, whose content counts.
_NOT_IN_RESULTS = (
    *("store", "ckpt", "out_dir", "context_h5ad", "overwrite", "device", "batch_size", "section"),
    "memory_budget",
)


def predict(config: PredictConfig, *, progress: Progress = SILENT) -> PredictReport | FinishedPrediction:
    """Predict one section of a store, score it if it has counts, and draw it.

    Nothing is predicted if the output folder holds the results of the same section, checkpoint, context and options.

    The prediction reads no counts of the section in the store, only those in ``--context-h5ad``; the scores do,
    afterwards, and leave out what was given.

    Raises
    ------
    MissingInputError, StoreError, CheckpointError
        If store, section or checkpoint are missing or do not fit together.
    SectionError, ConfigError
        If the context is not raw counts of the section, or cannot be used by the checkpoint.
    OutputExistsError
        If the output folder holds other predictions, without ``--overwrite``, or another process writes to it.
    """
    assert config.out_dir is not None  # checked by PredictConfig
    with claimed(config.out_dir, "--out-dir"):
        return _predict(config, config.out_dir, progress)


def _predict(config: PredictConfig, out: Path, progress: Progress) -> PredictReport | FinishedPrediction:
    assert config.store is not None  # checked by PredictConfig
    assert config.ckpt is not None
    section = _choose_section(config.store, config.section)
    predictor = Predictor.load(config.ckpt, resolve_device(config.device))
    made_from = _made_from(config, section, predictor)
    if (out / "predictions.h5ad").exists() and not config.overwrite:
        if finished := _finished(out, made_from):
            return finished
        message = (
            f"{str(out / 'predictions.h5ad')!r} was made from other inputs. Choose another --out-dir, or replace it with "
            "--overwrite."
        )
        raise OutputExistsError(message)
    unknown = [gene for gene in config.plot_genes if gene not in predictor.meta.genes]
    if unknown:
        genes = (
            f"{len(predictor.meta.genes)} genes of the checkpoint ({', '.join(predictor.meta.genes[:5])}, …)"
        )
        message = f"--plot-genes {' '.join(unknown)}: not among the {genes}."
        raise ConfigError(message)
    context = _read_context(config, section, predictor)
    n_bytes = 4 * _N_MATRICES * section.n_spots * len(predictor.meta.genes)
    budget = budget_bytes(config.memory_budget)
    is_large = n_bytes > budget
    allocate = on_disk(out) if is_large else in_memory
    predicted = predictor.predict(
        section,
        depth=config.depth,
        coverage=config.coverage,
        batch_size=config.batch_size,
        with_baselines=section.meta.has_counts,
        allocate=allocate,
        most_bytes=budget if is_large else budget - n_bytes,
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
        measured = None
        if len(unmeasured) < len(predicted.genes):
            measured = _measured(section, predicted.genes, allocate)
        board = score_predicted(section, predictor, predicted, context)
        write_predictions(
            predicted,
            section,
            files[0],
            measured=measured,
            accuracy=None if board is None else _accuracy(board),
            given=None if context is None else (context.is_given_spot, context.is_given_gene),
            allocate=allocate,
        )
        for path in files[1:]:
            write_table(predicted, path)
        files.append(folder / "metrics.json")
        if board is not None:
            files += [folder / "genes.csv", folder / "scores.md"]
            write_text(folder / "genes.csv", board.genes.to_csv())
            write_text(folder / "scores.md", board.markdown())
        if config.report:
            files.append(folder / PAGE)
        if config.plots:
            truth = None if board is None else measured
            files += _draw(folder, config.plot_genes, section, predicted, board, truth, context)
        report = PredictReport(
            predicted=predicted,
            n_unmeasured=len(unmeasured),
            out_dir=out,
            files=tuple(out / path.relative_to(folder) for path in files),
            board=board,
            unscored=None if board is not None else _why_unscored(section, predicted),
            placement_doubt=section.meta.placement_doubt,
            gene_advice=advice_on_names(of_section, predicted.genes) if of_section else "",
        )
        values = {key: value for key, value in report.to_mapping().items() if key != "metrics"}
        about = {
            "files": [path.relative_to(out).as_posix() for path in report.files],
            "made_from": made_from,
            "model": MODEL,
            "provenance": predicted.provenance,
            "inputs": _inputs(section, predictor),
            "training": _training(config.ckpt),
            "config": config.to_record(),
        }
        scores = {} if board is None else board.to_mapping()
        scores["n_scored"] = scores.pop("n_spots", 0)
        write_text(folder / "metrics.json", json.dumps({**scores, **values, **about}, indent=1))
        if config.report:
            write_report(ReportConfig(results=folder), progress=progress)
    return report


def _made_from(config: PredictConfig, section: StoredSection, predictor: Predictor) -> dict[str, Any]:
    """Describe all that decides the results, so that a repeated run is recognised."""
    arrays = [f"obsm/{name}" for key in predictor.meta.feature_keys for name in (key, quality_key(key))]
    tables = ("X", "obs", "var", "uns/spatial", "obsm/spatial", "obsm/spatial_um")
    context = config.context_h5ad
    options = {name: value for name, value in config.to_record().items() if name not in _NOT_IN_RESULTS}
    return {
        "section_sha256": section.content_digest(*tables, *arrays),
        "checkpoint_sha256": predictor.sha256,
        "context_sha256": None if context is None else hashlib.sha256(context.read_bytes()).hexdigest(),
        "options": options,
        "spam-st": software_versions()["spam-st"],
    }


def _finished(out: Path, made_from: dict[str, Any]) -> FinishedPrediction | None:
    """Return the results in a folder if they are complete and were made from the same."""
    path = out / "metrics.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if values.get("made_from") != made_from or not all((out / name).is_file() for name in values["files"]):
        return None
    return FinishedPrediction(out_dir=out, values=values)


def _inputs(section: StoredSection, predictor: Predictor) -> dict[str, Any]:
    """Describe what went into a prediction: scale, files and licences; no paths."""
    meta = section.meta
    return {
        "donor": meta.donor,
        "mpp": meta.mpp,
        "mpp_source": meta.mpp_source,
        "licence": meta.licence,
        "sources": [source.to_mapping() for source in meta.sources],
        "feature_licences": {
            key: section.feature_meta(key).encoder.get("licence") for key in predictor.meta.feature_keys
        },
    }


def _training(ckpt: Path | str) -> dict[str, Any]:
    """Collect what lies beside a checkpoint: mean curves of the runs that chose the number of epochs, health check of stage 1."""
    if is_remote(ckpt):
        return {}
    folder = local_file(ckpt, CHECKPOINT_NAME).parent
    files = {"history": folder / "selection" / "history.json", "health": folder / HEALTH}
    return {
        name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.is_file()
    }


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
    scores = None if board is None else board.genes.filter(regex=r"\.pearson$")
    genes, choice = list(plot_genes), "genes of --plot-genes"
    if not genes:
        best = "predicted variance" if scores is None else "Pearson r on this section"
        choice = f"genes with the highest {best}"
        some = at_most(np.arange(len(predicted.ids)), _MOST_RANKED)
        rank = (
            scores[f"{MODEL}.pearson"]
            if scores is not None
            else np.nanstd(predicted.unclipped[some].clip(min=0), axis=0)
        )
        names = predicted.genes if scores is None else scores.index
        genes = [str(names[i]) for i in np.argsort(-np.asarray(rank), kind="stable")[:_N_DRAWN]]  # NaN last
    if predicted.training_section is not None:
        choice += f"; {SEEN}"
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
        is_unlike=predicted.is_out_of_distribution,
    )
    plot_expression_maps(view, genes, prediction, truth, given, maps, choice=choice)
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
    scores = board.genes.filter(regex=rf"^{MODEL}\.")
    return scores.rename(columns=lambda name: f"section_{name.removeprefix(f'{MODEL}.')}")


def _measured(
    section: StoredSection, genes: Sequence[str], allocate: Allocate
) -> Float32[Array, "n_spots n_genes"]:
    """Log1p(CP10k) of some genes; NaN (drawn grey) for genes that the section has not measured."""
    counts = section.counts()
    order = {str(gene): i for i, gene in enumerate(section.genes if section.genes is not None else ())}
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    known = [i for i, gene in enumerate(genes) if gene in order]
    counts = counts[:, [order[genes[i]] for i in known]]

    def rows_of(rows: slice) -> Float32[Array, "n n_genes"]:
        measured = np.full((len(totals[rows]), len(genes)), np.nan, dtype=np.float32)
        measured[:, known] = log1p_cp10k(counts[rows], totals[rows])
        return measured

    return filled(allocate, (section.n_spots, len(genes)), rows_of)
