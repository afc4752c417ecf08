"""Small folds for tests of the benchmark's methods: sections whose expression follows two hidden features."""

import dataclasses

import numpy as np
from scipy.sparse import csr_matrix

from spam.evaluation import FoldTask
from spam.graphs import spatial_knn_graph
from spam.training.cohort import SpotData
from spam.training.feature_choice import FeatureChoice
from spam.training.genes import GeneChoice

DIMS = (11, 13)
N_GENES = 17
THETA = 3.0
GENES = tuple(f"G{i}" for i in range(N_GENES))
CONSTANT = N_GENES - 1  # a gene that no spot ever expresses


@dataclasses.dataclass(frozen=True)
class Truth:
    """A section with all that is known of it."""

    spots: SpotData
    rate: np.ndarray  # per 10k, of GENES


def section(name: str, seed: int, *, n_spots: int = 53, k: int = 5, signal: float = 0.8) -> Truth:
    """One section: two smooth fields drive features and log-rates; counts are negative binomial."""
    shared = np.random.default_rng(7)
    loadings = shared.normal(size=(2, N_GENES)) * signal
    base = shared.normal(4.5, 0.7, N_GENES)
    mixing = [shared.normal(size=(2, dim)) for dim in DIMS]
    rng = np.random.default_rng([seed, 1])
    side = int(np.ceil(np.sqrt(n_spots)))
    grid = np.stack(np.divmod(np.arange(n_spots), side), axis=1).astype(float)
    xy = grid * 100 + rng.normal(0, 7, grid.shape)
    phase = rng.uniform(0, 6, 2)
    hidden = np.stack([np.sin(xy[:, 0] / 170 + phase[0]), np.cos(xy[:, 1] / 130 + phase[1])], axis=1)
    hidden = hidden + rng.normal(0, 0.2, hidden.shape)
    features = np.concatenate(
        [hidden @ m + rng.normal(0, 0.3, (n_spots, m.shape[1])) for m in mixing], axis=1
    )
    rate = np.exp(base + hidden @ loadings)
    rate[:, CONSTANT] = 0
    totals = rng.lognormal(8, 0.3, n_spots).round()
    mu = np.maximum(rate * totals[:, None] / 1e4, 1e-12)
    counts = rng.negative_binomial(THETA, THETA / (THETA + mu)) * (rate > 0)
    spots = SpotData(
        name=name,
        donor="d",
        features=(features + rng.normal(0, 1, features.shape[1])).astype(np.float32),  # a shift per section
        xy=xy,
        graph=spatial_knn_graph(xy, k=k),
        counts=csr_matrix(counts),
        genes=np.array(GENES),
        totals=totals,
    )
    return Truth(spots=spots, rate=rate)


def unmeasured(spots: SpotData) -> SpotData:
    """The same section as a method sees it that is to predict it."""
    return dataclasses.replace(spots, counts=None, genes=None, totals=None)


def permuted(spots: SpotData, order: np.ndarray, *, k: int = 5) -> SpotData:
    """The same section with its spots in another order."""
    return dataclasses.replace(
        spots,
        features=spots.features[order],
        xy=spots.xy[order],
        graph=spatial_knn_graph(spots.xy[order], k=k),
        counts=None if spots.counts is None else spots.counts[order],
        totals=None if spots.totals is None else spots.totals[order],
    )


def task(train: tuple[SpotData, ...], test: tuple[SpotData, ...], *, k: int = 5) -> FoldTask:
    """A fold over given sections; ``hest-50`` holds five of the genes, not in their order."""
    return FoldTask(
        name="fold",
        train=train,
        test=test,
        genes=GeneChoice(genes=GENES, sets={"hest-50": ["G3", "G0", "G11", "G7", "G5"]}),
        features=FeatureChoice(
            keys=("tiny_112um", "tiny_224um"),
            tiles=({"tile_um": 112.0}, {"tile_um": 224.0}),
            dims=DIMS,
            encoders=({"name": "tiny", "weights_sha256": "ab" * 32},) * 2,
        ),
        k=k,
    )


def cohort_task(n_train: int = 3, **options: object) -> tuple[FoldTask, Truth]:
    """Three training sections and one to predict, whose counts the task does not hold."""
    truths = [section(f"S{i}", i, n_spots=47 + 6 * i, **options) for i in range(n_train + 1)]  # type: ignore[arg-type]
    test = truths.pop()
    return task(tuple(t.spots for t in truths), (unmeasured(test.spots),)), test
