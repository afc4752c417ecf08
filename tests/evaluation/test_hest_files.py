"""Files of the benchmark that cannot be used: one clear message each, with every fault in it."""

import json
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from embedding_lab import write_encoder
from hest_lab import GENES, HestLab, make_hest_lab, write_counts, write_features, write_split

from spam.errors import ConfigError, MissingInputError, SectionError, SpamError
from spam.hest import hest_benchmark
from spam.hest.task_folder import find_tasks, read_task
from spam.schemas.hest_config import HestConfig


@pytest.fixture
def lab(tmp_path: Path) -> HestLab:
    return make_hest_lab(tmp_path)


def _remove(*names: str) -> Callable[[Path], None]:
    return lambda home: [(home / name).unlink() for name in names] and None


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda home: (home / name).write_text(text) and None


TASK_FAULTS: list[tuple[Callable[[Path], None], type[SpamError], str]] = [
    (
        _remove("adata/S1.h5ad", "patches/S3.h5"),
        MissingInputError,
        r"'IDC' lacks 2 of its files.*S1\.h5ad.*S3\.h5",
    ),
    (_remove("splits/test_1.csv"), MissingInputError, r"lacks 1 of its files.*test_1\.csv"),
    (_remove("var_50genes.json"), MissingInputError, r"var_50genes\.json"),
    (_write("var_50genes.json", "[]"), SectionError, r'var_50genes\.json is not \{"genes": \[\.\.\.\]\}'),
    (_write("var_50genes.json", "{"), SectionError, r"var_50genes\.json is not .*JSONDecodeError"),
    (_write("var_50genes.json", '{"genes": ["A", "A"]}'), SectionError, "each once.*'A', 'A'"),
    (_write("var_50genes.json", '{"genes": []}'), SectionError, r"must list names of genes.*\[\]"),
    (
        _write("splits/train_0.csv", "sample_id,patches_path\nS1,patches/S1.h5\n"),
        SectionError,
        r"train_0\.csv lacks the columns 'expr_path'",
    ),
    (_write("splits/train_0.csv", ""), SectionError, r"train_0\.csv is no CSV table"),
    (
        lambda home: write_split(home, "test_0.csv", ("S3", "S2")),
        SectionError,
        "split 0 trains and tests on 'S2'",
    ),
    (
        lambda home: write_split(home, "test_0.csv", ("S3", "S3")),
        SectionError,
        r"test_0\.csv names 'S3' more than once",
    ),
    (
        _write("splits/test_0.csv", "sample_id,patches_path,expr_path\n"),
        SectionError,
        r"test_0\.csv names no samples",
    ),
    (
        _write("splits/test_0.csv", "sample_id,patches_path,expr_path\nS3,patches/S3.h5,adata/S2.h5ad\n"),
        SectionError,
        r"train_1\.csv names other files for sample 'S3'",
    ),
]


@pytest.mark.parametrize(("damage", "kind", "words"), TASK_FAULTS)
def test_task_that_cannot_be_used(
    lab: HestLab, damage: Callable[[Path], None], kind: type[SpamError], words: str
) -> None:
    home = lab.bench / "IDC"
    assert read_task(home, needs_patches=True).genes == GENES
    damage(home)
    with pytest.raises(kind, match=words):
        read_task(home, needs_patches=True)


def test_all_faults_of_a_task_at_once(lab: HestLab) -> None:
    home = lab.bench / "IDC"
    (home / "var_50genes.json").write_text("[]")
    write_split(home, "test_0.csv", ("S3", "S2"))
    with pytest.raises(SectionError, match=r"(?s)var_50genes\.json.*split 0 trains and tests on 'S2'"):
        read_task(home, needs_patches=True)


def test_patches_are_not_needed_beside_features(lab: HestLab) -> None:
    (lab.bench / "IDC" / "patches" / "S1.h5").unlink()
    assert set(read_task(lab.bench / "IDC", needs_patches=False).samples) == {"S1", "S2", "S3"}


def test_splits_come_in_order_of_their_numbers(lab: HestLab) -> None:
    home = lab.bench / "IDC"
    for number in (10, 2):
        write_split(home, f"train_{number}.csv", ("S1",))
        write_split(home, f"test_{number}.csv", ("S2",))
    (home / "splits" / "notes.txt").write_text("not a split")
    assert [split.number for split in read_task(home, needs_patches=True).splits] == [0, 1, 2, 10]


def test_folders_without_tasks(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"is no folder"):
        find_tasks(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match=r"holds no task.*IDC/splits.*MahmoodLab/hest-bench"):
        find_tasks(tmp_path)


def run(lab: HestLab, **others: object) -> None:
    hest_benchmark(HestConfig(**lab.values(**others)))


def test_missing_embeddings_are_named(lab: HestLab) -> None:
    folder = lab.folder / "features" / "IDC" / "resnet50"
    (folder / "S1.h5").unlink()
    (folder / "S2.h5").unlink()
    with pytest.raises(MissingInputError, match=r"of 2 samples.*S1\.h5.*S2\.h5.*--enc-name"):
        run(lab)
    with pytest.raises(MissingInputError, match=r"of 3 samples.*uni_v1"):
        run(lab, enc_name="uni_v1")


def test_barcodes_and_genes_that_do_not_match(lab: HestLab) -> None:
    path = lab.folder / "features" / "IDC" / "resnet50" / "S2.h5"
    write_features(path, lab.features["S2"], ["elsewhere-1", *lab.barcodes["S2"][1:]])
    (lab.bench / "IDC" / "var_50genes.json").write_text(json.dumps({"genes": [*GENES, "TP53"]}))
    with pytest.raises(SectionError, match=r"S1\.h5ad.*1 of 4 genes are not in it: 'TP53'"):
        run(lab)
    rng = np.random.default_rng(0)
    write_counts(lab.bench / "IDC/adata/S1.h5ad", lab.barcodes["S2"], lab.counts["S2"], rng)
    with pytest.raises(
        SectionError, match=r"S1\.h5ad.*31 of 31 barcodes are not in it: 'S1-0.*1 of 4 genes are not in it"
    ):
        run(lab)
    (lab.bench / "IDC" / "var_50genes.json").write_text(json.dumps({"genes": list(GENES)}))
    write_counts(lab.bench / "IDC/adata/S1.h5ad", lab.barcodes["S1"], lab.counts["S1"], rng)
    with pytest.raises(SectionError, match=r"S2\.h5ad.*1 of 23 barcodes are not in it: 'elsewhere-1'"):
        run(lab)


def test_names_that_occur_twice(lab: HestLab) -> None:
    path = lab.bench / "IDC" / "adata" / "S1.h5ad"
    adata = anndata.read_h5ad(path)
    first, second = lab.barcodes["S1"][:2]
    adata.obs_names = [first if name == second else name for name in adata.obs_names]
    adata.var_names = ["VIM" if name == "ZEB1" else name for name in adata.var_names]
    adata.write_h5ad(path)
    words = f"1 of 31 barcodes are not in it: '{second}'.*1 barcodes occur in it more than once: '{first}'.*genes .*'VIM'"
    with pytest.raises(SectionError, match=words):
        run(lab)


def test_embeddings_that_do_not_fit(lab: HestLab) -> None:
    path = lab.folder / "features" / "IDC" / "resnet50" / "S2.h5"
    x, names = lab.features["S2"], lab.barcodes["S2"]
    write_features(path, x[:-1], names)
    with pytest.raises(SectionError, match=r"S2\.h5.*\(22, 19\) do not fit 23 barcodes"):
        run(lab)
    write_features(path, x, [names[0], *names[:-1]])
    with pytest.raises(SectionError, match=r"S2\.h5: 1 barcodes occur more than once"):
        run(lab)
    broken = x.copy()
    broken[[2, 5], 3] = np.nan
    write_features(path, broken, names)
    with pytest.raises(SectionError, match=r"S2\.h5: 2 of 23 embeddings hold NaN"):
        run(lab)
    write_features(path, x[:, :-2], names)
    with pytest.raises(SectionError, match=r"different lengths.*'S1': 19, 'S2': 17.*one encoder"):
        run(lab)
    with h5py.File(path, "r+") as file:
        del file["barcodes"]
    with pytest.raises(SectionError, match=r"S2\.h5 holds no 'barcodes'.*'coords', 'embeddings'"):
        run(lab)


def test_patches_that_do_not_fit(lab: HestLab) -> None:
    name = write_encoder(lab.folder / "tiny")
    path = lab.bench / "IDC" / "patches" / "S1.h5"
    with h5py.File(path, "r+") as file:
        images = file["img"][()]
        del file["img"]
        file["img"] = images[:-1]
    with pytest.raises(SectionError, match=r"S1\.h5: 30 patches, 31 barcodes and 31 coords"):
        run(lab, features=None, enc_name=name, device="cpu")
    with h5py.File(path, "r+") as file:
        del file["img"]
        file["img"] = images.astype(np.float32)
    with pytest.raises(SectionError, match=r"'img' is of shape \(31, 32, 32, 3\) and type float32"):
        run(lab, features=None, enc_name=name, device="cpu")
    with h5py.File(path, "r+") as file:
        del file["img"]
    with pytest.raises(SectionError, match=r"'img' is no array.*square RGB patches"):
        run(lab, features=None, enc_name=name, device="cpu")


def test_a_missing_solver_is_told_before_any_file_is_read(
    lab: HestLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(ConfigError, match=r"not installed"):
        run(lab, bench_data=lab.folder / "nowhere")
