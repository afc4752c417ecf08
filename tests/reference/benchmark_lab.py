"""Small methods and stores for tests of the benchmark: what they must score is known without the benchmark."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from cohorts import add_section

from spam.errors import NotApplicableError, SectionError
from spam.evaluation import CountPrediction, FoldTask, MethodPrediction


def make_store(path: Path, donors: tuple[str, ...] = ("a", "a", "b", "b"), **options: object) -> Path:
    """Write sections S1, S2, … of the given donors."""
    for i, donor in enumerate(donors):
        add_section(path, f"S{i + 1}", seed=i, n_spots=37 + 4 * i, donor=donor, **options)  # type: ignore[arg-type]
    return path


def first_feature(task: FoldTask, index: int) -> np.ndarray:
    """The first image feature of each spot for every gene, with a gradient over genes that makes columns differ."""
    n_genes = len(task.genes.genes)
    first = task.test[index].features[:, :1].astype(np.float32)
    return first + 3 + np.arange(n_genes, dtype=np.float32) * 0.01


@dataclasses.dataclass(slots=True, kw_only=True)
class FirstFeature:
    """Predicts the first image feature, and a negative binomial of known parameters."""

    name: str = "first feature"
    is_reference: bool = True
    is_seeded: bool = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        return {
            spots.name: MethodPrediction(
                expression=(values := first_feature(task, i)),
                counts=CountPrediction(
                    likelihood="nb",
                    rate=np.exp(values + 2),
                    theta=np.linspace(1, 2, len(task.genes.genes)).astype(np.float32),
                    lower=0.07,
                    upper=0.89,
                ),
            )
            for i, spots in enumerate(task.test)
        }


@dataclasses.dataclass(slots=True, kw_only=True)
class Noisy:
    """Predicts the first image feature with noise that depends on the seed; has counted its runs."""

    name: str = "noisy"
    noise: float = 1.0
    is_reference: bool = False
    is_seeded: bool = True
    runs: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    killed_at: int | None = None

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        if len(self.runs) == self.killed_at:
            raise KeyboardInterrupt
        self.runs.append((task.name, seed))
        rng = np.random.default_rng(seed)
        return {
            spots.name: MethodPrediction(
                expression=(
                    first_feature(task, i)
                    + self.noise * rng.normal(size=(spots.n_spots, len(task.genes.genes)))
                ).astype(np.float32)
            )
            for i, spots in enumerate(task.test)
        }


@dataclasses.dataclass(slots=True, kw_only=True)
class TrainingMean:
    """Predicts the mean of the training spots' log1p(CP10k), moved by the first feature, under the rival's name."""

    name: str = "tuned ridge"
    is_reference: bool = True
    is_seeded: bool = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        counts = [
            spots.counts_of(task.genes.genes).toarray() / spots.totals[:, None] * 1e4 for spots in task.train
        ]
        mean = np.log1p(np.concatenate(counts)).mean(axis=0)
        return {
            spots.name: MethodPrediction(expression=(mean + 0.3 * spots.features[:, 1:2]).astype(np.float32))
            for spots in task.test
        }


@dataclasses.dataclass(slots=True, kw_only=True)
class Failing:
    """Fails on one fold, or on all."""

    name: str = "failing"
    fold: str | None = None
    is_expected: bool = False
    is_reference: bool = True
    is_seeded: bool = False

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        if self.fold in (None, task.name):
            raise (NotApplicableError if self.is_expected else SectionError)("the cat sat on the matrix")
        return FirstFeature().fit_predict(task, seed=seed)
