"""`spam cluster` finds known clusters; its tables agree with scikit-learn, SciPy and scanpy."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
from cohorts import add_section
from PIL import Image
from quality_arrays import add_quality, good_measures
from scipy import stats
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from spam.clusters import cluster
from spam.embedding import embed
from spam.errors import ConfigError, OutputExistsError
from spam.graphs import spatial_knn_graph
from spam.predicting import predict
from spam.schemas.cluster_config import ClusterConfig
from spam.schemas.embed_config import EmbedConfig
from spam.store import open_store

N_SPOTS, UNREADABLE = 97, 5
LABELS = np.array(["tumour", "stroma", "immune"])[np.arange(N_SPOTS) % 3]


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A section whose features are three clouds, one for each label; a spot is unreadable, another has no label."""
    store = tmp_path_factory.mktemp("blobs") / "cohort.zarr"
    labels = LABELS.copy()
    labels[7] = ""
    add_section(store, "S1", n_spots=N_SPOTS, unreadable=(UNREADABLE,), obs={"label": labels})
    section = open_store(store, is_read_only=False).section("S1")
    meta = section.feature_meta("tiny_112um")
    rng = np.random.default_rng(5)
    centres = 9 * rng.normal(size=(3, meta.dim))
    values = (centres[np.arange(N_SPOTS) % 3] + rng.normal(size=(N_SPOTS, meta.dim))).astype(np.float32)
    about = {"name": "clouds"}
    writer = section.feature_writer(dataclasses.replace(meta, key="clouds_112um", encoder=about))
    for chunk in list(writer.pending):
        writer.write(chunk, values[chunk])
    writer.finish()
    add_quality(section, "clouds_112um", good_measures(N_SPOTS, (UNREADABLE,)))
    return store


def check_scores(folder: Path, section: str) -> pd.DataFrame:
    """Compare every row of scores.csv with scikit-learn on the columns of the h5ad; return the rows."""
    scores = pd.read_csv(folder / "scores.csv", keep_default_na=False)
    written = anndata.read_h5ad(folder / f"{section}.h5ad").obs
    obs = written.astype(str).mask(written.isna(), "")
    for row in scores.itertuples():
        if row._4 == "":  # nothing to compare with
            assert row.ari == row.nmi == ""
            continue
        other = obs["label" if row._4 == "labels" else f"leiden_{row._4}"]
        found = obs[f"leiden_{row.of}"]
        kept = (found != "") & (other != "")
        assert (row.n_spots, row.n_clusters) == (kept.sum(), found[found != ""].nunique())
        assert float(row.ari) == pytest.approx(adjusted_rand_score(other[kept], found[kept]))
        assert float(row.nmi) == pytest.approx(normalized_mutual_info_score(other[kept], found[kept]))
    return scores


def test_known_clusters_are_found(blobs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = cluster(ClusterConfig(source=blobs, features=("clouds",), resolution=0.3, out_dir=out))
    scores = check_scores(out, "S1").set_index(["of", "with"])
    assert scores.loc[("clouds_112um", "labels"), "ari"] == 1.0
    assert scores.loc[("clouds_112um", "labels"), "n_spots"] == N_SPOTS - 2
    found = anndata.read_h5ad(out / "S1.h5ad")
    assert np.flatnonzero(found.obs["leiden_clouds_112um"].isna()).tolist() == [UNREADABLE]
    assert "| S1 | clouds_112um | 3 | labels | 1.000 | 1.000 |" in report.summary()
    with Image.open(out / "S1.png") as picture:
        assert picture.width > 1000
    # Scores of the markers: SciPy's rank sums over all genes of the section, in log1p(CP10k).
    counts = np.delete(open_store(blobs).section("S1").counts().toarray().astype(float), UNREADABLE, axis=0)
    expression = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    groups = np.delete(found.obs["leiden_clouds_112um"].astype(str).to_numpy(), UNREADABLE)
    markers = pd.read_csv(out / "markers.csv", dtype={"cluster": str}).query("of == 'clouds_112um'")
    assert markers.groupby("cluster").size().tolist() == [10, 10, 10]
    for name, own in markers.groupby("cluster"):
        inside = groups == name
        z = stats.ranksums(expression[inside], expression[~inside]).statistic
        np.testing.assert_allclose(own["score"], np.sort(z)[::-1][:10], rtol=1e-4)
        np.testing.assert_allclose(own["score"], z[found.var_names.get_indexer(own["gene"])], rtol=1e-4)


def test_predicted_and_measured_maps_are_compared(
    store: Path, default_checkpoint: Path, config_of: Callable, tmp_path: Path
) -> None:
    predict(config_of(store, default_checkpoint, tmp_path / "results"))
    report = cluster(ClusterConfig(source=tmp_path / "results", out_dir=tmp_path / "out"))
    assert check_scores(tmp_path / "out", "S4")[["of", "with"]].to_numpy().tolist() == [
        ["predicted", "measured"],
        ["measured", ""],
    ]
    found = anndata.read_h5ad(tmp_path / "results" / "predictions.h5ad")
    graph = spatial_knn_graph(found.obsm["spatial"], k=12, unit="px").connectivities
    table = pd.read_csv(tmp_path / "out" / "morans_i.csv")
    assert table["gene"].tolist() == found.var_names.tolist()
    for what, values in (("measured", found.layers["measured"]), ("predicted", found.X)):
        truth = scanpy.metrics.morans_i(graph.astype(np.float64), values.T.astype(np.float64))
        np.testing.assert_allclose(table[what], truth, rtol=1e-5)
    assert report.morans_r["S4"] == pytest.approx(np.corrcoef(table["measured"], table["predicted"])[0, 1])


def test_equal_seeds_give_equal_clusters_and_options_change_them(blobs: Path, tmp_path: Path) -> None:
    def found(name: str, **options: object) -> list[str]:
        cluster(ClusterConfig(source=blobs, features=("tiny",), out_dir=tmp_path / name, **options))
        return anndata.read_h5ad(tmp_path / name / "S1.h5ad").obs["leiden_tiny_112um"].astype(str).tolist()

    first = found("a")
    assert found("b") == first
    assert len({*found("c", resolution=4.0)}) > len({*first})
    assert found("d", n_neighbours=40) != first


def test_without_counts_there_are_clusters_but_no_markers(tmp_path: Path) -> None:
    add_section(tmp_path / "store.zarr", "S1", change_counts="delete")
    report = cluster(ClusterConfig(source=tmp_path / "store.zarr", out_dir=tmp_path / "out"))
    assert [path.name for path in report.files] == ["S1.h5ad", "S1.png", "scores.csv"]
    assert set(check_scores(tmp_path / "out", "S1")["of"]) == {"tiny_112um", "tiny_224um"}


def test_what_cannot_be_clustered_is_refused(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"--label layer: .*\(.*label"):
        cluster(ClusterConfig(source=blobs, label="layer", out_dir=out))
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(ConfigError, match=r"pip install 'spam-st\[cluster\]'"):
        cluster(ClusterConfig(source=blobs, out_dir=out))
    assert not out.exists()
    monkeypatch.undo()
    out.mkdir()
    with pytest.raises(OutputExistsError, match="--out-dir"):
        cluster(ClusterConfig(source=blobs, out_dir=out))


@pytest.mark.slow
def test_clusters_of_a_real_section_follow_the_pathologist(shared_data: Path, tmp_path: Path) -> None:
    """her2st A1: clusters of image features and of measured expression agree better than with 200 permuted labels."""
    data = shared_data / "her2st"
    store = tmp_path / "cohort.zarr"
    embed(
        EmbedConfig(
            h5ad=data / "A1.h5ad",
            csv=data / "mapping.csv",
            root=data / "images",
            section="A1",
            store=store,
            tile_um=(155.0,),
        )
    )
    command = [
        sys.executable,
        "-P",
        "-m",
        "spam.cli",
        "cluster",
        str(store),
        "--out-dir",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| A1 |" in done.stdout
    scores = check_scores(tmp_path / "out", "A1").set_index(["of", "with"])["ari"].astype(float)
    obs = anndata.read_h5ad(tmp_path / "out" / "A1.h5ad").obs
    rng = np.random.default_rng(0)
    for what, ari in scores.xs("labels", level="with").items():
        found = obs[f"leiden_{what}"]
        assert ari > max(adjusted_rand_score(rng.permutation(obs["label"]), found) for _ in range(200))
