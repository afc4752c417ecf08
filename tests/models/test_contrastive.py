import math

import contrast_truth
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from spam.errors import ConfigError
from spam.models.contrastive import info_nce, recall_at_k
from spam.models.contrastive import partner_rank


def _pair(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, d, generator=generator, dtype=dtype).requires_grad_() for _ in range(2))


def _full_logits(a, b, temperature, mixing):
    """The loss by torch's own cross-entropy on the whole matrix."""
    logits = torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T / temperature
    own = torch.arange(len(a))
    there = torch.nn.functional.cross_entropy(logits, own)
    return mixing * there + (1 - mixing) * torch.nn.functional.cross_entropy(logits.T, own)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 13),
    d=st.integers(1, 7),
    chunk_rows=st.integers(1, 17),
    temperature=st.sampled_from([0.05, 0.15, 1.0]),
    mixing=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_loss_equals_the_loop_and_gradients_those_of_the_whole_matrix(
    n, d, chunk_rows, temperature, mixing, seed
):
    a, b = _pair(n, d, seed)
    loss = info_nce(a, b, temperature=temperature, mixing=mixing, chunk_rows=chunk_rows)
    expected = contrast_truth.info_nce(a.detach().numpy(), b.detach().numpy(), temperature, mixing)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-9, atol=1e-12)
    got = torch.autograd.grad(3.0 * loss, (a, b))
    want = torch.autograd.grad(3.0 * _full_logits(a, b, temperature, mixing), (a, b))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_equal_embeddings_give_ln_batch():
    a = torch.ones(11, 3)
    torch.testing.assert_close(info_nce(a, a, temperature=0.15), torch.tensor(math.log(11)))


def test_loss_is_symmetric_where_mixing_is_a_half_and_blind_to_length_and_order():
    a, b = _pair(13, 5)
    loss = info_nce(a, b, temperature=0.2)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    for other in (
        info_nce(b, a, temperature=0.2),
        info_nce(3.0 * a, 0.1 * b, temperature=0.2),
        info_nce(a[order], b[order], temperature=0.2),
    ):
        torch.testing.assert_close(other, loss)
    assert info_nce(a, b, temperature=0.2, mixing=1.0) != info_nce(b, a, temperature=0.2, mixing=1.0)


def test_loss_is_float32_under_autocast_and_for_half_precision():
    a, b = _pair(13, 5, dtype=torch.float32)
    expected = info_nce(a, b, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(a, b, temperature=0.1)
        gradient = torch.autograd.grad(loss, a)[0]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, a)[0], rtol=0, atol=0)
    half = info_nce(a.bfloat16(), b.bfloat16(), temperature=0.1)
    assert half.dtype == torch.float32


class _LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_memory_is_that_of_one_chunk():
    a, b = _pair(211, 3, dtype=torch.float32)
    with _LargestTensor() as largest:
        info_nce(a, b, temperature=0.1, chunk_rows=17).backward()
    assert largest.numel == 17 * 211


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 0.0}, r"temperature=0.0.*positive \(--temperature\)"),
        ({"mixing": 1.5}, r"mixing=1.5.*in \[0, 1\] \(--mixing\)"),
        ({"chunk_rows": 0}, r"chunk_rows=0.*at least 1"),
        ({"temperature": -1.0, "mixing": -1.0}, r"temperature=-1.0.*mixing=-1.0"),
    ],
)
def test_settings_outside_their_range_are_refused(change, words):
    a, b = _pair(3, 2)
    with pytest.raises(ConfigError, match=words):
        info_nce(a, b, **{"temperature": 0.1, **change})


@pytest.mark.parametrize("n", [0, 1])
def test_a_batch_without_another_row_is_refused(n):
    a, b = _pair(n, 2)
    with pytest.raises(ConfigError, match=rf"{n} row\(s\), but a contrast needs at least 2 \(--batch-size\)"):
        info_nce(a, b, temperature=0.1)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 13), k=st.integers(1, 17), n_kinds=st.integers(1, 13), seed=st.integers(0, 2**31))
def test_recall_equals_the_loop_with_ties(n, k, n_kinds, seed):
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(n_kinds, 3)).astype(np.float32)  # few kinds: many ties
    a, b = kinds[rng.integers(0, n_kinds, n)], kinds[rng.integers(0, n_kinds, n)]
    got = recall_at_k(partner_rank(torch.as_tensor(a), torch.as_tensor(b)), k=k)
    assert got == pytest.approx(contrast_truth.recall_at_k(a.astype(float), b.astype(float), k))


def test_recall_by_hand():
    eye = torch.eye(5)
    torch.testing.assert_close(partner_rank(eye, eye), torch.ones(5, dtype=torch.int64))
    torch.testing.assert_close(partner_rank(eye, eye.roll(1, 0)), torch.full((5,), 5))
    # All tie: the partner comes last.
    torch.testing.assert_close(partner_rank(torch.ones(5, 2), torch.ones(5, 2)), torch.full((5,), 5))
    ranks = torch.tensor([1, 2, 2, 5, 7])
    assert [recall_at_k(ranks, k=k) for k in (1, 2, 4, 5, 11)] == [0.2, 0.6, 0.6, 0.8, 1.0]


def test_recall_counts_rows_beyond_the_first_chunk():
    # 4099 rows on a circle; one row in the second chunk has the wrong partner.
    angle = torch.arange(4099, dtype=torch.float64) * (2 * math.pi / 4099)
    a = torch.stack([angle.cos(), angle.sin(), torch.zeros(4099)], 1)
    b = a.clone()
    b[4097] = torch.tensor([0.0, 0.0, 1.0])
    # Neighbours on the circle differ by 1.2e-6 in cosine, more than a tie.
    assert recall_at_k(partner_rank(a, b), k=1) == pytest.approx(4098 / 4099)


def test_recall_refuses_what_has_no_partner():
    with pytest.raises(ConfigError, match=r"k >= 1.*k=0 with 2 rows"):
        recall_at_k(torch.ones(2, dtype=torch.int64), k=0)
    with pytest.raises(ConfigError, match=r"at least one row.*with 0 rows"):
        recall_at_k(torch.ones(0, dtype=torch.int64), k=1)
    with pytest.raises(ConfigError, match=r"non-empty.*\(0, 2\).*the same spots"):
        partner_rank(torch.ones(0, 2), torch.ones(0, 2))


@pytest.mark.usefixtures("unchecked_types")
def test_ranks_refuse_sets_of_different_size():
    with pytest.raises(ConfigError, match=r"\(2, 2\) and \(3, 2\)"):
        partner_rank(torch.ones(2, 2), torch.ones(3, 2))
