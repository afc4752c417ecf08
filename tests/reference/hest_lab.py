"""Tiny tasks in the layouts of the HEST benchmark and of HEST-1k, and their scores by scikit-learn and SciPy alone."""

import dataclasses
import json
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import torch
from scipy import sparse, stats
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

GENES = ("EPCAM", "KRT8", "VIM")
SPLITS = ((("S1", "S2"), ("S3",)), (("S3",), ("S1", "S2")))
SIZES = {"S1": 31, "S2": 23, "S3": 37}
DIM = 19


@dataclasses.dataclass
class HestLab:
    """A folder ``bench`` of tasks and a folder ``features`` of their embeddings, with what was written into them."""

    folder: Path
    task: str
    features: dict[str, np.ndarray]
    barcodes: dict[str, list[str]]
    counts: dict[str, np.ndarray]  # genes as in GENES, rows as in barcodes

    @property
    def bench(self) -> Path:
        return self.folder / "bench"

    def values(self, **others: object) -> dict[str, object]:
        values: dict[str, object] = {
            "bench_data": self.bench,
            "features": self.folder / "features",
            "enc_name": "resnet50",
            "out_dir": self.folder / "results",
        }
        return {**values, **others}

    def reference(self, *, svd_solver: str = "auto", tol: float = 1e-4) -> np.ndarray:
        """Correlations (splits, genes) that the recipe's calls of scikit-learn and SciPy give."""
        rows = []
        for train, test in SPLITS:
            x, y = (
                np.concatenate([each[name] for name in train])
                for each in (self.features, {k: np.log1p(v.astype(float)) for k, v in self.counts.items()})
            )
            x_test = np.concatenate([self.features[name] for name in test])
            predicted = reference_prediction(x, y, x_test, svd_solver=svd_solver, tol=tol)
            truth = np.concatenate([np.log1p(self.counts[name].astype(float)) for name in test])
            rows.append([stats.pearsonr(t, p)[0] for t, p in zip(truth.T, predicted.T, strict=True)])
        return np.array(rows)


def reference_prediction(
    x: np.ndarray,
    y: np.ndarray,
    x_test: np.ndarray,
    *,
    svd_solver: str = "auto",
    tol: float = 1e-4,
    seed: int = 1,
) -> np.ndarray:
    """The recipe, written down once more: the factors go through torch's float32, as they do in HEST's code."""
    n_factors = min(256, len(x) - 1, x.shape[1])
    pca = PCA(n_components=n_factors, random_state=seed, svd_solver=svd_solver)
    pipe = Pipeline([("scaler", StandardScaler()), ("PCA", pca)])
    a, a_test = torch.Tensor(pipe.fit_transform(x)).numpy(), torch.Tensor(pipe.transform(x_test)).numpy()
    alpha = 100 / (a.shape[1] * y.shape[1])
    ridge = Ridge(solver="lsqr", alpha=alpha, random_state=seed, fit_intercept=False, max_iter=1000, tol=tol)
    return ridge.fit(a, y).predict(a_test)


def make_hest_lab(
    folder: Path, *, task: str = "IDC", layout: str = "bench", dtype: str = "float32", seed: int = 0
) -> HestLab:
    """Write one task with three samples, two splits and three genes.

    The counts have more spots and genes than the task, in another order.
    """
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(DIM, len(GENES))) * 0.3
    lab = HestLab(folder=folder, task=task, features={}, barcodes={}, counts={})
    home = lab.bench / task
    for name, n in SIZES.items():
        x = rng.normal(1.0, 2.0, size=(n, DIM)).astype(dtype)
        lab.features[name] = x
        lab.counts[name] = rng.poisson(np.exp(np.clip(x.astype(float) @ weights, -3, 3)))
        lab.barcodes[name] = [f"{name}-{i:03d}" for i in rng.permutation(n)]
        write_counts(
            home / ("adata" if layout == "bench" else "st") / f"{name}.h5ad",
            lab.barcodes[name],
            lab.counts[name],
            rng,
        )
        (home / "patches").mkdir(exist_ok=True)
        write_patches(home / "patches" / f"{name}.h5", lab.barcodes[name], rng)
        write_features(folder / "features" / task / "resnet50" / f"{name}.h5", x, lab.barcodes[name])
    (home / "var_50genes.json").write_text(json.dumps({"genes": list(GENES)}))
    for number, sides in enumerate(SPLITS):
        for side, names in zip(("train", "test"), sides, strict=True):
            write_split(home, f"{side}_{number}.csv", names, layout=layout)
    return lab


def write_split(home: Path, file: str, names: tuple[str, ...], *, layout: str = "bench") -> None:
    """Write one side of a split; HEST-1k has no paths in it."""
    table = pd.DataFrame({"sample_id": names})
    if layout == "bench":
        table["patches_path"] = [f"patches/{name}.h5" for name in names]
        table["expr_path"] = [f"adata/{name}.h5ad" for name in names]
    (home / "splits").mkdir(exist_ok=True)
    table.to_csv(home / "splits" / file, index=False)


def write_counts(path: Path, barcodes: list[str], counts: np.ndarray, rng: np.random.Generator) -> None:
    """Write counts among other genes and spots, in sorted order; a layer 'counts' holds what must not be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = pd.DataFrame(counts, index=barcodes, columns=list(GENES))
    others = [f"spare-{i}" for i in range(5)]
    wide = known.reindex(index=[*sorted(barcodes), *others], columns=["ACTB", *sorted(GENES), "ZEB1"])
    filled = wide.fillna(pd.DataFrame(rng.poisson(5.0, wide.shape), index=wide.index, columns=wide.columns))
    adata = anndata.AnnData(
        X=sparse.csr_matrix(filled.to_numpy(dtype=np.float32)),
        obs=pd.DataFrame(index=filled.index),
        var=pd.DataFrame(index=filled.columns),
    )
    adata.layers["counts"] = adata.X * 2
    adata.write_h5ad(path)


def write_features(path: Path, x: np.ndarray, barcodes: list[str]) -> None:
    """Write embeddings as HEST's own code does: all arrays two-dimensional, barcodes as UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["embeddings"] = x
        file["coords"] = np.zeros((len(x), 2), dtype=np.int64)
        file.create_dataset(
            "barcodes", data=np.array(barcodes, dtype=object)[:, None], dtype=h5py.string_dtype()
        )


def write_patches(path: Path, barcodes: list[str], rng: np.random.Generator, *, px: int = 32) -> None:
    """Write patches as HEST's own files hold them."""
    n = len(barcodes)
    with h5py.File(path, "w") as file:
        file["img"] = rng.integers(0, 256, (n, px, px, 3), dtype=np.uint8)
        file["coords"] = rng.integers(0, 5000, (n, 2))
        file.create_dataset(
            "barcode", data=np.array(barcodes, dtype=object)[:, None], dtype=h5py.string_dtype()
        )
