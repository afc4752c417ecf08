"""Runs every method on every fold with every seed; what is finished stays finished."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from spam.errors import SpamError
from spam.progress import SILENT, Progress

from .cells import Cell, Failure, cell_path, read_cell, write_cell
from .cost import measured
from .fold_data import FoldData
from .folds import Fold
from .scoring import DEPTH_NULL, depth_null, prediction_digest, score_fold
from .task import Method, MethodPrediction
from .workers import side_by_side

__all__ = ["Piece", "PieceRunner", "list_pieces", "run_pieces"]

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A method to run on a fold with a seed; `method` is None for the depth null."""

    fold: Fold
    method: Method | None
    seed: int

    @property
    def name(self) -> str:
        """Name of the method in the tables."""
        return DEPTH_NULL if self.method is None else self.method.name

    @property
    def is_reference(self) -> bool:
        """Whether it is a baseline, which gets no verdict."""
        return self.method is None or self.method.is_reference


def list_pieces(
    folds: Sequence[Fold], methods: Sequence[Method], *, n_seeds: int, has_depth_null: bool
) -> list[Piece]:
    """List all pieces of a benchmark, fold by fold; a method without randomness runs with one seed."""
    runs: list[tuple[Method | None, int]] = [(None, 0)] if has_depth_null else []
    runs += [(method, seed) for method in methods for seed in range(n_seeds if method.is_seeded else 1)]
    return [Piece(fold=fold, method=method, seed=seed) for fold in folds for method, seed in runs]


def run_pieces(
    pieces: Sequence[Piece],
    build: Callable[[Fold], FoldData],
    folder: Path,
    *,
    jobs: int = 1,
    progress: Progress = SILENT,
) -> list[Cell]:
    """Run the pieces that are not finished in `folder` yet, and return the cells of all.

    A piece that fails with a `SpamError` becomes a cell with its message, is run again the next time, and the others go
    on.

    Parameters
    ----------
    jobs
        Pieces to run side by side, in processes of their own; `build` and the methods are sent there by pickle.
    """
    paths = [cell_path(folder, piece.fold.name, piece.name, piece.seed) for piece in pieces]
    cells = {path: cell for path in paths if (cell := read_cell(path)) is not None}
    waiting = [each for each in zip(pieces, paths, strict=True) if each[1] not in cells]
    jobs = max(1, min(jobs, len(waiting)))  # no core idles for a process that has nothing to run
    with progress.task("benchmark", len(pieces)) as advance:
        advance(len(cells))
        run = PieceRunner(build, jobs=jobs)
        finished = ((run(*each), each) for each in waiting)
        for cell, (piece, path) in finished if jobs == 1 else side_by_side(run, waiting, n_processes=jobs):
            cells[path] = cell
            if cell.failure is not None:
                level = logging.INFO if cell.failure.is_expected else logging.WARNING
                _LOG.log(
                    level, "%s: %s gave no scores: %s", piece.fold.name, piece.name, cell.failure.message
                )
            advance(note=f"{piece.fold.name}: {piece.name}")
    return [cells[path] for path in paths]


class PieceRunner:
    """Runs pieces of one benchmark; the fold of the last one is kept, for the next is mostly of the same.

    Parameters
    ----------
    build
        Builds a fold from its plan.
    jobs
        How many of these run side by side.
    """

    def __init__(self, build: Callable[[Fold], FoldData], *, jobs: int) -> None:
        self._build = build
        self._jobs = jobs
        self._ready: tuple[Fold, FoldData] | None = None

    def __call__(self, piece: Piece, path: Path) -> Cell:
        """Run a piece, write its cell to `path`, and return it."""
        if self._ready is None or self._ready[0] != piece.fold:
            self._ready = None  # the old one goes before the new one comes
            self._ready = (piece.fold, self._build(piece.fold))
        return _run(piece, self._ready[1], path, jobs=self._jobs)


def _run(piece: Piece, data: FoldData, path: Path, *, jobs: int) -> Cell:
    """Run one piece and write its cell."""
    scores, digest, failure = None, None, None
    try:
        with measured() as cost:
            predictions = _predict(piece, data)
        digest = prediction_digest(predictions)
        scores = score_fold(data, piece.name, predictions, is_reference=piece.is_reference)
    except SpamError as error:
        failure = Failure(kind=type(error).__name__, message=str(error))
    cell = Cell(
        fold=piece.fold.name,
        method=piece.name,
        seed=piece.seed,
        is_reference=piece.is_reference,
        seconds=cost.seconds,
        peak_mb=cost.peak_mb,
        jobs=jobs,
        threads=torch.get_num_threads(),
        sections={} if scores is None else scores.sections,
        hest=None if scores is None else scores.hest,
        prediction_sha256=digest,
        failure=failure,
    )
    write_cell(path, cell, scores)
    return cell


def _predict(piece: Piece, data: FoldData) -> Mapping[str, MethodPrediction]:
    """Ask the method, which sees the task alone; the depth null reads the measured depth."""
    if piece.method is None:
        return depth_null(data)
    return piece.method.fit_predict(data.task, seed=piece.seed)
