"""`spam hest` on tiny tasks: scores against scikit-learn and SciPy, layouts, embeddings, pages, and what is refused."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
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
)
from PIL import Image
from scipy import stats

import spam
from spam.cli.app import build_app
from spam.encoders import build_encoder, encoder_card
from spam.errors import ConfigError, OutputExistsError, SectionError
from spam.hest import HestReport, hest_benchmark
from spam.hest.embeddings import read_embeddings
from spam.schemas.hest_config import HestConfig


def run(lab: HestLab, **others: object) -> HestReport:
    return hest_benchmark(HestConfig(**lab.values(**others)))


def pearson(report: HestReport) -> np.ndarray:
    """Correlations (splits, genes) of the only task."""
    (task,) = report.tasks
    return np.array([split.pearson for split in task.splits])


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
    assert (task.name, task.genes, task.n_undefined) == ("IDC", GENES, 0)
    assert [(s.number, s.n_train, s.n_test) for s in task.splits] == [(0, 54, 37), (1, 37, 54)]
    assert task.pearson_mean == pytest.approx(np.mean([row.mean() for row in expected]), abs=1e-10)
    assert task.pearson_std == pytest.approx(np.std([row.mean() for row in expected]), abs=1e-10)


def test_exact_scores_are_what_sklearn_comes_to(lab: HestLab) -> None:
    expected = lab.reference(svd_solver="full", tol=1e-12)
    np.testing.assert_allclose(pearson(run(lab, solver="exact")), expected, rtol=0, atol=1e-6)


def test_real_counts_and_images(shared_data: Path, tmp_path: Path) -> None:
    """Olfactory bulb: colours of the tissue predict its genes, by scikit-learn's numbers."""
    home, features, counts = tmp_path / "bench" / "MOB", {}, {}
    (home / "splits").mkdir(parents=True)
    (home / "st").mkdir()
    sections = {
        name: anndata.read_h5ad(shared_data / "mob_st2k" / f"{name}.h5ad") for name in ("MOB1", "MOB2")
    }
    shared = sections["MOB1"].var_names.intersection(sections["MOB2"].var_names)
    dense = {name: adata[:, shared].X.toarray() for name, adata in sections.items()}
    top = np.argsort(-np.log1p(dense["MOB1"]).var(axis=0), kind="stable")[:50]
    genes = list(shared[top])
    for name, adata in sections.items():
        image = np.asarray(Image.open(shared_data / "mob_st2k" / "images" / f"{name}.jpg").convert("RGB"))
        corners = np.clip(adata.obsm["spatial"].round().astype(int) - 12, 0, 1905 - 24)
        tiles = np.stack([image[y : y + 24, x : x + 24] for x, y in corners]).astype(np.float32)
        features[name] = tiles.reshape(len(tiles), 4, 6, 4, 6, 3).mean(axis=(2, 4)).reshape(len(tiles), 48)
        counts[name] = dense[name][:, top]
        adata.write_h5ad(home / "st" / f"{name}.h5ad")
        path = tmp_path / "features" / "MOB" / "colours" / f"{name}.h5"
        write_features(path, features[name], list(adata.obs_names))
    (home / "var_50genes.json").write_text(json.dumps({"genes": genes}))
    (home / "splits" / "train_0.csv").write_text("sample_id\nMOB1\n")
    (home / "splits" / "test_0.csv").write_text("sample_id\nMOB2\n")
    lab = HestLab(folder=tmp_path, task="MOB", features=features, barcodes={}, counts=counts)
    (task,) = run(lab, enc_name="colours").tasks
    predicted = reference_prediction(
        features["MOB1"], np.log1p(counts["MOB1"].astype(float)), features["MOB2"]
    )
    truth = np.log1p(counts["MOB2"].astype(float))
    expected = [stats.pearsonr(truth[:, j], predicted[:, j])[0] for j in range(50)]
    np.testing.assert_allclose(task.splits[0].pearson, expected, rtol=0, atol=1e-10)
    assert task.pearson_mean > 0.1


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
        found = read_embeddings(folder / f"{sample}.h5")
        assert list(found.barcodes) == lab.barcodes[sample]
        # A batch is summed in another order than a single tile.
        one_by_one = np.concatenate([encoder.embed(image[None]) for image in images])
        np.testing.assert_allclose(found.features, one_by_one, atol=2e-5, rtol=1e-4)
        lab.features[sample] = found.features
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
    assert every.average == pytest.approx(np.mean([task.pearson_mean for task in every.tasks]))
    two = run(lab, tasks=("SKCM", "IDC"), out_dir=tmp_path / "two")
    assert [task.name for task in two.tasks] == ["SKCM", "IDC"]
    assert two.tasks[0].pearson_mean == every.tasks[2].pearson_mean
    one = run(lab, bench_data=lab.bench / "PRAD", out_dir=tmp_path / "one")
    assert [task.pearson_mean for task in one.tasks] == [every.tasks[1].pearson_mean]
    with pytest.raises(ConfigError, match=r"'LUNG'.*it holds IDC, PRAD, SKCM"):
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
    assert task.splits[0].mean == pytest.approx((first[0] + first[2]) / 2)
    values = json.loads((lab.folder / "results" / "hest.json").read_text())
    (gene,) = (g for g in values["results"][0]["pearson_corrs"] if g["name"] == "KRT8")
    assert gene["pearson_corrs"][0] is None
    assert "| KRT8 |" in report.to_markdown()
    assert f"{task.n_undefined} correlations undefined" in report.summary()


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
    assert f"| IDC | {mean:.4f} | {std:.4f} | {each} | 3 | 0 |" in page
    assert f"| **average** | {mean:.4f} |" in page
    assert f"IDC  {mean:.4f} ± {std:.4f} over 2 splits" in report.summary()


def test_results_are_not_written_over_unasked(lab: HestLab) -> None:
    run(lab)
    with pytest.raises(OutputExistsError, match=r"holds results of spam hest.*--overwrite"):
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
    assert "S1.h5ad: X holds values that are no whole numbers" in caplog.text
    write_counts(path, lab.barcodes["S1"], lab.counts["S1"] - 1, rng)
    with pytest.raises(SectionError, match=r"S1\.h5ad.*negative.*raw counts"):
        run(lab, overwrite=True)


def test_configuration_faults_are_told_together() -> None:
    with pytest.raises(ConfigError, match=r"--bench-data is missing.*--out-dir is missing"):
        HestConfig()
    with pytest.raises(ConfigError, match=r"--tasks names IDC twice.*--batch-size must be at least 1"):
        HestConfig(bench_data=Path("b"), out_dir=Path("o"), tasks=("IDC", "IDC"), batch_size=0)
    with pytest.raises(ConfigError, match=r"nothing is embedded; leave out --batch-size and --device"):
        HestConfig(bench_data=Path("b"), out_dir=Path("o"), features=Path("f"), batch_size=7, device="cpu")
