import dataclasses
import json
import math
import re
from pathlib import Path

import contrast_truth
import numpy as np
import pytest
import torch
from cohorts import make_cohort
from scipy.sparse import csr_matrix
from scipy.stats import entropy
from training_runs import pretraining

from spam.errors import ConfigError
from spam.models.contrastive import Embeddings
from spam.training import pretrain
from spam.training.contrast import (
    ContrastHealth,
    PairHealth,
    contrast_metrics,
    near_pairs,
    pair_health,
    training_losses,
)


def drawn(n: int, seed: int, *, has_coord: bool = True) -> Embeddings:
    rng = np.random.default_rng(seed)
    image, gene, coord = (torch.from_numpy(rng.normal(size=(n, 5))) for _ in range(3))
    return Embeddings(image=image, gene=image + 0.5 * gene, coord=coord if has_coord else None)


# A row of four spots, where the last looks at its neighbour but not the other way round, and a separate spot.
EDGES = {(0, 1): 0.5, (1, 0): 0.5, (1, 2): 0.2, (2, 1): 0.2, (3, 2): 0.7, (4, 4): 0.9}
GRAPH = csr_matrix((list(EDGES.values()), np.array(list(EDGES)).T), shape=(5, 5))


def test_near_pairs_by_hand() -> None:
    expected = np.zeros((4, 4), dtype=bool)
    expected[1, 2] = expected[2, 1] = True  # spots 3 and 2; 0 and 2 meet in spot 1, which is not in the batch
    np.testing.assert_array_equal(near_pairs(GRAPH, np.array([4, 3, 2, 0])), expected)


@pytest.mark.parametrize("mode", ["joint", "img-gene"])
@pytest.mark.parametrize("targets", ["hard", "soft"])
@pytest.mark.parametrize("mask_neighbours", [False, True])
def test_training_losses_equal_the_loops(mode: str, targets: str, mask_neighbours: bool) -> None:
    rng = np.random.default_rng(1)
    embedded, expression = drawn(4, 0, has_coord=mode == "joint"), rng.normal(size=(4, 7))
    changes = {"targets": targets, "mask_neighbours": mask_neighbours, "mode": mode}
    config = pretraining(Path("s"), Path("o"), temperature=0.4, mixing=0.3, **changes)
    losses = training_losses(
        embedded, config, expression=torch.from_numpy(expression), weights=GRAPH, rows=np.array([2, 0, 3, 1])
    )
    near = np.zeros((4, 4), dtype=bool)
    if mask_neighbours:
        for i, j in ((0, 2), (0, 3), (1, 3)):  # spots 2-3, 2-1, 0-1
            near[i, j] = near[j, i] = True
    toward = contrast_truth.profile_targets(expression, 0.4, near) if targets == "soft" else np.eye(4)
    image = embedded.image.numpy()
    assert embedded.gene is not None
    expected = {"gene": contrast_truth.soft_info_nce(image, embedded.gene.numpy(), 0.4, 0.3, toward, near)}
    if embedded.coord is not None:
        coord = embedded.coord.numpy()
        expected["coord"] = contrast_truth.soft_info_nce(image, coord, 0.4, 0.3, np.eye(4), near)
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(expected, rel=1e-6)


def test_soft_targets_without_expression_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--targets soft .*--mode img-coord"):
        pretraining(Path("s"), Path("o"), targets="soft", mode="img-coord")


def test_figures_equal_the_slow_way_whatever_the_training_loss() -> None:
    """13 + 13 + 3 spots: the last batch counts for recall and rank, not for the loss."""
    config = pretraining(Path("s"), Path("o"), temperature=0.3, mixing=0.25, targets="soft")
    batches = [drawn(13, 0), drawn(13, 1), drawn(3, 2)]
    names = ("image", "gene", "coord")
    parts = [{name: getattr(batch, name).numpy() for name in names} for batch in batches]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in names}
    unit = {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in whole.items()}
    expected = {"ln_batch": math.log(13), "loss": 0.0}
    for pair in ("gene", "coord"):
        expected[f"{pair}_loss"] = np.mean(
            [contrast_truth.info_nce(part["image"], part[pair], 0.3, 0.25) for part in parts[:2]]
        )
        expected["loss"] += expected[f"{pair}_loss"]
        for k in (1, 5, 10):
            expected[f"{pair}_recall_{k}"] = contrast_truth.recall_at_k(whole["image"], whole[pair], k)
            expected[f"{pair}_recall_back_{k}"] = contrast_truth.recall_at_k(whole[pair], whole["image"], k)
    for name in names:
        expected[f"{name}_rank"] = np.exp(entropy(np.linalg.svd(unit[name], compute_uv=False)))
    assert contrast_metrics(batches, config) == pytest.approx(expected, rel=1e-5)  # ranks are of float32


GOOD = PairHealth(
    pair="gene", loss=2.0, ln_batch=4.0, train_loss=1.5, train_ln_batch=4.2, k=10, recall=0.5, recall_back=0.4,
    chance=0.1, n=100, image_rank=31.0, other_rank=29.0, dim=64,
)  # fmt: skip
AT_CHANCE = {"loss": 4.01, "recall": 0.11, "recall_back": 0.09}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({**AT_CHANCE, "train_loss": 4.2}, r"4.01 of 4.00.*recall@10.*0.10 of 0.10.*higher --lr.*--epochs"),
        ({**AT_CHANCE, "train_loss": None}, "higher --lr"),
        (AT_CHANCE, r"overfit \(training loss 1.50\).*--dropout"),
        (
            {**AT_CHANCE, "train_loss": 4.2, "image_rank": 1.2, "other_rank": 1.3},
            r"image embedding.*rank 1.2 of 64.*gene embedding.*1.3 of 64.*lower --lr or a higher --temperature",
        ),
        # One sign alone is enough. Three standard errors above chance are .19.
        ({"loss": 3.9}, r"3.90 of 4.00"),
        ({"recall": 0.2, "recall_back": 0.17}, r"0.1[89] of 0.10"),
        ({}, ""),
        ({"loss": 3.87}, ""),
        ({"recall": 0.21, "recall_back": 0.18}, ""),
        ({"image_rank": 1.2}, ""),
    ],
)
def test_the_verdict_says_what_failed_and_why(change: dict[str, object], words: str) -> None:
    pair = dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]
    health = ContrastHealth(pairs=(dataclasses.replace(GOOD, pair="coord", recall=0.61), pair))
    assert health.has_worked == pair.has_learned == (not words)
    assert health.to_mapping()["has_worked"] == health.has_worked
    if words:
        assert health.verdict.startswith("stage 1 did NOT work for image-gene: ")
        assert re.search(words, health.verdict)
        assert "NOT learned" in pair.describe()
    else:
        assert re.search(
            r"worked: .*neighbourhood .*10 of 100 in 61%.*expression .*chance 10%", health.verdict
        )


@pytest.mark.parametrize(("n_val", "k"), [(3, 1), (19, 1), (20, 5), (39, 5), (40, 10), (997, 10)])
def test_recall_is_judged_where_chance_is_small(n_val: int, k: int) -> None:
    names = [f"gene_{name}_{k}" for name in ("recall", "recall_back") for k in (1, 5, 10)]
    names += ["gene_loss", "ln_batch", "image_rank", "gene_rank"]
    best = {f"val_{name}": float(i) for i, name in enumerate(names)}
    (health,) = pair_health(best, {"gene_loss": 0.5}, n_val=n_val, train_ln_batch=3.0, dim=8)
    assert (health.k, health.chance, health.n) == (k, k / n_val, n_val)
    assert health.recall == best[f"val_gene_recall_{k}"]
    assert health.recall_back == best[f"val_gene_recall_back_{k}"]
    assert (health.loss, health.train_loss) == (best["val_gene_loss"], 0.5)
    assert (health.image_rank, health.other_rank) == (best["val_image_rank"], best["val_gene_rank"])


def test_alignment_is_learned_on_a_held_out_section_and_reported(cohort: Path, tmp_path: Path) -> None:
    report = pretrain(pretraining(cohort, tmp_path, epochs=25, lr=2e-3))
    best, start = report.run.best, report.run.history[0]
    assert report.val_sections == ("S4",)
    assert best["val_ln_batch"] == pytest.approx(math.log(31))
    assert report.health.has_worked
    assert report.health.verdict in report.summary()
    for pair in report.health.pairs:
        assert pair.loss == best[f"val_{pair.pair}_loss"] < start[f"val_{pair.pair}_loss"] - 0.2
        assert pair.recall > 2 * 10 / report.n_val
        assert pair.train_loss == report.run.history[-1][f"{pair.pair}_loss"]
        assert (pair.n, pair.dim, pair.train_ln_batch) == (43, 16, math.log(31))
    written = json.loads((tmp_path / "health.json").read_text())
    assert written == json.loads(json.dumps(report.to_mapping(), allow_nan=False))["health"]


def test_pure_noise_is_overfit_and_reported_so(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "noise.zarr", 3, signal=0.0)
    changes = {"mode": "img-gene", "epochs": 40, "lr": 3e-3, "dropout": 0.0}
    report = pretrain(pretraining(store, tmp_path / "out", **changes))
    assert not report.health.has_worked
    assert re.search(r"did NOT work for image-gene: .*overfit", report.summary())
