"""Peers' networks on planted signals, their parts against closed forms and loops, and what holds for all of them."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from method_cohorts import CONSTANT, cohort_task, permuted, section, task, unmeasured
from scipy import stats
from scipy.special import log_softmax, softmax
from torch.nn.functional import normalize

from spam.errors import StoreError
from spam.evaluation import FoldTask, peer_fitting
from spam.evaluation.methods import InputView, Schedule, fold_inputs, fold_targets, train_network
from spam.evaluation.peer_fitting import FoldTensors, Peer, fold_tensors
from spam.evaluation.peers import (
    PEERS,
    ContrastiveRetrieval,
    MultiResolution,
    NeighbourhoodSet,
    TileRegression,
    soft_target_contrast,
)
from spam.training.groups import assign_groups
from spam.typing import Array

ids = lambda peer: peer.name  # noqa: E731


def short(peer: Peer, epochs: int = 4) -> Peer:
    """The same peer with fewer epochs."""
    return dataclasses.replace(peer, schedule=dataclasses.replace(peer.schedule, epochs=epochs))


def predict(peer: Peer, fold: FoldTask, seed: int = 0) -> Array:
    predictions = peer.fit_predict(fold, seed=seed)
    assert list(predictions) == [s.name for s in fold.test]
    return predictions[fold.test[0].name].expression


@pytest.mark.parametrize("peer", PEERS, ids=ids)
def test_a_peer_finds_a_planted_signal(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_fitting, "_N_MEMBERS", 1)
    fold, truth = cohort_task()
    got, expected = predict(short(peer, epochs=16), fold)[:, :CONSTANT], np.log(truth.rate[:, :CONSTANT])
    r = [stats.pearsonr(got[:, g], expected[:, g])[0] for g in range(CONSTANT)]
    assert np.median(r) > 0.7


@pytest.mark.parametrize(
    "peer",
    [pytest.param(p, marks=[pytest.mark.slow] if p.name == "TRIPLEX-style" else []) for p in PEERS],
    ids=ids,
)
def test_a_peer_is_deterministic_permutes_with_the_spots_and_sees_no_test_count(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_fitting, "_N_MEMBERS", 2)
    fold, truth = cohort_task()
    np.random.seed(5)  # noqa: NPY002  the global generator is what must be left alone
    states = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    first = predict(short(peer), fold)
    assert np.array_equal(states[0], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    assert torch.equal(states[1], torch.get_rng_state())
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.array_equal(predict(short(peer), dataclasses.replace(fold, test=(truth.spots,))), first)
    order = np.random.default_rng(2).permutation(truth.spots.n_spots)
    turned = predict(short(peer), dataclasses.replace(fold, test=(permuted(fold.test[0], order),)))
    np.testing.assert_allclose(turned, first[order], rtol=1e-4, atol=1e-4)
    assert (predict(short(peer), fold, seed=1) != first).any()


@pytest.mark.parametrize("peer", PEERS, ids=ids)
def test_one_training_section_and_test_sections_of_few_spots(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_fitting, "_N_MEMBERS", 1)
    tests = (section("S8", 8, n_spots=1).spots, section("S9", 9, n_spots=2).spots)
    fold = task((section("S0", 0).spots,), tuple(unmeasured(s) for s in tests))
    predictions = short(peer).fit_predict(fold, seed=0)
    assert {name: p.expression.shape for name, p in predictions.items()} == {"S8": (1, 17), "S9": (2, 17)}
    assert all(np.isfinite(p.expression).all() for p in predictions.values())


@pytest.mark.parametrize("peer", PEERS, ids=ids)
def test_a_lone_training_section_must_be_large_enough_for_blocks(peer: Peer) -> None:
    fold = task((section("S0", 0, n_spots=7).spots,), (unmeasured(section("S1", 1).spots),))
    with pytest.raises(StoreError, match="'S0' has 7 spots, too few to be cut into 5 blocks"):
        short(peer).fit_predict(fold, seed=0)


def test_rows_of_a_fold_are_those_of_its_sections() -> None:
    fold, _ = cohort_task()
    view = InputView(scales="smallest")
    tensors, inputs = fold_tensors(fold, view), fold_inputs(fold, view)
    assert list(tensors.test_rows) == ["S3"]
    rows = tensors.test_rows["S3"]
    np.testing.assert_array_equal(tensors.inputs[rows], inputs.test["S3"])
    np.testing.assert_array_equal(tensors.inputs[: rows[0]], inputs.train)
    sizes = [s.n_spots for s in (*fold.train, *fold.test)]
    np.testing.assert_array_equal(tensors.section, np.repeat(range(4), sizes))
    assert tensors.is_usable.all()
    starts = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    xy = np.concatenate([s.xy for s in (*fold.train, *fold.test)])
    for i in range(sum(sizes)):
        same = np.flatnonzero(tensors.section.numpy() == tensors.section[i].item())
        distance = np.linalg.norm(xy[same] - xy[i], axis=1)
        np.testing.assert_array_equal(tensors.neighbours[i], starts[i] + np.argsort(distance)[1:6])


def test_the_contrast_is_the_cross_entropy_with_soft_targets() -> None:
    rng = np.random.default_rng(0)
    image, profile = rng.normal(size=(2, 7, 5))
    targets = softmax((image @ image.T + profile @ profile.T) / 2, axis=1)
    logits = profile @ image.T
    losses = [-(targets * log_softmax(x, axis=1)).sum(axis=1).mean() for x in (logits, logits.T)]
    got = soft_target_contrast(torch.from_numpy(image), torch.from_numpy(profile))
    np.testing.assert_allclose(float(got), np.mean(losses), rtol=1e-10)


@pytest.fixture
def tensors() -> FoldTensors:
    return fold_tensors(cohort_task()[0], InputView())


@pytest.mark.parametrize("n_references", [83, 11])
def test_retrieval_averages_the_nearest_profiles(tensors: FoldTensors, n_references: int) -> None:
    torch.manual_seed(0)
    network = ContrastiveRetrieval(tensors, 17).eval()
    references = torch.randn(n_references, 17)
    with torch.no_grad():
        got = network.predict(torch.arange(90, 97), references)
        image = normalize(network.image_head(tensors.inputs[90:97])).numpy()
        bank = normalize(network.profile_head(references)).numpy()
    for row, query in zip(got, image, strict=True):
        nearest = np.argsort(-bank @ query)[:50]
        np.testing.assert_allclose(row, references.numpy()[nearest].mean(axis=0), rtol=1e-4, atol=1e-5)


NO_REFERENCES = torch.zeros(0, 17)
REGRESSIONS = [TileRegression, NeighbourhoodSet, MultiResolution]


@pytest.mark.parametrize("build", REGRESSIONS)
def test_a_prediction_depends_on_what_the_idea_looks_at_and_on_nothing_else(
    tensors: FoldTensors, build: Callable[[FoldTensors, int], torch.nn.Module]
) -> None:
    torch.manual_seed(0)
    network = build(tensors, 17).eval()
    spot = 61  # of the second section
    before = network.predict(torch.tensor([spot]), NO_REFERENCES)  # type: ignore[operator]
    reached = set()
    for other in range(0, len(tensors.section), 3):
        changed = tensors.inputs.clone()
        changed[other] += 3.0
        network.fold = dataclasses.replace(tensors, inputs=changed)
        if not torch.equal(network.predict(torch.tensor([spot]), NO_REFERENCES), before):  # type: ignore[operator]
            reached.add(other)
    others = set(range(0, len(tensors.section), 3))
    near = others & set(tensors.neighbours[spot].tolist())
    own_section = others & set(torch.where(tensors.section == tensors.section[spot])[0].tolist())
    expected = {TileRegression: set(), NeighbourhoodSet: near, MultiResolution: own_section}[build]  # type: ignore[index]
    assert near
    assert reached == expected | (others & {spot})


@pytest.mark.parametrize("build", [NeighbourhoodSet, MultiResolution])
def test_unused_places_have_no_influence(
    tensors: FoldTensors, build: Callable[[FoldTensors, int], torch.nn.Module]
) -> None:
    torch.manual_seed(0)
    network = build(tensors, 17).eval()
    rows = torch.tensor([3, 61])
    is_usable = tensors.is_usable.clone()
    is_usable[3, 2:], is_usable[61] = False, False
    hidden = dataclasses.replace(tensors, is_usable=is_usable)
    elsewhere = torch.where(is_usable, tensors.neighbours, torch.full_like(tensors.neighbours, 7))
    network.fold = hidden
    before = network.predict(rows, NO_REFERENCES)  # type: ignore[operator]
    network.fold = dataclasses.replace(hidden, neighbours=elsewhere)
    torch.testing.assert_close(network.predict(rows, NO_REFERENCES), before)  # type: ignore[operator]
    network.fold = tensors
    assert not torch.allclose(network.predict(rows, NO_REFERENCES), before)  # type: ignore[operator]


def test_the_views_are_supervised_and_distilled(tensors: FoldTensors) -> None:
    torch.manual_seed(0)
    network = MultiResolution(tensors, 17).eval()
    rows, y = torch.arange(5, 18), torch.randn(13, 17)
    fused, *views = network.views(rows)
    expected = ((fused - y) ** 2).mean()
    for view in views:
        expected = expected + 0.7 * ((view - y) ** 2).mean() + 0.3 * ((view - fused) ** 2).mean()
    assert len(views) == 3
    torch.testing.assert_close(network.loss(rows, y), expected)


class Planned(TileRegression):
    """Predicts the truth once a given number of steps was trained, noise before and after."""

    best = 8

    def __init__(self, fold: FoldTensors, n_genes: int) -> None:
        super().__init__(fold, n_genes)
        self.n_epochs = 0

    def train(self, mode: bool = True) -> "Planned":
        self.n_epochs += mode  # once an epoch
        return super().train(mode)  # type: ignore[return-value]

    def predict(self, rows: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
        truth = self.truth[rows]  # type: ignore[index]
        return (
            truth
            if self.n_epochs == self.best
            else truth + 100 * torch.sin(torch.arange(truth.numel())).view_as(truth)
        )

    truth: torch.Tensor


def test_the_number_of_epochs_is_the_one_that_predicts_left_out_groups_best() -> None:
    fold, _ = cohort_task()
    targets = fold_targets(fold)
    tensors = fold_tensors(fold, InputView())
    group = assign_groups(fold.train, ()).group
    Planned.truth = torch.zeros(len(tensors.section), 17)
    Planned.truth[torch.from_numpy(targets.rows)] = torch.from_numpy(targets.centred)
    peer = Peer(name="x", view=InputView(), build=Planned, schedule=Schedule(epochs=20))
    assert peer.choose_epochs(tensors, targets, group, seed=0) == Planned.best
    # no gene varies: nothing to score
    silent = dataclasses.replace(targets, centred=np.zeros_like(targets.centred))
    assert peer.choose_epochs(tensors, silent, group, seed=0) == 20


def test_every_row_is_visited_once_an_epoch_and_a_lone_rest_is_left_out() -> None:
    seen: list[list[int]] = []
    ends: list[int] = []

    def loss(network: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.tolist())
        return network(torch.ones(1, 1)).sum()

    def after(network: torch.nn.Module, epoch: int) -> None:
        assert not network.training
        ends.append(len(seen))

    def build() -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    train_network(build, loss, 11, Schedule(epochs=3, batch_size=4), seed=(0,), after_epoch=after)
    assert ends == [3, 6, 9]
    epochs = [[row for rows in seen[i : i + 3] for row in rows] for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    seen.clear()
    train_network(build, loss, 9, Schedule(epochs=1, batch_size=4), seed=(0,))
    assert [len(rows) for rows in seen] == [4, 4]
