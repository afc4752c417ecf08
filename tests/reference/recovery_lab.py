"""Simulated cohorts with known truth, in memory: drawn images seen by plain colour statistics, and trained on for real."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix

from spam.evaluation import FoldTask
from spam.evaluation.fold_plan import Fold
from spam.evaluation.folds import FoldData, FoldSides, build_fold
from spam.graphs import spatial_knn_graph
from spam.models.checkpoint import read_checkpoint, weights_of
from spam.models.reliability import HeldOut
from spam.prediction import Predictor
from spam.progress import SILENT
from spam.schemas.simulate_config import SimulateConfig
from spam.schemas.training_config import FinetuneConfig
from spam.simulation import SimulatedSection, simulate_section
from spam.training.cohort import SpotData
from spam.training.feature_choice import FeatureChoice
from spam.training.finetuning import finetune_on
from spam.training.fusion_stage import FusionStage
from spam.training.judging import judge_folds
from spam.training.loop import fit
from spam.training.training_set import TrainingSet, numbered_donors, training_set_of

TILES_UM = (112.0, 224.0)
DIM = 12
K = 8
FEATURES = FeatureChoice(
    keys=tuple(f"colours_{um:g}um" for um in TILES_UM),
    tiles=tuple({"tile_um": um, "tile_px": None} for um in TILES_UM),
    dims=(DIM, DIM),
    encoders=({"name": "colours", "weights_sha256": "none"},) * 2,
)
# Small networks and few epochs: what is judged is the judging, hundreds of times.
QUICK = {
    "members": 1,
    "fuse_dim": 32,
    "epochs": 6,
    "batch_size": 128,
    "lr": 2e-3,
    "n_components": 24,
    "n_neighbours": 8,
}


def colours(section: SimulatedSection, tile_um: float) -> np.ndarray:
    """Mean, spread and tails of each colour in the square around each spot: an encoder without training."""
    half = round(tile_um / section.mpp / 2)
    rows = []
    for x, y in np.rint(section.xy_px).astype(int):
        tile = section.image[max(y - half, 0) : y + half, max(x - half, 0) : x + half]
        pixels = tile.reshape(-1, 3).astype(float)
        rows.append(
            np.concatenate([pixels.mean(0), pixels.std(0), np.percentile(pixels, (3, 97), axis=0).ravel()])
        )
    return np.array(rows)


def spots_of(section: SimulatedSection) -> SpotData:
    """The section as a trainer sees it."""
    xy = section.xy_px * section.mpp
    return SpotData(
        name=section.name,
        donor=section.donor,
        features=np.concatenate([colours(section, um) for um in TILES_UM], axis=1).astype(np.float32),
        xy=xy,
        graph=spatial_knn_graph(xy, k=K),
        counts=csr_matrix(section.counts),
        genes=np.array(section.genes),
        totals=section.counts.sum(axis=1).astype(float),
    )


def cohort(n_donors: int, *, per_donor: int = 1, **options: object) -> list[SimulatedSection]:
    """Sections, donor by donor; drawn coarsely, which is enough for colours."""
    config = SimulateConfig(out_dir=Path("unused"), **{"mpp": 8.0, **options})  # type: ignore[arg-type]
    return [
        simulate_section(config, donor=donor, section=section)
        for donor in range(n_donors)
        for section in range(per_donor)
    ]


def prepared(
    spots: Sequence[SpotData], folder: Path, *, features: FeatureChoice = FEATURES, **options: object
) -> tuple[TrainingSet, FinetuneConfig]:
    """What `spam finetune` would train on: all genes; the last section is the one held out at first."""
    config = FinetuneConfig(  # type: ignore[arg-type]
        **{"store": "memory", "save_dir": folder, "device": "cpu", "k": K, "use_hvg": False, **options}
    )
    return training_set_of(tuple(spots), features, config, held_out=(spots[-1].name,)), config


def heldout_of(
    sections: list[SimulatedSection], folder: Path, **options: object
) -> tuple[HeldOut, tuple[str, ...]]:
    """Train as `spam finetune --val-sections` does at first, and judge; also names the genes."""
    data, config = prepared([spots_of(section) for section in sections], folder, **options)
    device = torch.device("cpu")
    stage = FusionStage(config, data, None, device)
    best = fit(stage, config, device=device, progress=SILENT).best_path
    stage.network.load_state_dict(weights_of(read_checkpoint(best, stage=stage.name)[1]))
    judged = judge_folds([stage.predict_heldout()], data, config.likelihood, numbered_donors(data))
    return judged.heldout, data.genes.genes


@dataclasses.dataclass(frozen=True)
class Recovery:
    """Correlation with the log of the true rate of an unseen section, mean over genes."""

    spam: float
    oracle: float


def recovery(
    sections: Sequence[SimulatedSection],
    folder: Path,
    *,
    n_unseen: int = 1,
    spots: Sequence[SpotData] | None = None,
    features: FeatureChoice = FEATURES,
    **options: object,
) -> Recovery:
    """Train as `spam finetune` does on all sections but the last ones, and compare with an oracle on these: means over them.

    The oracle learns from the same counts, but from the true shares of the tissue kinds that the expression was made of,
    in place of images: least squares on log1p(CP10k), both relative to their section's mean.

    Parameters
    ----------
    sections, n_unseen
        The cohort, and how many at its end are not trained on.
    spots, features
        How a trainer sees the sections; None: by colours.
    """
    spots = spots or [spots_of(section) for section in sections]
    known, unseen = sections[:-n_unseen], sections[-n_unseen:]
    data, config = prepared(spots[:-n_unseen], folder, features=features, **options)
    predictor = Predictor.load(finetune_on(data, config).run.best_path, torch.device("cpu"))
    columns = [sections[0].genes.index(gene) for gene in predictor.meta.genes]

    def centred(values: np.ndarray) -> np.ndarray:
        return values - values.mean(axis=0)

    shares = np.concatenate([centred(s.programmes) for s in known])
    cp10k = [s.counts / s.counts.sum(axis=1, keepdims=True) * 1e4 for s in known]
    expression = np.concatenate([centred(np.log1p(values[:, columns])) for values in cp10k])
    response = np.linalg.lstsq(shares, expression, rcond=None)[0]
    found = []
    for section, seen in zip(unseen, spots[-n_unseen:], strict=True):
        truth = np.log1p(1e4 * section.rates[:, columns])
        predicted = predictor.infer(seen).expression
        found.append(
            (mean_correlation(predicted, truth), mean_correlation(section.programmes @ response, truth))
        )
    spam, oracle = np.mean(found, axis=0)
    return Recovery(spam=float(spam), oracle=float(oracle))


def fold_of(sections: list[SimulatedSection]) -> tuple[FoldTask, np.ndarray]:
    """The last section to be predicted from the others by any method of `spam benchmark`, and its log of the true rates."""
    task = fold_data_of([spots_of(section) for section in sections]).task
    columns = [sections[-1].genes.index(gene) for gene in task.genes.genes]
    return task, np.log1p(1e4 * sections[-1].rates[:, columns])


def fold_data_of(spots: Sequence[SpotData], n_unseen: int = 1) -> FoldData:
    """The last sections to be predicted from the others; all genes."""
    known, unseen = tuple(spots[:-n_unseen]), tuple(spots[-n_unseen:])
    sides = FoldSides(
        fold=Fold(name="unseen", train=tuple(s.name for s in known), test=tuple(s.name for s in unseen)),
        train=known,
        test=unseen,
    )
    return build_fold(
        sides, FEATURES, k=K, n_top=int(max(len(s.genes) for s in spots if s.genes is not None))
    )


def mean_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of each column, averaged."""
    return float(np.mean([np.corrcoef(a[:, g], b[:, g])[0, 1] for g in range(a.shape[1])]))
