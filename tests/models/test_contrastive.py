import math

import contrast_truth
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import entropy
from torch.utils._python_dispatch import TorchDispatchMode

from spam.models import contrastive
from spam.models.contrastive import (
    AlignmentModel,
    effective_rank,
    info_nce,
    partner_rank,
    profile_targets,
    recall_at_k,
    soft_info_nce,
)
from spam.models.fusion import FusionModel
from spam.models.networks import closure

MODES = ("joint", "img-gene", "img-coord")
SPOTS = np.array([11, 2, 7, 3, 5])


def setting(mode):
    torch.manual_seed(0)
    model = AlignmentModel(image_dim=13, n_genes=17, proj_dim=7, mode=mode, dropout=0.0)
    weights = sparse.random_array((19, 19), density=0.3, format="csr", rng=np.random.default_rng(0))
    features, expression = torch.randn(19, 13), torch.randn(5, 17)
    return model, features[SPOTS], expression, closure(weights, SPOTS).gather(features)


@pytest.mark.parametrize("mode", MODES)
def test_embeddings_are_those_of_the_parts_and_the_loss_reaches_each(mode):
    model, *inputs = setting(mode)
    out = model(*inputs)
    assert (out.gene is None, out.coord is None) == (mode == "img-coord", mode == "img-gene")
    others = [embedding for embedding in (out.gene, out.coord) if embedding is not None]
    sum(info_nce(out.image, other, temperature=0.15) for other in others).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    # A spot's expression does not touch the other embeddings.
    changed = model(inputs[0], inputs[1].flip(0) * 3, inputs[2])
    assert torch.equal(out.image, changed.image)
    assert out.coord is None or torch.equal(out.coord, changed.coord)
    sizes = {"image_dim": 13, "n_genes": 17, "proj_dim": 7, "fuse_dim": 6, "heads": 2, "dropout": 0.0}
    fusion = FusionModel(**sizes, merge="gated-sum", likelihood="nb")
    shapes = [{name: value.shape for name, value in m.state_dict().items()} for m in (model, fusion)]
    assert shapes[0].items() <= shapes[1].items()  # weights carry over by name


def left_out(rng, n, share):
    drawn = np.triu(rng.random((n, n)) < share, 1)
    return drawn | drawn.T


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 13),
    d=st.integers(1, 7),
    temperature=st.sampled_from([0.1, 0.15, 1.0]),
    mixing=st.sampled_from([0.0, 0.3, 1.0]),
    share=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_losses_and_targets_equal_the_loops(n, d, temperature, mixing, share, seed):
    rng = np.random.default_rng(seed)
    a, b, profiles = (rng.normal(size=(n, d)) for _ in range(3))
    tensors, without = (torch.from_numpy(a), torch.from_numpy(b)), left_out(rng, n, share)
    loss = info_nce(*tensors, temperature=temperature, mixing=mixing)
    expected = contrast_truth.info_nce(a, b, temperature, mixing)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-9, atol=1e-12)
    given = {"temperature": temperature, "is_left_out": torch.from_numpy(without)}
    targets = profile_targets(torch.from_numpy(profiles), **given)
    truth = contrast_truth.profile_targets(profiles, temperature, without)
    np.testing.assert_allclose(targets.numpy(), truth, rtol=2e-5, atol=1e-7)  # float32
    loss = soft_info_nce(*tensors, mixing=mixing, targets=torch.from_numpy(truth), **given)
    expected = contrast_truth.soft_info_nce(a, b, temperature, mixing, truth, without)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-9, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("mixing", [0.2, 0.5])
def test_gradients_are_those_of_the_whole_matrix_in_the_memory_of_one_chunk(mixing, monkeypatch):
    monkeypatch.setattr(contrastive, "_CHUNK_VALUES", 17 * 211)
    rng = np.random.default_rng(3)
    a, b = (torch.from_numpy(rng.normal(size=(211, 5))).requires_grad_() for _ in range(2))
    with LargestTensor() as largest:
        loss = info_nce(a, b, temperature=0.2, mixing=mixing)
        got = torch.autograd.grad(3.0 * loss, (a, b))
    assert largest.numel == 17 * 211
    logits = torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T / 0.2
    own = torch.arange(211)
    there, back = (torch.nn.functional.cross_entropy(x, own) for x in (logits, logits.T))
    for whole in (
        mixing * there + (1 - mixing) * back,
        soft_info_nce(a, b, temperature=0.2, mixing=mixing),
        soft_info_nce(a, b, temperature=0.2, mixing=mixing, targets=torch.eye(211)),
    ):
        torch.testing.assert_close(loss, whole)
        want = torch.autograd.grad(3.0 * whole, (a, b), retain_graph=True)
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_gradients_with_left_out_pairs_are_right():
    rng = np.random.default_rng(5)
    a, b = (torch.from_numpy(rng.normal(size=(7, 3))).requires_grad_() for _ in range(2))
    without = torch.from_numpy(left_out(rng, 7, 0.5))
    targets = profile_targets(torch.from_numpy(rng.normal(size=(7, 5))), temperature=0.5, is_left_out=without)
    options = {"temperature": 0.3, "mixing": 0.3, "targets": targets.double(), "is_left_out": without}
    torch.autograd.gradcheck(lambda a, b: soft_info_nce(a, b, **options), (a, b))


def test_losses_by_hand():
    a = torch.ones(11, 3)
    torch.testing.assert_close(info_nce(a, a, temperature=0.15), torch.tensor(math.log(11)))
    targets = profile_targets(torch.randn(11, 4), temperature=0.15)
    loss = soft_info_nce(a, a, temperature=0.15, targets=targets)
    torch.testing.assert_close(loss, torch.tensor(math.log(11)))
    # Rows 0 and 1 are equal: each is the other's best match, which costs nothing if the pair is left out.
    a = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]]).double()
    without = torch.zeros(3, 3, dtype=torch.bool)
    without[0, 1] = without[1, 0] = True
    far = math.exp(-1 / 0.1)  # of a row at a right angle, beside the partner
    expected = (2 * math.log(1 + far) + math.log(1 + 2 * far)) / 3
    assert soft_info_nce(a, a, temperature=0.1, is_left_out=without).item() == pytest.approx(expected)


def test_targets_by_hand():
    # Three kinds of profile at right angles, the first twice, and a spot without any expression.
    profiles = torch.tensor([[2.0, 0, 0], [5.0, 0, 0], [0, 1.0, 0], [0, 0, 3.0], [0, 0, 0]])
    e = math.exp(1 / 0.5)
    rows = [
        np.array([e, e, 1, 1, 1]) / (2 * e + 3),
        np.array([e, e, 1, 1, 1]) / (2 * e + 3),
        np.array([1, 1, e, 1, 1]) / (e + 4),
        np.array([1, 1, 1, e, 1]) / (e + 4),
        np.full(5, 0.2),
    ]
    np.testing.assert_allclose(profile_targets(profiles, temperature=0.5).numpy(), np.stack(rows), rtol=1e-6)


@pytest.mark.parametrize("loss_of", [info_nce, soft_info_nce])
def test_loss_is_float32_under_autocast_and_for_half_precision(loss_of):
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(rng.normal(size=(13, 5))).float() for _ in range(2))
    expected = loss_of(a, b, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(a, b, temperature=0.1)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert loss_of(a.bfloat16(), b.bfloat16(), temperature=0.1).dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 13), k=st.integers(1, 17), n_kinds=st.integers(1, 13), seed=st.integers(0, 2**31))
def test_recall_equals_the_loop_with_ties(n, k, n_kinds, seed):
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(n_kinds, 3)).astype(np.float32)  # few kinds: many ties
    a, b = kinds[rng.integers(0, n_kinds, n)], kinds[rng.integers(0, n_kinds, n)]
    got = recall_at_k(partner_rank(torch.as_tensor(a), torch.as_tensor(b)), k=k)
    assert got == pytest.approx(contrast_truth.recall_at_k(a.astype(float), b.astype(float), k))


def test_recall_counts_rows_beyond_the_first_chunk():
    # 4099 rows on a circle; one row in the second chunk has the wrong partner.
    angle = torch.arange(4099, dtype=torch.float64) * (2 * math.pi / 4099)
    a = torch.stack([angle.cos(), angle.sin(), torch.zeros(4099)], 1)
    b = a.clone()
    b[4097] = torch.tensor([0.0, 0.0, 1.0])
    # Neighbours on the circle differ by 1.2e-6 in cosine, more than a tie.
    assert recall_at_k(partner_rank(a, b), k=1) == pytest.approx(4098 / 4099)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 17), d=st.integers(1, 11), seed=st.integers(0, 2**31))
def test_rank_is_the_entropy_of_the_singular_values(n, d, seed):
    x = np.random.default_rng(seed).normal(size=(n, d))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    singular = np.sqrt(np.linalg.eigvalsh(unit @ unit.T if n < d else unit.T @ unit).clip(0))
    # The roots of eigenvalues carry rounding of 1e-8.
    assert effective_rank(torch.from_numpy(x)) == pytest.approx(math.exp(entropy(singular)), rel=1e-5)


def test_rank_by_hand():
    assert effective_rank(3.0 * torch.eye(7)[:5].repeat(2, 1)) == pytest.approx(5.0)
    assert effective_rank(torch.zeros(5, 3)) == 1.0
    noise = np.random.default_rng(0).normal(scale=1e-4, size=(211, 13))
    assert effective_rank(torch.from_numpy(1.0 + noise)) == pytest.approx(1.0, abs=0.02)  # collapsed
