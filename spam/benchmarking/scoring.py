"""Scores of one method on one fold: both boards, section by section."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from spam.errors import SectionError
from spam.evaluation import (
    HEST_SET,
    PredictedExpression,
    SectionTruth,
    SetScore,
    score_counts,
    score_section,
)
from spam.training.genes import GeneChoice
from spam.typing import Array, Float32

from .fold_data import FoldData
from .task import CountPrediction, MethodPrediction

__all__ = ["ALL_GENES", "DEPTH_NULL", "FoldScores", "depth_null", "prediction_digest", "score_fold"]

ALL_GENES = "all"
DEPTH_NULL = "depth null"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldScores:
    """Scores of one method on one fold.

    Attributes
    ----------
    sections
        Honest board of each test section, one score per gene set.
    hest
        HEST board: Pearson on log1p(raw counts) over the spots of all test sections together, as the HEST benchmark
        pools them.
    genes
        Scores per gene of each test section, one row per gene that it has measured.
    """

    sections: Mapping[str, tuple[SetScore, ...]]
    hest: SetScore
    genes: Mapping[str, pd.DataFrame]


def score_fold(
    data: FoldData, name: str, predictions: Mapping[str, MethodPrediction], *, is_reference: bool
) -> FoldScores:
    """Score what a method predicted for the test sections of a fold.

    Raises
    ------
    SectionError
        If a test section is missing, or a prediction is not one finite number per spot and gene.
    """
    missing = [section for section in data.truths if section not in predictions]
    if missing:
        message = f"{name!r} predicted nothing for {', '.join(missing)}; every test section of the fold is asked for"
        raise SectionError(message)
    genes = data.task.genes
    sets = {**{k: v for k, v in genes.sets.items() if k != HEST_SET}, ALL_GENES: list(genes.genes)}
    sections, tables, predicted = {}, {}, {}
    for section, truth in data.truths.items():
        predicted[section] = _predicted(name, predictions[section], truth, genes, is_reference=is_reference)
        board = score_section(truth, [predicted[section]], sets)
        sections[section] = tuple(board.honest)
        own = board.genes[[column for column in board.genes if column.startswith(f"{name}.")]]
        tables[section] = own.rename(columns=lambda column: column.removeprefix(f"{name}."))
    hest = _score_hest(list(data.truths.values()), list(predicted.values()), genes.sets[HEST_SET])
    return FoldScores(sections=sections, hest=hest, genes=tables)


def depth_null(data: FoldData) -> dict[str, MethodPrediction]:
    """Predict that a gene is the higher the more was counted in a spot: what a score owes to depth alone.

    This is no method, since it reads the measured library size of the test spots.
    """
    n_genes = len(data.task.genes.genes)
    return {
        section: MethodPrediction(
            expression=np.repeat(np.log1p(truth.totals)[:, None], n_genes, axis=1).astype(np.float32)
        )
        for section, truth in data.truths.items()
    }


def prediction_digest(predictions: Mapping[str, MethodPrediction]) -> str:
    """Hash every number that was predicted: equal digests are equal predictions, bit for bit."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                digest.update(f"{field.name}:".encode())
                add(getattr(value, field.name))
        elif isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        else:
            digest.update(repr(value).encode())

    for section, prediction in sorted(predictions.items()):
        digest.update(f"{section}\0".encode())
        add(prediction)
    return digest.hexdigest()


def _predicted(
    name: str, prediction: MethodPrediction, truth: SectionTruth, genes: GeneChoice, *, is_reference: bool
) -> PredictedExpression:
    """Turn a prediction into what a board compares; the counts get their likelihood and interval."""
    names = np.asarray(genes.genes)
    nll = lower = upper = None
    if prediction.counts is not None:
        counts = prediction.counts
        _check_counts(name, counts, shape=(len(truth.totals), len(names)))
        nll, lower, upper = score_counts(
            truth,
            names,
            counts.likelihood,
            rate=counts.rate,
            theta=counts.theta,
            pi=counts.pi,
            levels=(counts.lower, counts.upper),
        )
    return PredictedExpression(
        name=name,
        expression=prediction.expression,
        genes=names,
        is_reference=is_reference,
        nll=nll,
        lower=lower,
        upper=upper,
        raw_scale=prediction.raw_scale,
        raw_genes=None if prediction.raw_scale is None else np.asarray(genes.sets[HEST_SET]),
    )


def _check_counts(name: str, counts: CountPrediction, *, shape: tuple[int, int]) -> None:
    """Refuse parameters of no distribution, all faults at once."""

    def fault(what: str, values: Array | None, size: tuple[int, ...]) -> str | None:
        if values is None:
            return None
        if values.shape != size:
            return f"{what} has shape {values.shape}, not {size}"
        n_bad = int((~np.isfinite(values) | (values < 0) | ((what != "pi") & (values == 0))).sum())
        return (
            f"{what} holds {n_bad} values of {values.size} that are not finite and positive"
            if n_bad
            else None
        )

    faults = [
        fault("rate", counts.rate, shape),
        fault("theta", counts.theta, shape[1:]),
        fault("pi", counts.pi, shape),
        None
        if 0 < counts.lower < 0.5 < counts.upper < 1
        else f"its interval lies between the quantiles {counts.lower} and {counts.upper}, not on both sides of 0.5",
    ]
    found = [text for text in faults if text]
    if found:
        message = f"the counts that {name!r} predicts have no likelihood: {'; '.join(found)}"
        raise SectionError(message)


def _score_hest(
    truths: Sequence[SectionTruth], predicted: Sequence[PredictedExpression], members: Sequence[str]
) -> SetScore:
    """Pool the spots of all test sections, on the genes of the HEST board that all of them have measured."""
    shared = [gene for gene in members if all(gene in truth.genes for truth in truths)]
    if not shared:
        message = (
            f"the test sections have none of the {len(members)} genes of the HEST board in common; name genes alike in all "
            "sections, or test them in different folds"
        )
        raise SectionError(message)
    columns = [int(np.flatnonzero(predicted[0].genes == gene)[0]) for gene in shared]
    has_raw = all(p.raw_scale is not None for p in predicted)
    places = [list(members).index(gene) for gene in shared]
    first = predicted[0]
    pooled = PredictedExpression(
        name=first.name,
        expression=np.concatenate([p.expression[:, columns] for p in predicted]),
        genes=np.asarray(shared),
        is_reference=first.is_reference,
        raw_scale=np.concatenate([_raw(p)[:, places] for p in predicted]) if has_raw else None,
    )
    counts = [
        csr_matrix(truth.counts)[:, [int(np.flatnonzero(truth.genes == gene)[0]) for gene in shared]]
        for truth in truths
    ]
    truth = SectionTruth(
        counts=csr_matrix(vstack(counts)),
        genes=np.asarray(shared),
        totals=np.concatenate([truth.totals for truth in truths]),
    )
    (score,) = score_section(truth, [pooled], {HEST_SET: list(members)}).hest
    return score


def _raw(predicted: PredictedExpression) -> Float32[Array, "n_spots n_hest"]:
    assert predicted.raw_scale is not None  # asked by the caller
    return predicted.raw_scale
