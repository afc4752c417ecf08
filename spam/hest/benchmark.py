"""`spam hest`: every task of the HEST benchmark with one encoder, and the table that its authors publish."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from spam.atomic import write_text
from spam.encoders import build_encoder, encoder_card, require_reachable
from spam.errors import MissingInputError, OutputExistsError, SectionError
from spam.hardware import resolve_device
from spam.models.linear import pearson_per_gene
from spam.progress import SILENT, Progress
from spam.schemas.hest_config import HestConfig, HestSolver
from spam.sections.lab_section import quoted
from spam.typing import Array, Float64, Num

from .embeddings import read_embeddings
from .expression import read_expression
from .patches import embed_patches
from .recipe import predict_expression, require_solver
from .report import HestReport
from .scores import SplitScore, TaskScore
from .task_folder import HestTask, find_tasks, read_task

__all__ = ["hest_benchmark"]


def hest_benchmark(config: HestConfig, *, progress: Progress = SILENT) -> HestReport:
    """Score an encoder on the tasks of the HEST benchmark, and write page and numbers to the out dir.

    Without ``features`` the patches are embedded first. Embeddings go to ``embeddings/TASK/ENCODER`` of the out dir, and a
    run that was stopped goes on behind the last sample that was embedded.

    Raises
    ------
    ConfigError
        If a task is not there, or the solver is not installed.
    OutputExistsError
        If the out dir holds results and overwriting was not asked for.
    MissingInputError
        If files of a task, or embeddings of its samples, are missing.
    SectionError
        If counts, patches, embeddings, genes and splits do not fit together.
    EncoderError
        If the encoder is unknown, or its weights cannot be had.
    """
    assert config.bench_data is not None  # held by HestConfig
    assert config.out_dir is not None
    files = (config.out_dir / "hest.md", config.out_dir / "hest.json")
    if not config.overwrite and any(file.exists() for file in files):
        message = f"{str(config.out_dir)!r} holds results of spam hest; choose another --out-dir, or give --overwrite"
        raise OutputExistsError(message)
    require_solver(config.solver)
    folders = find_tasks(config.bench_data, config.tasks)
    tasks = [read_task(folder, needs_patches=config.features is None) for folder in folders]
    embeddings = _given(tasks, config) if config.features is not None else _made(tasks, config, progress)
    with progress.task("fit and score", sum(len(task.splits) for task in tasks)) as advance:
        scores = []
        for task in tasks:
            scores.append(_score_task(task, embeddings[task.name], solver=config.solver))
            advance(len(task.splits))
    names = ("spam-st", "numpy", "scipy", *(("scikit-learn",) if config.solver == "sklearn" else ()))
    software = {name: version(name) for name in names}
    report = HestReport(config=config, tasks=scores, software=software, files=files)
    config.out_dir.mkdir(parents=True, exist_ok=True)
    write_text(files[0], report.to_markdown())
    write_text(files[1], json.dumps(report.to_mapping(), indent=1, allow_nan=False))
    return report


def _folder_of(root: Path, task: str, encoder: str) -> Path:
    """Name the folder of a task's embeddings; what a file name should not hold becomes ``-``."""
    return root / task / "".join(c if c.isalnum() or c in "_.-" else "-" for c in encoder)


def _given(tasks: Sequence[HestTask], config: HestConfig) -> dict[str, dict[str, Path]]:
    """Find the embeddings that were made before: task -> sample -> file."""
    assert config.features is not None
    found = {
        task.name: {
            sample: _folder_of(config.features, task.name, config.enc_name) / f"{sample}.h5"
            for sample in task.samples
        }
        for task in tasks
    }
    missing = [str(path) for paths in found.values() for path in paths.values() if not path.is_file()]
    if missing:
        message = (
            f"--features lacks the embeddings of {len(missing)} samples: {quoted(missing)}; expected "
            "FOLDER/TASK/ENCODER/SAMPLE.h5: name the encoder's folder with --enc-name, or leave out --features to embed"
        )
        raise MissingInputError(message)
    return found


def _made(tasks: Sequence[HestTask], config: HestConfig, progress: Progress) -> dict[str, dict[str, Path]]:
    """Embed the patches of all samples: task -> sample -> file."""
    assert config.out_dir is not None
    card = encoder_card(config.enc_name)
    device = resolve_device(config.device)
    require_reachable(card)
    encoder = build_encoder(card, device=device)
    made: dict[str, dict[str, Path]] = {}
    for task in tasks:
        folder = _folder_of(config.out_dir / "embeddings", task.name, card.name)
        made[task.name] = {sample: folder / f"{sample}.h5" for sample in task.samples}
        for sample, path in made[task.name].items():
            patches = task.samples[sample].patches
            embed_patches(patches, path, encoder, batch_size=config.batch_size, progress=progress)
    return made


def _score_task(task: HestTask, embeddings: Mapping[str, Path], *, solver: HestSolver) -> TaskScore:
    """Fit and score every split of a task; each sample is read once."""
    features: dict[str, Array] = {}
    expression: dict[str, Array] = {}
    for sample, path in embeddings.items():
        found = read_embeddings(path)
        features[sample] = found.features
        expression[sample] = read_expression(task.samples[sample].expression, task.genes, found.barcodes)
    widths = {sample: rows.shape[1] for sample, rows in features.items()}
    if len(set(widths.values())) > 1:
        message = f"embeddings of task {task.name!r} have different lengths: {widths}; expected one encoder for all samples"
        raise SectionError(message)
    splits = []
    for split in task.splits:
        x_train, y_train = _joined(features, split.train), _joined(expression, split.train)
        x_test, y_test = _joined(features, split.test), _joined(expression, split.test)
        predicted = predict_expression(x_train, y_train, x_test, solver=solver)
        splits.append(_score_split(split.number, len(x_train), predicted, y_test))
    return TaskScore(name=task.name, genes=task.genes, splits=tuple(splits))


def _joined(rows: Mapping[str, Array], samples: Sequence[str]) -> Num[Array, "n d"]:
    return np.concatenate([rows[sample] for sample in samples])


def _score_split(
    number: int, n_train: int, predicted: Float64[Array, "n g"], truth: Float64[Array, "n g"]
) -> SplitScore:
    pearson = pearson_per_gene(predicted, truth)
    return SplitScore(number=number, n_train=n_train, n_test=len(truth), pearson=pearson)
