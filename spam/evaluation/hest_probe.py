"""The linear probe of the HEST benchmark (arXiv 2406.16192), its scores, and its report."""

import dataclasses
import importlib.util
import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam.errors import ConfigError
from spam.models.linear import hest_ridge_fit
from spam.reports.score_tables import markdown_table, shown
from spam.schemas.hest_config import HestConfig, HestSolver
from spam.typing import Array, Float64, Num

from .boards import json_ready

N_FACTORS = 256
SEED = 1  # of the randomised principal components; the benchmark's default


def published_scores(encoder: str) -> dict[str, float]:
    """Look up the mean correlation of each task that the HEST benchmark published for an encoder; empty if it has none.

    Source: README of mahmoodlab/HEST, results of 3 April 2026.
    """
    text = resources.files(__package__).joinpath("hest_published.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    scores = table["scores"]
    return dict(zip(table["tasks"], scores[encoder], strict=True)) if encoder in scores else {}


def require_solver(solver: HestSolver) -> None:
    """Check that the solver is installed.

    Raises
    ------
    ConfigError
        If it is not.
    """
    if solver == "sklearn" and importlib.util.find_spec("sklearn") is None:
        message = "--solver sklearn needs scikit-learn. Run: pip install 'spam-st[hest]', or --solver exact."
        raise ConfigError(message)


def predict_expression(
    x_train: Num[Array, "n_train dim"],
    y_train: Float64[Array, "n_train n_genes"],
    x_test: Num[Array, "n_test dim"],
    *,
    solver: HestSolver,
) -> Float64[Array, "n_test n_genes"]:
    """Fit the probe on training spots and predict the test spots.

    ``StandardScaler``, then ``PCA``, then a ridge with penalty ``100 / (D * G)`` for `D` components and `G` genes, without
    intercept: predictions have no offset, so only their correlations are meaningful.

    Source: Jaume et al., HEST-1k, arXiv 2406.16192; mahmoodlab/HEST ``src/hest/bench`` at 87e586f. Relative to the paper:
    ``sklearn`` makes the same calls with the same number formats (scaling in that of the features, factors rounded to
    float32 like its torch tensors, ``PCA(random_state=1)``, ``Ridge(solver="lsqr", max_iter=1000)`` with scikit-learn's
    tolerance of 1e-4). ``exact`` solves the same equations in float64 without random numbers, as scikit-learn does with
    ``svd_solver="full"`` and a small tolerance. With fewer than 256 features or 257 training spots HEST's own code stops;
    here `D` is the smaller of both, minus one for the spots.

    Parameters
    ----------
    x_train, x_test
        Features, in the number format of their file.
    y_train
        log1p of raw counts.

    Raises
    ------
    ConfigError
        If there are fewer than 2 training spots.
    """
    if len(x_train) < 2:
        message = f"A split has {len(x_train)} training spots; at least 2 are needed."
        raise ConfigError(message)
    if solver == "exact":
        transform, ridge = hest_ridge_fit(x_train, y_train, N_FACTORS)
        return ridge.predict(transform.apply(x_test))
    # Optional, and takes a second to import.
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n_factors = min(N_FACTORS, len(x_train) - 1, x_train.shape[1])
    to_factors = make_pipeline(StandardScaler(), PCA(n_components=n_factors, random_state=SEED))
    a_train = to_factors.fit_transform(x_train).astype(np.float32)
    a_test = to_factors.transform(x_test).astype(np.float32)
    alpha = 100 / (n_factors * y_train.shape[1])
    sklearn_ridge = Ridge(solver="lsqr", alpha=alpha, random_state=SEED, fit_intercept=False, max_iter=1000)
    predicted = sklearn_ridge.fit(a_train, y_train).predict(a_test)
    return np.asarray(predicted, dtype=np.float64).reshape(len(x_test), -1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskScore:
    """Scores of one task.

    Attributes
    ----------
    name
        Name of the task.
    pearson
        One row per split number, one column per gene: correlation over the spots of all test samples; NaN if a gene or its
        prediction is constant. Means and standard deviations (ddof 0, as in HEST) skip NaN.
    n_spots
        Training and test spots of each split.
    """

    name: str
    pearson: pd.DataFrame
    n_spots: Mapping[int, tuple[int, int]]

    @property
    def split_means(self) -> "pd.Series[float]":
        """Mean over genes of each split."""
        return self.pearson.mean(axis=1)

    @property
    def n_undefined(self) -> int:
        """Undefined correlations, over genes and splits."""
        return int(self.pearson.isna().to_numpy().sum())

    def to_mapping(self) -> dict[str, Any]:
        """Return the scores with the names of HEST's own files; genes best first, undefined ones last."""
        genes = pd.DataFrame({"mean": self.pearson.mean(), "std": self.pearson.std(ddof=0)})
        genes = genes.sort_values("mean", ascending=False, kind="stable")
        return {
            "dataset_name": self.name,
            "pearson_mean": float(self.split_means.mean()),
            "pearson_std": float(self.split_means.std(ddof=0)),
            "mean_per_split": self.split_means.tolist(),
            "n_undefined": self.n_undefined,
            "splits": [
                {"number": number, "n_train": n_train, "n_test": n_test}
                for number, (n_train, n_test) in self.n_spots.items()
            ],
            "pearson_corrs": [
                {"name": name, "mean": mean, "std": std, "pearson_corrs": self.pearson[name].tolist()}
                for name, mean, std in genes.itertuples()
            ],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HestReport:
    """Outcome of `hest_benchmark`: scores of each task, those published for it, package versions, and the written files."""

    config: HestConfig
    tasks: Sequence[TaskScore]
    published: Mapping[str, float]
    software: Mapping[str, str]
    files: Sequence[Path]

    @property
    def average(self) -> float:
        """Mean over tasks, as in the last line of HEST's tables."""
        return float(pd.Series([task.split_means.mean() for task in self.tasks]).mean())

    def differences(self) -> pd.DataFrame:
        """Return one row per task with a published score: ``published`` and ``difference`` (ours minus published)."""
        ours = pd.Series({task.name: task.split_means.mean() for task in self.tasks}, dtype=float)
        published = pd.Series(dict(self.published), dtype=float).reindex(ours.index).dropna()
        return pd.DataFrame({"published": published, "difference": ours[published.index] - published})

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-ready types; NaN becomes None."""
        mapping: dict[str, Any] = json_ready(
            {
                "encoder_name": self.config.enc_name,
                "solver": self.config.solver,
                "average": self.average,
                "results": [task.to_mapping() for task in self.tasks],
                "published": self.differences().to_dict("index"),
                "software": self.software,
                "files": [path.name for path in self.files],
            }
        )
        return mapping

    def table(self) -> str:
        """Lay out the scores of each task and their average as a Markdown table."""
        differences = self.differences()
        compared = differences.reindex([task.name for task in self.tasks])
        rows = [
            [
                task.name,
                shown(task.split_means.mean(), digits=4),
                shown(published, digits=4),
                shown(difference, "+", digits=4),
                shown(task.split_means.std(ddof=0), digits=4),
                " ".join(shown(mean, digits=4) for mean in task.split_means),
                str(task.pearson.shape[1]),
                str(task.n_undefined),
            ]
            for task, (published, difference) in zip(self.tasks, compared.to_numpy(), strict=True)
        ]
        # Published tasks may be fewer than those of this run; the average of the differences is over these.
        published, difference = differences.mean() if len(differences) else (math.nan, math.nan)
        average = [
            shown(self.average, digits=4),
            shown(published, digits=4),
            shown(difference, "+", digits=4),
        ]
        head = [
            "task",
            "mean",
            "published",
            "difference",
            "std over splits",
            "each split",
            "genes",
            "undefined",
        ]
        return markdown_table(head, [*rows, ["**average**", *average, "", "", "", ""]])

    def to_markdown(self) -> str:
        """Write the page: the table with explanations."""
        return (
            f"# HEST benchmark\n\nEncoder `{self.config.enc_name}`, solver `{self.config.solver}`. Pearson with log1p(raw "
            "counts) per gene, over all test spots of a split; mean over genes, then over splits. The target includes "
            "depth, so these scores reflect tissue less than those of `spam benchmark`.\n\n"
            f"{self.table()}\n\nPublished: the table of mahmoodlab/HEST of 3 April 2026, with a dash where it has no "
            "value. Undefined: a gene that is constant over the test spots of a split has no "
            "correlation and is excluded from means. HEST's own code gives NaN for the whole split. Scores of each gene: "
            f"`hest.json`.\n\nVersions: {', '.join(f'{name} {number}' for name, number in self.software.items())}\n"
        )

    def summary(self) -> str:
        """Show the table."""
        head = f"HEST benchmark, {self.config.enc_name}, solver {self.config.solver}:"
        return "\n".join([head, self.table(), f"written: {', '.join(map(str, self.files))}"])
