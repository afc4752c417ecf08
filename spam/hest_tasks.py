"""`spam hest`: the HEST benchmark on its own files: task folders, patches -> embeddings, and the published table.

The benchmark (Hugging Face ``MahmoodLab/hest-bench``) has ``TASK/var_50genes.json``, ``TASK/splits/train_0.csv``,
``test_0.csv`` and so on with the columns ``sample_id``, ``patches_path`` and ``expr_path``, relative to the task. HEST-1k
(``MahmoodLab/hest``) has ``st/SAMPLE.h5ad`` and ``patches/SAMPLE.h5``; with ``var_50genes.json`` and ``splits`` it is a task
too, and ``sample_id`` alone names the files.
"""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from spam.atomic import claimed, replacing, write_text
from spam.encoders import Encoder, build_encoder, encoder_card, list_encoders, require_reachable
from spam.errors import ConfigError, MissingInputError, OutputExistsError, SectionError, counted
from spam.evaluation.hest_probe import (
    HestReport,
    TaskScore,
    predict_expression,
    published_scores,
    require_solver,
)
from spam.h5ad_output import writing_hdf5
from spam.hardware import resolve_device
from spam.models.linear import pearson_per_gene
from spam.progress import SILENT, Progress
from spam.schemas.hest_config import HestConfig, HestSolver
from spam.sections.h5ad import read_h5ad
from spam.sections.hdf5_files import find_node, open_hdf5, read_numbers, read_values, refuse_claims
from spam.sections.lab_section import quoted
from spam.store.gene_names import advice_on_names
from spam.tiles.tile_cutting import resample
from spam.typing import Array, Float64, Num

_LOG = logging.getLogger(__name__)
_GENE_FILE = "var_50genes.json"
_SPLIT_FILE = re.compile(r"(train|test)_(\d+)\.csv")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HestSample:
    """Files of one sample: counts (h5ad) and patches (h5)."""

    expression: Path
    patches: Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HestTask:
    """One task: its genes, (training, test) samples of each split number, and the files of each sample."""

    name: str
    genes: tuple[str, ...]
    splits: Mapping[int, tuple[tuple[str, ...], tuple[str, ...]]]
    samples: Mapping[str, HestSample]


def hest_benchmark(config: HestConfig, *, progress: Progress = SILENT) -> HestReport:
    """Score an encoder on the tasks of the HEST benchmark, and write page and numbers to the out dir.

    Without ``features`` the patches are embedded first, to ``embeddings/TASK/ENCODER`` of the out dir; an interrupted run
    resumes after the last embedded sample.

    Raises
    ------
    ConfigError
        If a task is unknown, or the solver is not installed.
    OutputExistsError
        If the out dir holds results and ``--overwrite`` is not given, or another process writes them.
    MissingInputError
        If files of a task, or embeddings of its samples, are missing.
    SectionError
        If counts, patches, embeddings, genes and splits do not fit together.
    EncoderError
        If the encoder is unknown or its weights are not available.
    """
    assert config.out_dir is not None  # checked by HestConfig
    with claimed(config.out_dir, "--out-dir"):
        return _hest_benchmark(config, config.out_dir, progress)


def _hest_benchmark(config: HestConfig, out: Path, progress: Progress) -> HestReport:
    assert config.bench_data is not None  # checked by HestConfig
    files = (out / "hest.md", out / "hest.json")
    if not config.overwrite and files[1].exists():  # written last
        message = f"Results exist: {str(out)!r}. Choose another --out-dir, or give --overwrite."
        raise OutputExistsError(message)
    require_solver(config.solver)
    folders = find_tasks(config.bench_data, config.tasks)
    tasks = [read_task(folder, needs_patches=config.features is None) for folder in folders]
    name = config.enc_name if config.features is not None else encoder_card(config.enc_name).name
    root = config.features or out / "embeddings"
    encoder_folder = "".join(c if c.isalnum() or c in "_.-" else "-" for c in name)
    embeddings = {
        task.name: {sample: root / task.name / encoder_folder / f"{sample}.h5" for sample in task.samples}
        for task in tasks
    }
    if config.features is None:
        card = encoder_card(config.enc_name)
        require_reachable(card)
        encoder = build_encoder(card, device=resolve_device(config.device))
        for task in tasks:
            for sample, path in embeddings[task.name].items():
                patches = task.samples[sample].patches
                embed_patches(patches, path, encoder, batch_size=config.batch_size, progress=progress)
    _require([path for paths in embeddings.values() for path in paths.values()], "embeddings (--features)")
    scores = []
    with progress.task("fit and score", sum(len(task.splits) for task in tasks)) as advance:
        for task in tasks:
            scores.append(_score_task(task, embeddings[task.name], solver=config.solver))
            advance(len(task.splits))
    packages = ("spam-st", "numpy", "scipy", *(("scikit-learn",) if config.solver == "sklearn" else ()))
    software = {package: version(package) for package in packages}
    known = next((card.name for card in list_encoders() if name in card.aliases), name)
    report = HestReport(
        config=config, tasks=scores, published=published_scores(known), software=software, files=files
    )
    write_text(files[0], report.to_markdown())
    write_text(files[1], json.dumps(report.to_mapping(), indent=1, allow_nan=False))
    return report


def _score_task(task: HestTask, embeddings: Mapping[str, Path], *, solver: HestSolver) -> TaskScore:
    """Fit and score every split of a task; each sample is read once."""
    data: dict[str, tuple[Array, Array]] = {}
    for sample, path in embeddings.items():
        features, barcodes = read_embeddings(path)
        data[sample] = features, read_expression(task.samples[sample].expression, task.genes, barcodes)
    widths = {sample: features.shape[1] for sample, (features, _) in data.items()}
    if len(set(widths.values())) > 1:
        message = f"Embeddings of task {task.name!r} differ in length: {widths}. Use one encoder for all."
        raise SectionError(message)

    def joined(samples: Sequence[str]) -> tuple[Array, Array]:
        x, y = zip(*(data[sample] for sample in samples), strict=True)
        return np.concatenate(x), np.concatenate(y)

    pearson, n_spots = {}, {}
    for number, (train, test) in task.splits.items():
        (x, y), (x_test, y_test) = joined(train), joined(test)
        pearson[number] = pearson_per_gene(predict_expression(x, y, x_test, solver=solver), y_test)
        n_spots[number] = len(x), len(x_test)
    table = pd.DataFrame.from_dict(pearson, orient="index", columns=list(task.genes))
    return TaskScore(name=task.name, pearson=table, n_spots=n_spots)


def find_tasks(root: Path, names: Sequence[str] = ()) -> tuple[Path, ...]:
    """List the task folders: `root` itself if it has ``splits``, else its subfolders with ``splits``.

    Parameters
    ----------
    names
        Tasks to use, in this order; empty for all, sorted by name.

    Raises
    ------
    MissingInputError
        If `root` does not exist or holds no task.
    ConfigError
        If a name is not among the tasks.
    """
    found = [root] if (root / "splits").is_dir() else sorted(path.parent for path in root.glob("*/splits"))
    known = {folder.resolve().name: folder for folder in found}
    if not known:
        message = (
            f"No HEST task in {str(root)!r} (--bench-data); expected folders such as IDC/splits, IDC/adata, IDC/patches. "
            "Download the Hugging Face dataset MahmoodLab/hest-bench."
        )
        raise MissingInputError(message)
    unknown = [name for name in names if name not in known]
    if unknown:
        message = f"Tasks not found: {', '.join(unknown)} (--tasks). Available: {', '.join(known)}."
        raise ConfigError(message)
    return tuple(known[name] for name in dict.fromkeys(names or known))


def read_task(folder: Path, *, needs_patches: bool) -> HestTask:
    """Read genes and splits of a task, and check that the files of all samples exist.

    Raises
    ------
    MissingInputError
        If files are missing; names all of them.
    SectionError
        If a table or the gene list is invalid, or a sample is on both sides of a split.
    """
    name = folder.resolve().name
    matches = (_SPLIT_FILE.fullmatch(path.name) for path in (folder / "splits").iterdir())
    numbers = sorted({int(match[2]) for match in matches if match} or {0})
    paths = [folder / "splits" / f"{side}_{number}.csv" for number in numbers for side in ("train", "test")]
    _require([*paths, folder / _GENE_FILE], f"task {name}")
    try:
        genes = tuple(json.loads((folder / _GENE_FILE).read_text(encoding="utf-8"))["genes"])
    except (ValueError, KeyError, TypeError) as error:
        message = f'{folder / _GENE_FILE} is not {{"genes": [...]}} in JSON ({error!r}).'
        raise SectionError(message) from error
    tables = [_read_side(path, folder) for path in paths]
    sides = [tuple(table["sample_id"]) for table in tables]
    files = pd.concat(tables).drop_duplicates()
    splits = dict(zip(numbers, zip(sides[::2], sides[1::2], strict=True), strict=True))
    both = {number: sorted({*train} & {*test}) for number, (train, test) in splits.items()}
    listed = {_GENE_FILE: genes, **{path.name: side for path, side in zip(paths, sides, strict=True)}}
    faults = [
        *(
            f"{file} is empty or has repeats"
            for file, names in listed.items()
            if len({*names}) < max(len(names), 1)
        ),
        *(f"split {number} has {', '.join(names)} on both sides" for number, names in both.items() if names),
        *(
            f"tables name different files for {n}"
            for n in files["sample_id"][files["sample_id"].duplicated()]
        ),
    ]
    if faults:
        message = f"Invalid task {name!r} in {folder}: {'; '.join(faults)}."
        raise SectionError(message)
    samples = {
        row.sample_id: HestSample(expression=folder / row.expr_path, patches=folder / row.patches_path)
        for row in files.itertuples()
    }
    needed = [s.expression for s in samples.values()]
    needed += [s.patches for s in samples.values()] if needs_patches else []
    _require(needed, f"task {name}")
    return HestTask(name=name, genes=genes, splits=splits, samples=samples)


def _read_side(path: Path, folder: Path) -> pd.DataFrame:
    """Read one side of a split: ``sample_id``, ``patches_path`` and ``expr_path`` of each sample."""
    is_hest1k = (folder / "st").is_dir() and not (folder / "adata").is_dir()
    columns = ["sample_id"] if is_hest1k else ["sample_id", "patches_path", "expr_path"]
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)[columns]
    except (ValueError, KeyError) as error:  # parser errors are ValueErrors
        message = f"{path} is not a CSV table with {', '.join(columns)} ({error})."
        raise SectionError(message) from error
    if is_hest1k:
        names = table["sample_id"]
        table = table.assign(patches_path="patches/" + names + ".h5", expr_path="st/" + names + ".h5ad")
    return table


def _require(paths: Sequence[Path], what: str) -> None:
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        message = f"{counted(len(missing), 'file')} of {what} not found: {', '.join(missing[:5])}."
        raise MissingInputError(message)


def read_expression(
    path: Path, genes: Sequence[str], barcodes: Sequence[str]
) -> Float64[Array, "n_spots n_genes"]:
    """Read log1p of ``X`` for some genes and spots, in their order.

    Not normalised by library size, as in the HEST benchmark. Values that are not integers are used with a warning.

    Raises
    ------
    SectionError
        If genes or spots are missing or repeated, or values are negative or not finite; lists every fault.
    """
    h5ad = read_h5ad(path, "HEST's")
    faults, places = [], []
    for what, wanted, found in (("barcodes", barcodes, h5ad.ids), ("genes", genes, h5ad.features("X")[0])):
        names = pd.Index(found)
        n_found = names.value_counts().reindex(list(wanted), fill_value=0)
        if bad := list(n_found.index[n_found != 1]):
            fault = f"{len(bad)} of {len(wanted)} {what} missing or repeated ({quoted(bad)})"
            other = h5ad.other_gene_names() if what == "genes" else None
            faults.append(f"{fault} {advice_on_names(found, wanted, other, then='')}".rstrip(" ."))
        else:
            places.append(names.get_indexer_for(list(wanted)))
    if faults:
        message = f"{path} does not match its task: {'; '.join(faults)}. Use counts, patches and genes of one release."
        raise SectionError(message)
    counts = h5ad.at(places[0]).matrix("X")[:, places[1]].toarray().astype(np.float64)
    if not np.isfinite(counts).all() or (counts < 0).any():
        message = f"X of {path} has negative or non-finite values for the task's genes; expected raw counts."
        raise SectionError(message)
    if (counts != np.floor(counts)).any():
        _LOG.warning("%s: X has values that are not integers; used as they are, as in HEST", path)
    expression: Array = np.log1p(counts)
    return expression


def embed_patches(patches: Path, out: Path, encoder: Encoder, *, batch_size: int, progress: Progress) -> None:
    """Embed all patches of a sample in the order of their file, unless `out` was made from the same patches and encoder.

    A patch shows 112 µm (224 px at 0.5 µm/px) at any size in pixels, and is resampled to the encoder's input size. The result
    has the layout of the HEST benchmark.

    Raises
    ------
    SectionError
        If the file is invalid, or does not hold square RGB patches with barcodes and coordinates.
    EncoderError
        As `Encoder.embed`.
    """
    with patches.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    made_of = {
        "encoder": encoder.card.name,
        "weights_sha256": encoder.weights_sha256,
        "precision": encoder.precision,
        "patches_sha256": digest,
    }
    if out.is_file():
        with open_hdf5(out) as file:
            if {key: str(value) for key, value in file.attrs.items()} == made_of:
                return
    with open_hdf5(patches) as file:
        images, barcodes, coords = find_node(file, "img"), read_barcodes(file), read_numbers(file, "coords")
        shape: tuple[int, ...] = ()
        if isinstance(images, h5py.Dataset) and images.dtype == np.uint8:
            shape = images.shape
        if not isinstance(images, h5py.Dataset) or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
            message = f"'img' of {patches} is not an array of square RGB patches, uint8 (n, px, px, 3)."
            raise SectionError(message)
        refuse_claims(images)
        if not shape[0] == len(barcodes) == len(coords):
            message = f"{patches} has {shape[0]} patches, {len(barcodes)} barcodes and {len(coords)} coords."
            raise SectionError(message)
        features = np.empty((shape[0], encoder.card.dim), dtype=np.float32)
        px = encoder.card.input_px
        with progress.task(f"embed {out.stem}", shape[0]) as advance:
            for first in range(0, shape[0], batch_size):
                tiles = images[first : first + batch_size]
                if shape[1] != px:
                    interpolation = encoder.card.interpolation
                    tiles = np.stack([resample(tile, px, px, interpolation=interpolation) for tile in tiles])
                features[first : first + batch_size] = encoder.embed(tiles)
                advance(len(tiles))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial, writing_hdf5(partial) as file:
        file["embeddings"] = features
        file["coords"] = coords
        names = np.array(barcodes, dtype=object)[:, None]
        file.create_dataset("barcodes", data=names, dtype=h5py.string_dtype())
        file.attrs.update(made_of)


def read_embeddings(path: Path) -> tuple[Num[Array, "n_spots dim"], tuple[str, ...]]:
    """Read the embeddings of a sample in their stored number format, and the barcode of each row.

    Raises
    ------
    SectionError
        If the file is invalid, or its arrays do not fit together.
    """
    with open_hdf5(path) as file:
        features, barcodes = read_numbers(file, "embeddings"), read_barcodes(file)
    if features.ndim != 2 or len(features) != len(barcodes) or not len(features):
        message = f"'embeddings' of {path} have shape {features.shape} for {len(barcodes)} barcodes."
        raise SectionError(message)
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        message = f"{bad} of {len(features)} embeddings of {path} have NaN or infinite values. Embed this sample again."
        raise SectionError(message)
    return features, barcodes


def read_barcodes(file: h5py.File) -> tuple[str, ...]:
    """Read the barcode of each row: ``barcodes`` or ``barcode``, of shape (n, 1) or (n,).

    Raises
    ------
    SectionError
        If neither exists.
    """
    node = find_node(file, "barcodes") or find_node(file, "barcode")
    if not isinstance(node, h5py.Dataset):
        message = f"{file.filename} has no 'barcodes' or 'barcode' (only {quoted(list(file))})."
        raise SectionError(message)
    return tuple(map(str, read_values(node).ravel()))
