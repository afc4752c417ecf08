"""Folders of tasks: genes, samples and splits, as the HEST benchmark or HEST-1k lay them out.

The benchmark's (Hugging Face ``MahmoodLab/hest-bench``): ``TASK/var_50genes.json``, ``TASK/splits/train_0.csv`` and
``test_0.csv`` (and so on) with the columns ``sample_id``, ``patches_path`` and ``expr_path``, whose paths begin at the
task. HEST-1k (``MahmoodLab/hest``) has ``st/SAMPLE.h5ad`` and ``patches/SAMPLE.h5``; with a ``var_50genes.json`` and
``splits`` beside them it is a task too, and ``sample_id`` alone says which files are meant.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from spam.errors import ConfigError, MissingInputError, SectionError
from spam.sections.lab_section import quoted

__all__ = ["GENE_FILE", "HestSample", "HestSplit", "HestTask", "find_tasks", "read_task"]

GENE_FILE = "var_50genes.json"
_SPLIT_FILE = re.compile(r"(train|test)_(\d+)\.csv")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HestSample:
    """Files of one sample: counts (h5ad) and patches (h5)."""

    name: str
    expression: Path
    patches: Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HestSplit:
    """Samples to train on and to test on, by name."""

    number: int
    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HestTask:
    """One task: its genes, its splits in order of their numbers, and the samples that they name."""

    name: str
    genes: tuple[str, ...]
    splits: tuple[HestSplit, ...]
    samples: Mapping[str, HestSample]


def find_tasks(root: Path, names: Sequence[str] = ()) -> tuple[Path, ...]:
    """List the folders of tasks: `root` itself if it has ``splits``, else its folders that have.

    Parameters
    ----------
    names
        Tasks to take, in this order; none for all of them, by name.

    Raises
    ------
    MissingInputError
        If `root` is not there or holds no task.
    ConfigError
        If a name is not among the tasks.
    """
    if not root.is_dir():
        message = f"--bench-data {str(root)!r} is no folder; give the folder of the HEST benchmark's tasks"
        raise MissingInputError(message)
    is_task = (root / "splits").is_dir()
    folders = [root] if is_task else sorted(path.parent for path in root.glob("*/splits") if path.is_dir())
    known = {folder.resolve().name: folder for folder in folders}
    if not known:
        message = (
            f"--bench-data {str(root)!r} holds no task: expected folders such as IDC/splits, IDC/adata, IDC/patches and "
            f"IDC/{GENE_FILE}; get them from the Hugging Face dataset MahmoodLab/hest-bench"
        )
        raise MissingInputError(message)
    unknown = [name for name in names if name not in known]
    if unknown:
        message = (
            f"--tasks names {quoted(unknown)}, which {str(root)!r} does not hold; it holds {', '.join(known)}"
        )
        raise ConfigError(message)
    return tuple(known[name] for name in names or known)


def read_task(folder: Path, *, needs_patches: bool) -> HestTask:
    """Read genes and splits of a task, and make sure that the files of all samples are there.

    Parameters
    ----------
    needs_patches
        Whether patches must be there, too; features that were made before do without.

    Raises
    ------
    MissingInputError
        If files are missing; names all of them.
    SectionError
        If a table or the gene list cannot be used, or a sample is on both sides of a split; lists every fault.
    """
    name = folder.resolve().name
    tables = _split_tables(folder, name)
    faults: list[str] = []
    genes = _read_genes(folder / GENE_FILE, faults)
    is_hest1k = (folder / "st").is_dir() and not (folder / "adata").is_dir()
    samples: dict[str, HestSample] = {}
    sides: dict[Path, tuple[str, ...]] = {}
    for path in (path for pair in tables.values() for path in pair):
        found = _read_side(path, folder, faults, is_hest1k=is_hest1k)
        sides[path] = tuple(sample.name for sample in found)
        faults += [
            f"{path.name} names other files for sample {sample.name!r} than another table"
            for sample in found
            if samples.setdefault(sample.name, sample) != sample
        ]
    splits = tuple(
        HestSplit(number=number, train=sides[train], test=sides[test])
        for number, (train, test) in tables.items()
    )
    for split in splits:
        both = sorted(set(split.train) & set(split.test))
        if both:
            faults.append(f"split {split.number} trains and tests on {quoted(both)}")
    if faults:
        message = f"task {name!r} in {folder} cannot be used: {'; '.join(faults)}; get this task again"
        raise SectionError(message)
    needed = [sample.expression for sample in samples.values()]
    needed += [sample.patches for sample in samples.values()] if needs_patches else []
    _require(needed, name)
    return HestTask(name=name, genes=genes, splits=splits, samples=samples)


def _require(paths: Sequence[Path], task: str) -> None:
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        message = (
            f"task {task!r} lacks {len(missing)} of its files: {quoted(missing)}; expected what its splits name: "
            "get this task again, or correct its splits"
        )
        raise MissingInputError(message)


def _split_tables(folder: Path, name: str) -> dict[int, tuple[Path, Path]]:
    """Pair the tables of each split, in order of their numbers."""
    numbers = {
        int(match[2]) for path in (folder / "splits").iterdir() if (match := _SPLIT_FILE.fullmatch(path.name))
    }
    pairs = {
        number: (folder / "splits" / f"train_{number}.csv", folder / "splits" / f"test_{number}.csv")
        for number in sorted(numbers or {0})
    }
    _require([*(path for pair in pairs.values() for path in pair), folder / GENE_FILE], name)
    return pairs


def _read_genes(path: Path, faults: list[str]) -> tuple[str, ...]:
    """Read the names of the genes to predict."""
    try:
        genes = json.loads(path.read_text(encoding="utf-8"))["genes"]
    except (ValueError, KeyError, TypeError) as error:
        faults.append(f'{path.name} is not {{"genes": [...]}} in JSON ({error!r})')
        return ()
    is_list = isinstance(genes, list) and bool(genes) and all(isinstance(gene, str) for gene in genes)
    if not is_list or len(set(genes)) < len(genes):
        faults.append(f"{path.name} must list names of genes, each once, under 'genes', not {genes!r:.80}")
        return ()
    return tuple(genes)


def _read_side(path: Path, folder: Path, faults: list[str], *, is_hest1k: bool) -> list[HestSample]:
    """Read the samples of one side of a split."""
    columns = ["sample_id"] if is_hest1k else ["sample_id", "patches_path", "expr_path"]
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # the parser's errors are ValueErrors
        faults.append(f"{path.name} is no CSV table ({error})")
        return []
    lacking = [column for column in columns if column not in table]
    if lacking or table.empty:
        what = f"lacks the columns {quoted(lacking)}" if lacking else "names no samples"
        faults.append(f"{path.name} {what}; expected one row per sample with {', '.join(columns)}")
        return []
    repeated = table["sample_id"][table["sample_id"].duplicated()].unique()
    if len(repeated):
        faults.append(f"{path.name} names {quoted(list(repeated))} more than once")
    return [
        HestSample(
            name=row["sample_id"],
            expression=folder / (f"st/{row['sample_id']}.h5ad" if is_hest1k else row["expr_path"]),
            patches=folder / (f"patches/{row['sample_id']}.h5" if is_hest1k else row["patches_path"]),
        )
        for row in table.to_dict(orient="records")
    ]
