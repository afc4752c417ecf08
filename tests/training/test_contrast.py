import dataclasses
import json
import math
import re
from pathlib import Path

import contrast_truth
import numpy as np
import pytest
import torch
from cohorts import add_section, make_cohort
from scipy.sparse import csr_matrix
from scipy.stats import entropy

from spam.errors import ConfigError
from spam.models import Embeddings
from spam.models.checkpoint import read_checkpoint
from spam.models.probe import probe_accuracy
from spam.schemas.training_config import PretrainConfig
from spam.training import PretrainReport, pretrain
from spam.training.contrast import contrast_figures, near_pairs, pair_losses, training_losses
from spam.training.dataset import build_training_set
from spam.training.groups import spatial_blocks
from spam.training.health import ContrastHealth, PairHealth, pair_health
from spam.training.pretraining import AlignmentStage
from spam.training.probing import Probe, probe_labels

SMALL = {"proj_dim": 16, "batch_size": 31, "n_top_genes": 29, "k": 5}


def pretraining(store: Path, out: Path, **changes: object) -> PretrainConfig:
    return PretrainConfig(**{"store": store, "save_dir": out, **SMALL, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def learned(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainReport:
    return pretrain(pretraining(cohort, tmp_path_factory.mktemp("learned") / "run", epochs=25, lr=2e-3))


def drawn(n: int, seed: int, *, has_coord: bool = True) -> Embeddings:
    rng = np.random.default_rng(seed)
    image, gene, coord = (torch.from_numpy(rng.normal(size=(n, 5))) for _ in range(3))
    return Embeddings(image=image, gene=image + 0.5 * gene, coord=coord if has_coord else None)


# A row of four spots, where the last looks at its neighbour but not the other way round, and a spot of its own.
GRAPH = csr_matrix(
    np.array(
        [
            [0.0, 0.5, 0.0, 0.0, 0.0],
            [0.5, 0.0, 0.2, 0.0, 0.0],
            [0.0, 0.2, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.7, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.9],
        ]
    )
)


def test_near_pairs_by_hand() -> None:
    rows = np.array([4, 3, 2, 0])
    expected = np.zeros((4, 4), dtype=bool)
    expected[1, 2] = expected[2, 1] = (
        True  # spots 3 and 2; spots 0 and 2 meet in spot 1 alone, which is not there
    )
    np.testing.assert_array_equal(near_pairs(GRAPH, rows), expected)


@pytest.mark.parametrize("targets", ["hard", "soft"])
@pytest.mark.parametrize("mask_neighbours", [False, True])
def test_what_is_trained_on_equals_the_loops(targets: str, mask_neighbours: bool) -> None:
    rng = np.random.default_rng(1)
    rows = np.array([2, 0, 3, 1])
    embedded, expression = drawn(4, 0), rng.normal(size=(4, 7))
    config = pretraining(
        Path("s"), Path("o"), targets=targets, mask_neighbours=mask_neighbours, temperature=0.4, mixing=0.3
    )
    losses = training_losses(
        embedded, config, expression=torch.from_numpy(expression), weights=GRAPH, rows=rows
    )
    near = np.zeros((4, 4), dtype=bool)
    if mask_neighbours:
        for i, j in ((0, 2), (0, 3), (1, 3)):  # spots 2-3, 2-1, 0-1
            near[i, j] = near[j, i] = True
    toward = contrast_truth.profile_targets(expression, 0.4, near) if targets == "soft" else np.eye(4)
    image = embedded.image.numpy()
    assert embedded.gene is not None
    assert embedded.coord is not None
    expected = {
        "gene": contrast_truth.soft_info_nce(image, embedded.gene.numpy(), 0.4, 0.3, toward, near),
        "coord": contrast_truth.soft_info_nce(image, embedded.coord.numpy(), 0.4, 0.3, np.eye(4), near),
    }
    assert {name: float(value) for name, value in losses.items()} == pytest.approx(expected, rel=1e-6)


def test_a_pair_that_the_mode_does_not_make_is_not_trained() -> None:
    config = pretraining(Path("s"), Path("o"), targets="soft", mode="img-gene")
    losses = training_losses(
        drawn(4, 0, has_coord=False), config, expression=torch.ones(4, 2), weights=GRAPH, rows=np.arange(4)
    )
    assert set(losses) == {"gene"}


def test_soft_targets_without_expression_are_refused() -> None:
    with pytest.raises(ConfigError, match="--targets soft changes nothing with --mode img-coord"):
        pretraining(Path("s"), Path("o"), targets="soft", mode="img-coord")


def test_figures_equal_the_slow_way() -> None:
    """13 + 13 + 3 spots: the last batch counts for recall and shape, not for the loss."""
    config = pretraining(Path("s"), Path("o"), temperature=0.3, mixing=0.25)
    batches = [drawn(13, 0), drawn(13, 1), drawn(3, 2)]
    figures = contrast_figures(batches, config)
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
        expected[f"{pair}_alignment"] = ((unit["image"] - unit[pair]) ** 2).sum(axis=1).mean()
    for name in names:
        expected[f"{name}_rank"] = np.exp(entropy(np.linalg.svd(unit[name], compute_uv=False)))
        squares = ((unit[name][:, None] - unit[name][None]) ** 2).sum(axis=2)[~np.eye(29, dtype=bool)]
        expected[f"{name}_uniformity"] = np.log(np.exp(-2 * squares).mean())
    assert figures == pytest.approx(expected, rel=1e-5)  # the figures of the shape are of float32


def test_figures_are_of_plain_infonce_whatever_is_trained_on() -> None:
    plain = pretraining(Path("s"), Path("o"))
    soft = pretraining(Path("s"), Path("o"), targets="soft", mask_neighbours=True)
    assert contrast_figures([drawn(13, 0)], plain) == contrast_figures([drawn(13, 0)], soft)
    assert set(pair_losses(drawn(13, 0), soft)) == {"gene", "coord"}


GOOD = PairHealth(
    pair="gene",
    loss=2.0,
    ln_batch=4.0,
    train_loss=1.5,
    train_ln_batch=4.2,
    k=10,
    recall=0.5,
    recall_back=0.4,
    chance=0.1,
    n=100,
    image_rank=31.0,
    other_rank=29.0,
    dim=64,
)
AT_CHANCE = {"loss": 4.01, "recall": 0.11, "recall_back": 0.09}


def test_what_worked_is_said_to_have_worked() -> None:
    health = ContrastHealth(pairs=(GOOD, dataclasses.replace(GOOD, pair="coord", recall=0.61)), probes=())
    assert health.has_worked
    assert health.verdict == (
        "stage 1 worked: the image of a held-out spot finds its own expression among the first 10 of 100 in 50% of cases "
        "(chance 10%) and its own neighbourhood among the first 10 of 100 in 61% of cases (chance 10%)"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {**AT_CHANCE, "train_loss": 4.2},
            r"the held-out loss stays at ln\(batch\) \(4.01 of 4.00\) and recall@10 is at chance \(0.10 of 0.10\); "
            r"the training loss did not fall either: try a higher --lr or more --epochs$",
        ),
        ({**AT_CHANCE, "train_loss": None}, "the training loss did not fall either"),
        (
            AT_CHANCE,
            r"the training loss fell \(to 1.50\), so training spots were learned by heart.*--dropout$",
        ),
        (
            {**AT_CHANCE, "train_loss": 4.2, "image_rank": 1.2, "other_rank": 1.3},
            r"the image embedding has collapsed \(effective rank 1.2 of 64\) and the gene embedding has collapsed "
            r"\(effective rank 1.3 of 64\); try a lower --lr or a higher --temperature$",
        ),
        # One sign alone is enough. Three standard errors above chance are .19.
        ({"loss": 3.9}, r"image-gene: the held-out loss stays at ln\(batch\) \(3.90 of 4.00\); "),
        (
            {"recall": 0.2, "recall_back": 0.17},
            r"image-gene: recall@10 is at chance \(0.1[89] of 0.10\); the training",
        ),
    ],
)
def test_what_failed_is_said_to_have_failed_and_why(change: dict[str, object], words: str) -> None:
    bad = dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]
    health = ContrastHealth(pairs=(dataclasses.replace(GOOD, pair="coord"), bad), probes=())
    assert not health.has_worked
    assert health.verdict.startswith("stage 1 did NOT work for image-gene: ")
    assert re.search(words, health.verdict)
    assert "alignment NOT learned" in bad.describe()


@pytest.mark.parametrize(
    "change", [{"loss": 3.87}, {"recall": 0.21, "recall_back": 0.18}, {"image_rank": 1.2}]
)
def test_little_is_enough_to_have_worked(change: dict[str, float]) -> None:
    assert dataclasses.replace(GOOD, **change).has_learned  # type: ignore[arg-type]


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


def test_section_and_donor_are_probed_where_they_can_be_told(tmp_path: Path) -> None:
    """The image tells the donor alone, the gene embedding the section alone, the frozen features nothing."""
    for i, donor in enumerate(["d1", "d1", "d2", "d2", "d3"]):
        add_section(tmp_path / "s.zarr", f"S{i + 1}", seed=i, donor=donor, n_spots=41, signal=0.0)
    data = build_training_set(pretraining(tmp_path / "s.zarr", tmp_path, val_sections=("S2",)))
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.1, size=(len(data.inputs), 5))
    donors = np.array([["d1", "d2", "d3"].index(str(s.donor)) for s in data.spots])
    of_donor = np.eye(5)[donors[data.section_of]] + noise
    # Each section in a direction of its own, so that no section tells of another one.
    of_section = np.eye(5)[data.section_of] + noise

    def embed(rows: np.ndarray) -> Embeddings:
        return Embeddings(
            image=torch.from_numpy(of_donor[rows]), gene=torch.from_numpy(of_section[rows]), coord=None
        )

    section, donor = probe_labels(data, embed, batch_size=13, seed=0)
    assert (section.label, section.chance) == ("section", 41 / 205)
    assert set(section.accuracy) == {"frozen", "input", "image", "gene"}
    assert section.accuracy["gene"] == 1.0
    assert section.accuracy["image"] == pytest.approx(3 / 5, abs=0.12)  # of two sections of a donor, either
    assert (donor.label, donor.chance) == ("donor", 0.5)  # d3 has one section only
    assert donor.accuracy["image"] == 1.0
    assert donor.accuracy["gene"] <= 0.5
    assert probe_labels(data, embed, batch_size=31, seed=0) == (section, donor)


def test_frozen_features_tell_the_section_and_standardised_inputs_do_not(tmp_path: Path) -> None:
    make_cohort(tmp_path / "s.zarr", 3)
    data = build_training_set(pretraining(tmp_path / "s.zarr", tmp_path))
    moved = tuple(
        dataclasses.replace(s, features=s.features + 5 * np.float32(i)) for i, s in enumerate(data.spots)
    )
    data = dataclasses.replace(data, spots=moved)
    rows = np.zeros((len(data.inputs), 3))
    (probe,) = probe_labels(
        data,
        lambda r: Embeddings(image=torch.from_numpy(rows[r]), gene=None, coord=None),
        batch_size=17,
        seed=0,
    )
    assert probe.accuracy["frozen"] == 1.0
    assert probe.accuracy["input"] <= probe.chance + 0.1
    assert probe.accuracy["image"] == pytest.approx(probe.chance)  # an embedding of zeros tells nothing


def test_having_seen_the_spot_next_door_does_not_help(tmp_path: Path) -> None:
    """Each strip of tissue has a column of its own, whose sign tells the section."""
    for i in range(2):
        add_section(tmp_path / "s.zarr", f"S{i + 1}", seed=i, n_spots=101)
    data = build_training_set(pretraining(tmp_path / "s.zarr", tmp_path))
    strip = np.concatenate([spatial_blocks(s.xy, 20) for s in data.spots])  # four of them to a block
    waves = np.eye(20)[strip] * np.array([-1.0, 1.0])[data.section_of][:, None]
    (probe,) = probe_labels(
        data,
        lambda r: Embeddings(image=torch.from_numpy(waves[r]), gene=None, coord=None),
        batch_size=31,
        seed=0,
    )
    every_fifth = np.arange(202) % 5
    assert probe_accuracy(waves, data.section_of, every_fifth) == 1.0
    assert probe.accuracy["image"] == 0.5


def test_a_lone_section_has_nothing_to_probe(cohort: Path, tmp_path: Path) -> None:
    config = pretraining(cohort, tmp_path, sections=("S2",), epochs=1)
    report = pretrain(config)
    assert report.health.probes == ()
    assert report.to_mapping()["health"]["probes"] == []


def test_the_health_of_the_best_epoch_is_reported_and_written(learned: PretrainReport) -> None:
    health = learned.health
    assert health.has_worked
    assert health.verdict in learned.summary()
    assert all(line in learned.summary() for line in health.lines())
    assert [pair.pair for pair in health.pairs] == ["gene", "coord"]
    for pair in health.pairs:
        assert pair.loss == learned.run.best[f"val_{pair.pair}_loss"]
        assert pair.train_loss == learned.run.history[-1][f"{pair.pair}_loss"]
        assert (pair.n, pair.dim, pair.train_ln_batch) == (43, 16, math.log(31))
    written = json.loads((learned.run.best_path.parent / "health.json").read_text())
    plain = json.loads(json.dumps(learned.to_mapping(), allow_nan=False))["health"]
    assert written == plain
    assert written["verdict"] == health.verdict


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> tuple[PretrainConfig, PretrainReport]:
    folder = tmp_path_factory.mktemp("noise")
    store = make_cohort(folder / "noise.zarr", 3, signal=0.0)
    config = pretraining(store, folder / "out", mode="img-gene", epochs=40, lr=3e-3, dropout=0.0)
    return config, pretrain(config)


def test_pure_noise_is_learned_by_heart_and_said_so(by_heart: tuple[PretrainConfig, PretrainReport]) -> None:
    report = by_heart[1]
    assert not report.health.has_worked
    assert re.search(
        r"stage 1 did NOT work for image-gene: .*training spots were learned by heart", report.summary()
    )


def test_the_probes_look_at_the_best_epoch_not_the_last(
    by_heart: tuple[PretrainConfig, PretrainReport],
) -> None:
    config, report = by_heart
    data = build_training_set(config)
    stage = AlignmentStage(config, data, torch.device("cpu"))
    probes = {}
    for path in (report.run.best_path, report.run.last_path):
        tensors = read_checkpoint(path, stage="pretrain")[1]
        stage.network.load_state_dict(
            {name: torch.from_numpy(tensors[f"network.{name}"]) for name in stage.network.state_dict()}
        )
        stage.network.eval()
        probes[path] = probe_labels(data, stage._embed, batch_size=31, seed=0)
    assert report.health.probes == probes[report.run.best_path]
    assert probes[report.run.best_path] != probes[report.run.last_path]


@pytest.mark.parametrize("change", [{"targets": "soft"}, {"mask_neighbours": True}])
def test_each_option_changes_the_weights(cohort: Path, tmp_path: Path, change: dict[str, object]) -> None:
    plain = pretrain(pretraining(cohort, tmp_path / "plain", epochs=1))
    other = pretrain(pretraining(cohort, tmp_path / "other", epochs=1, **change))
    name = "network.image_projector"
    one, two = (read_checkpoint(report.run.last_path, stage="pretrain")[1] for report in (plain, other))
    assert any(not np.array_equal(one[key], two[key]) for key in one if key.startswith(name))


def test_probe_reads_as_a_sentence() -> None:
    probe = Probe(label="donor", chance=0.5, accuracy={"frozen": 0.98, "image": 0.61})
    assert probe.describe() == (
        "donor told linearly from frozen 0.98, image 0.61 (chance 0.50; far above it: batch effects)"
    )
