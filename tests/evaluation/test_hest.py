"""`spam hest` on tiny tasks: scores against scikit-learn and SciPy, layouts, embeddings, pages, and invalid files."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from embedding_lab import PX, write_encoder
from hest_lab import (
    GENES,
    SIZES,
    HestLab,
    make_hest_lab,
    reference_prediction,
    write_counts,
    write_features,
    write_patches,
    write_split,
)
from PIL import Image
from scipy import stats

import spam
from spam.cli.app import build_app
from spam.encoders import build_encoder, encoder_card
from spam.errors import ConfigError, MissingInputError, OutputExistsError, SectionError, SpamError
from spam.evaluation.hest_probe import HestReport, published_scores
from spam.hest_tasks import find_tasks, hest_benchmark, read_embeddings, read_expression, read_task
from spam.schemas.hest_config import HestConfig


def run(lab: HestLab, **others: object) -> HestReport:
    return hest_benchmark(HestConfig(**lab.values(**others)))


def pearson(report: HestReport) -> np.ndarray:
    """Correlations (splits, genes) of the only task."""
    (task,) = report.tasks
    return task.pearson.to_numpy()


@pytest.fixture
def lab(tmp_path: Path) -> HestLab:
    return make_hest_lab(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("layout", ["bench", "hest1k"])
def test_scores_are_those_of_sklearn_and_scipy(tmp_path: Path, layout: str, dtype: str) -> None:
    lab = make_hest_lab(tmp_path, layout=layout, dtype=dtype)
    report = run(lab)
    expected = lab.reference()
    assert expected.shape == (2, 3)
    np.testing.assert_allclose(pearson(report), expected, rtol=0, atol=1e-10)
    (task,) = report.tasks
    assert (task.name, tuple(task.pearson.columns), task.n_undefined) == ("IDC", GENES, 0)
    assert task.n_spots == {0: (54, 37), 1: (37, 54)}
    values = task.to_mapping()
    assert values["pearson_mean"] == pytest.approx(np.mean([row.mean() for row in expected]), abs=1e-10)
    assert values["pearson_std"] == pytest.approx(np.std([row.mean() for row in expected]), abs=1e-10)


def test_real_counts_and_images(shared_data: Path, tmp_path: Path) -> None:
    """Olfactory bulb: colours of the tissue predict its genes, by the numbers of scikit-learn."""
    home, features, dense = tmp_path / "bench" / "MOB", {}, {}
    (home / "splits").mkdir(parents=True)
    (home / "st").mkdir()
    names = ("MOB1", "MOB2")
    sections = {name: anndata.read_h5ad(shared_data / "mob_st2k" / f"{name}.h5ad") for name in names}
    shared = sections["MOB1"].var_names.intersection(sections["MOB2"].var_names)
    for name, adata in sections.items():
        dense[name] = adata[:, shared].X.toarray()
        image = np.asarray(Image.open(shared_data / "mob_st2k" / "images" / f"{name}.jpg").convert("RGB"))
        corners = np.clip(adata.obsm["spatial"].round().astype(int) - 12, 0, 1905 - 24)
        tiles = np.stack([image[y : y + 24, x : x + 24] for x, y in corners]).astype(np.float32)
        features[name] = tiles.reshape(len(tiles), 4, 6, 4, 6, 3).mean(axis=(2, 4)).reshape(len(tiles), 48)
        adata.write_h5ad(home / "st" / f"{name}.h5ad")
        path = tmp_path / "features" / "MOB" / "colours" / f"{name}.h5"
        write_features(path, features[name], list(adata.obs_names))
    top = np.argsort(-np.log1p(dense["MOB1"]).var(axis=0), kind="stable")[:50]
    (home / "var_50genes.json").write_text(json.dumps({"genes": list(shared[top])}))
    (home / "splits" / "train_0.csv").write_text("sample_id\nMOB1\n")
    (home / "splits" / "test_0.csv").write_text("sample_id\nMOB2\n")
    lab = HestLab(folder=tmp_path, task="MOB", features=features, barcodes={}, counts=dense)
    train, truth = (np.log1p(dense[name][:, top].astype(float)) for name in names)
    predicted = reference_prediction(features["MOB1"], train, features["MOB2"])
    expected = [stats.pearsonr(truth[:, j], predicted[:, j])[0] for j in range(50)]
    found = pearson(run(lab, enc_name="colours"))
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-10)
    assert found.mean() > 0.1


class Watcher:
    """A progress that notes its tasks."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[object]:
        self.tasks.append((description, total))
        yield lambda steps=1, *, note="": None


def test_patches_are_embedded_in_their_order_and_once(lab: HestLab) -> None:
    name = write_encoder(lab.folder / "tiny")
    rng = np.random.default_rng(3)
    write_patches(lab.bench / "IDC/patches/S2.h5", lab.barcodes["S2"], rng, px=47)  # resampled to 32
    config = HestConfig(**lab.values(features=None, enc_name=name, device="cpu", batch_size=5))
    watcher = Watcher()
    report = hest_benchmark(config, progress=watcher)
    assert watcher.tasks == [*((f"embed {s}", n) for s, n in SIZES.items()), ("fit and score", 2)]
    encoder = build_encoder(encoder_card(name), device=torch.device("cpu"))
    folder = config.out_dir / "embeddings" / "IDC" / "local-tiny"
    for sample in SIZES:
        with h5py.File(lab.bench / "IDC" / "patches" / f"{sample}.h5") as file:
            images, coords = file["img"][()], file["coords"][()]
        if sample == "S2":
            images = np.stack(
                [np.asarray(Image.fromarray(i).resize((PX, PX), Image.BILINEAR)) for i in images]
            )
        found, barcodes = read_embeddings(folder / f"{sample}.h5")
        assert list(barcodes) == lab.barcodes[sample]
        # A batch is summed in another order than a single tile.
        one_by_one = np.concatenate([encoder.embed(image[None]) for image in images])
        np.testing.assert_allclose(found, one_by_one, atol=2e-5, rtol=1e-4)
        lab.features[sample] = found
        with h5py.File(folder / f"{sample}.h5") as file:
            np.testing.assert_array_equal(file["coords"][()], coords)
            assert file["barcodes"].shape == (SIZES[sample], 1)
    np.testing.assert_allclose(pearson(report), lab.reference(), rtol=0, atol=1e-10)

    # What is there is not made again, unless its patches changed.
    write_patches(lab.bench / "IDC/patches/S3.h5", lab.barcodes["S3"], rng)
    again = Watcher()
    values = lab.values(features=None, enc_name=name, device="cpu", batch_size=5, overwrite=True)
    hest_benchmark(HestConfig(**values), progress=again)
    assert again.tasks == [("embed S3", 37), ("fit and score", 2)]

    # The folder of embeddings is one that --features takes.
    values = lab.values(
        features=config.out_dir / "embeddings", enc_name="local:tiny", out_dir=lab.folder / "b"
    )
    from_files = hest_benchmark(HestConfig(**values))
    assert pearson(from_files).shape == (2, 3)
    first = json.loads((config.out_dir / "hest.json").read_text())["results"]
    assert first == json.loads((lab.folder / "b" / "hest.json").read_text())["results"]


def test_tasks_are_chosen_by_name_and_averaged(tmp_path: Path) -> None:
    for seed, task in enumerate(("IDC", "PRAD", "SKCM")):
        lab = make_hest_lab(tmp_path, task=task, seed=seed)
    every = run(lab)
    assert [task.name for task in every.tasks] == ["IDC", "PRAD", "SKCM"]
    assert every.average == pytest.approx(np.mean([task.split_means.mean() for task in every.tasks]))
    two = run(lab, tasks=("SKCM", "IDC"), out_dir=tmp_path / "two")
    assert [task.name for task in two.tasks] == ["SKCM", "IDC"]
    assert two.tasks[0].split_means.mean() == every.tasks[2].split_means.mean()
    one = run(lab, bench_data=lab.bench / "PRAD", out_dir=tmp_path / "one")
    assert [task.split_means.mean() for task in one.tasks] == [every.tasks[1].split_means.mean()]
    with pytest.raises(ConfigError, match=r"LUNG \(--tasks\).*IDC, PRAD, SKCM"):
        run(lab, tasks=("LUNG",), out_dir=tmp_path / "none")


def test_a_constant_gene_is_undefined_and_counted(lab: HestLab) -> None:
    lab.counts["S3"][:, 1] = 4
    rng = np.random.default_rng(1)
    write_counts(lab.bench / "IDC/adata/S3.h5ad", lab.barcodes["S3"], lab.counts["S3"], rng)
    report = run(lab)
    (task,) = report.tasks
    first, second = pearson(report)
    with pytest.warns(stats.ConstantInputWarning):
        expected = lab.reference()
    np.testing.assert_allclose(first, expected[0], rtol=0, atol=1e-10)
    assert np.isnan(first).tolist() == [False, True, False]
    assert not np.isnan(second[[0, 2]]).any()
    assert task.n_undefined == np.isnan(expected).sum()
    assert task.split_means[0] == pytest.approx((first[0] + first[2]) / 2)
    values = json.loads((lab.folder / "results" / "hest.json").read_text())
    (gene,) = (g for g in values["results"][0]["pearson_corrs"] if g["name"] == "KRT8")
    assert gene["pearson_corrs"][0] is None
    assert f"| {len(GENES)} | {task.n_undefined} |" in report.summary()


def test_page_and_numbers(lab: HestLab) -> None:
    report = run(lab)
    expected = lab.reference()
    values = json.loads((lab.folder / "results" / "hest.json").read_text())
    (task,) = values["results"]
    assert values["encoder_name"] == "resnet50"
    assert values["solver"] == "sklearn"
    assert values["average"] == pytest.approx(task["pearson_mean"])
    assert set(values["software"]) == {"spam-st", "numpy", "scipy", "scikit-learn"}
    np.testing.assert_allclose(task["mean_per_split"], expected.mean(axis=1), atol=1e-10)
    by_name = {gene["name"]: gene for gene in task["pearson_corrs"]}
    for j, gene in enumerate(GENES):
        np.testing.assert_allclose(by_name[gene]["pearson_corrs"], expected[:, j], atol=1e-10)
        assert by_name[gene]["mean"] == pytest.approx(expected[:, j].mean())
        assert by_name[gene]["std"] == pytest.approx(expected[:, j].std())
    means = [gene["mean"] for gene in task["pearson_corrs"]]
    assert means == sorted(means, reverse=True)
    page = (lab.folder / "results" / "hest.md").read_text(encoding="utf-8")
    mean, std = expected.mean(axis=1).mean(), expected.mean(axis=1).std()
    each = " ".join(f"{value:.4f}" for value in expected.mean(axis=1))
    assert f"| IDC | {mean:.4f} | – | – | {std:.4f} | {each} | 3 | 0 |" in page
    assert f"| **average** | {mean:.4f} | – | – |" in page
    assert f"| IDC | {mean:.4f} | – | – | {std:.4f} |" in report.summary()
    assert values["published"] == {}  # HEST's ResNet50 stops at its third stage


def test_differences_to_the_published_table(tmp_path: Path) -> None:
    """UNI by its alias; values of IDC and LUNG in the README of mahmoodlab/HEST, 3 April 2026. MINE is no task of it."""
    for seed, task in enumerate(("IDC", "LUNG", "MINE")):
        lab = make_hest_lab(tmp_path, task=task, seed=seed)
    for folder in (lab.folder / "features").iterdir():
        (folder / "resnet50").rename(folder / "uni")
    report = run(lab, enc_name="uni")
    ours = {task.name: task.split_means.mean() for task in report.tasks}
    by_task = {"IDC": ours["IDC"] - 0.5890, "LUNG": ours["LUNG"] - 0.5464}
    values = json.loads((lab.folder / "results" / "hest.json").read_text())["published"]
    assert {name: row["published"] for name, row in values.items()} == {"IDC": 0.5890, "LUNG": 0.5464}
    assert {name: row["difference"] for name, row in values.items()} == pytest.approx(by_task)
    page = (lab.folder / "results" / "hest.md").read_text(encoding="utf-8")
    for name, difference in by_task.items():
        assert f"| {name} | {ours[name]:.4f} | {values[name]['published']:.4f} | {difference:+.4f} |" in page
    assert f"| MINE | {ours['MINE']:.4f} | – | – |" in page
    average = np.mean(list(by_task.values()))
    assert f"| **average** | {np.mean(list(ours.values())):.4f} | 0.5677 | {average:+.4f} |" in page


def test_published_averages() -> None:
    """The table of HEST has averages, too; all encoders are known by these names."""
    averages = {
        "hoptimus1": 0.4229,
        "uni2_h": 0.4141,
        "virchow2": 0.4034,
        "musk": 0.3467,
        "kaiko_s16": 0.3493,
    }
    for name, average in averages.items():
        scores = published_scores(encoder_card(name).name)
        assert len(scores) == 9
        assert np.mean(list(scores.values())) == pytest.approx(average, abs=1e-4)


def test_results_are_not_written_over_unasked(lab: HestLab) -> None:
    run(lab)
    with pytest.raises(OutputExistsError, match=r"results.*--out-dir.*--overwrite"):
        run(lab, solver="exact")
    assert run(lab, solver="exact", overwrite=True).to_mapping()["solver"] == "exact"


def test_command_and_twin(lab: HestLab, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["hest", "--bench-data", str(lab.bench), "--features", str(lab.folder / "features")]
    words += ["--enc-name", "resnet50", "--out-dir", str(lab.folder / "cli"), "--json"]
    assert build_app()(words, standalone_mode=False) == 0
    printed = json.loads(capsys.readouterr().out)
    report = spam.hest_benchmark(spam.HestConfig(**lab.values()))
    assert printed == report.to_mapping()
    assert json.loads((lab.folder / "cli" / "hest.json").read_text()) == printed


def test_values_that_are_no_counts_are_told(lab: HestLab, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(1)
    path = lab.bench / "IDC/adata/S1.h5ad"
    lab.counts["S1"] = lab.counts["S1"] + 0.5
    write_counts(path, lab.barcodes["S1"], lab.counts["S1"], rng)
    np.testing.assert_allclose(pearson(run(lab)), lab.reference(), rtol=0, atol=1e-6)
    assert "S1.h5ad: X has values that are not integers" in caplog.text
    write_counts(path, lab.barcodes["S1"], lab.counts["S1"] - 1, rng)
    with pytest.raises(SectionError, match=r"X of .*S1\.h5ad"):
        run(lab, overwrite=True)


def test_invalid_options_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"--bench-data.*--out-dir"):
        HestConfig()
    folders = {"bench_data": Path("b"), "out_dir": Path("o")}
    with pytest.raises(ConfigError, match=r"--batch-size .* 0"):
        HestConfig(**folders, batch_size=0)
    with pytest.raises(ConfigError, match=r"--features .*--batch-size and --device"):
        HestConfig(**folders, features=Path("f"), batch_size=7, device="cpu")


def _remove(*names: str) -> Callable[[Path], None]:
    return lambda home: [(home / name).unlink() for name in names] and None


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda home: (home / name).write_text(text) and None


TASK_FAULTS: list[tuple[Callable[[Path], None], type[SpamError], str]] = [
    (_remove("adata/S1.h5ad", "patches/S3.h5"), MissingInputError, r"2 files of task IDC.*S1\.h5ad.*S3\.h5"),
    (_remove("splits/test_1.csv"), MissingInputError, r"1 file .*test_1\.csv"),
    (_write("var_50genes.json", "{"), SectionError, r"var_50genes\.json.*JSONDecodeError"),
    (_write("var_50genes.json", '{"genes": ["A", "A"]}'), SectionError, r"var_50genes\.json .*repeats"),
    (_write("splits/train_0.csv", "sample_id\nS1\n"), SectionError, "train_0.*expr_path"),
    (_write("splits/train_0.csv", ""), SectionError, r"train_0\.csv"),
    (lambda home: write_split(home, "test_0.csv", ("S3", "S2")), SectionError, "split 0 has S2 on both"),
    (
        _write("splits/test_0.csv", "sample_id,patches_path,expr_path\n"),
        SectionError,
        r"test_0\.csv is empty",
    ),
    (
        _write("splits/test_0.csv", "sample_id,patches_path,expr_path\nS3,patches/S3.h5,adata/S2.h5ad\n"),
        SectionError,
        "different files for S3",
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


def test_patches_are_not_needed_beside_features(lab: HestLab) -> None:
    (lab.bench / "IDC" / "patches" / "S1.h5").unlink()
    assert set(read_task(lab.bench / "IDC", needs_patches=False).samples) == {"S1", "S2", "S3"}


def test_splits_come_in_order_of_their_numbers(lab: HestLab) -> None:
    home = lab.bench / "IDC"
    for number in (10, 2):
        write_split(home, f"train_{number}.csv", ("S1",))
        write_split(home, f"test_{number}.csv", ("S2",))
    (home / "splits" / "notes.txt").write_text("not a split")
    assert list(read_task(home, needs_patches=True).splits) == [0, 1, 2, 10]


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_folders_without_tasks(tmp_path: Path, folder: str) -> None:
    with pytest.raises(MissingInputError, match=r"--bench-data.*MahmoodLab/hest-bench"):
        find_tasks(tmp_path / folder)


def test_barcodes_and_genes_that_do_not_match(lab: HestLab) -> None:
    path = lab.folder / "features" / "IDC" / "resnet50" / "S2.h5"
    write_features(path, lab.features["S2"], ["elsewhere-1", *lab.barcodes["S2"][1:]])
    (lab.bench / "IDC" / "var_50genes.json").write_text(json.dumps({"genes": [*GENES, "TP53"]}))
    with pytest.raises(SectionError, match=r"S1\.h5ad.*1 of 4 genes missing or repeated \('TP53'"):
        run(lab)
    rng = np.random.default_rng(0)
    write_counts(lab.bench / "IDC/adata/S1.h5ad", lab.barcodes["S2"], lab.counts["S2"], rng)
    with pytest.raises(SectionError, match=r"S1\.h5ad.*31 of 31 barcodes missing.*1 of 4 genes missing"):
        run(lab)
    (lab.bench / "IDC" / "var_50genes.json").write_text(json.dumps({"genes": list(GENES)}))
    write_counts(lab.bench / "IDC/adata/S1.h5ad", lab.barcodes["S1"], lab.counts["S1"], rng)
    with pytest.raises(SectionError, match=r"S2\.h5ad.*1 of 23 barcodes missing or repeated \('elsewhere-1'"):
        run(lab)


def test_names_that_occur_twice(lab: HestLab) -> None:
    path = lab.bench / "IDC" / "adata" / "S1.h5ad"
    adata = anndata.read_h5ad(path)
    first, second = lab.barcodes["S1"][:2]
    adata.obs_names = [first if name == second else name for name in adata.obs_names]
    adata.var_names = ["VIM" if name == "ZEB1" else name for name in adata.var_names]
    adata.write_h5ad(path)
    words = rf"2 of 31 barcodes missing or repeated \('{first}', '{second}'\); 1 of 3 genes missing or repeated \('VIM"
    with pytest.raises(SectionError, match=words):
        run(lab)


def test_embeddings_that_do_not_fit(lab: HestLab) -> None:
    path = lab.folder / "features" / "IDC" / "resnet50" / "S2.h5"
    x, names = lab.features["S2"], lab.barcodes["S2"]
    write_features(path, x[:-1], names)
    with pytest.raises(SectionError, match=r"S2\.h5 .*\(22, 19\) for 23 barcodes"):
        run(lab)
    broken = x.copy()
    broken[[2, 5], 3] = np.nan
    write_features(path, broken, names)
    with pytest.raises(SectionError, match=r"2 of 23 embeddings of .*S2\.h5"):
        run(lab)
    write_features(path, x[:, :-2], names)
    with pytest.raises(SectionError, match=r"'S1': 19, 'S2': 17"):
        run(lab)
    with h5py.File(path, "r+") as file:
        del file["barcodes"]
    with pytest.raises(SectionError, match=r"S2\.h5 has no 'barcodes'.*'coords', 'embeddings'"):
        run(lab)
    path.unlink()
    with pytest.raises(MissingInputError, match=r"1 file .*--features.*S2\.h5"):
        run(lab)


def test_patches_that_do_not_fit(lab: HestLab) -> None:
    name = write_encoder(lab.folder / "tiny")
    path = lab.bench / "IDC" / "patches" / "S1.h5"
    with h5py.File(path, "r+") as file:
        images = file["img"][()]
        del file["img"]
        file["img"] = images[:-1]
    with pytest.raises(SectionError, match=r"S1\.h5 has 30 patches, 31 barcodes and 31 coords"):
        run(lab, features=None, enc_name=name, device="cpu")
    with h5py.File(path, "r+") as file:
        del file["img"]
        file["img"] = images.astype(np.float32)
    with pytest.raises(SectionError, match=r"'img' of .*S1\.h5"):
        run(lab, features=None, enc_name=name, device="cpu")


def test_a_missing_solver_is_reported_first(lab: HestLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(ConfigError, match=r"--solver sklearn.*pip install 'spam-st\[hest\]'.*--solver exact"):
        run(lab, bench_data=lab.folder / "nowhere")


def test_genes_under_other_names_are_named_with_the_change_that_matches(tmp_path: Path) -> None:
    adata = anndata.AnnData(np.ones((3, 4)), var=pd.DataFrame(index=["tp53", "gapdh", "krt8", "actb"]))
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(SectionError, match=r"2 of 2 genes .*upper and lower case, 2 names match"):
        read_expression(tmp_path / "x.h5ad", ["TP53", "KRT8"], adata.obs_names.tolist())
    adata.var["symbol"] = ["TP53", "GAPDH", "KRT8", "ACTB"]
    adata.var_names = [f"ENSG{i:011d}" for i in range(4)]
    adata.write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(SectionError, match=r"2 of 2 genes .*adata\.var\['symbol'\]"):
        read_expression(tmp_path / "x.h5ad", ["TP53", "KRT8"], adata.obs_names.tolist())
