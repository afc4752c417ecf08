import attention_truth
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.errors import ConfigError
from spam.models.networks import CrossAttention

HEADS, DIM = 3, 15


def _attention(dropout=0.0):
    torch.manual_seed(0)
    attention = CrossAttention(7, 5, DIM, HEADS, bias_dim=2, dropout=dropout).double().eval()
    with torch.no_grad():
        attention.token_norm.weight.uniform_(0.5, 2.0)
        attention.token_norm.bias.uniform_(-1.0, 1.0)
        attention.bias[2].weight.mul_(5.0)  # large enough for a wrong bias to show
    return attention


def _inputs(b, t, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mask = torch.rand(b, t, generator=generator) < 0.6
    return draw(b, 7), draw(b, t, 5), draw(b, t, 2), mask


@settings(max_examples=25, deadline=None)
@given(b=st.integers(0, 5), t=st.integers(1, 11), seed=st.integers(0, 2**31))
def test_attention_equals_the_loop(b, t, seed):
    attention, inputs = _attention(), _inputs(b, t, seed)
    state = {name: value.numpy() for name, value in attention.state_dict().items()}
    expected, weights = attention_truth.cross_attention(state, HEADS, *(v.numpy() for v in inputs))
    np.testing.assert_allclose(attention(*inputs).detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    got = attention.attention_weights(*inputs).detach().numpy()
    np.testing.assert_allclose(got, weights, rtol=1e-9, atol=1e-12)


def test_more_than_one_token_gets_weight():
    query, tokens, bias, _ = _inputs(5, 8)
    weights = _attention().attention_weights(query, tokens, bias, torch.ones(5, 8, dtype=torch.bool))
    assert ((weights > 1e-4).sum(-1) > 1).all()
    assert weights.std(-1).min() > 1e-3  # and not all the same
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, HEADS, dtype=torch.float64))


def test_a_row_without_tokens_gives_zeros_and_finite_gradients():
    attention, (query, tokens, bias, mask) = _attention(), _inputs(3, 4)
    mask[1] = False
    query.requires_grad_()
    out = attention(query, tokens, bias, mask)
    out.sum().backward()
    assert torch.equal(out[1], torch.zeros(DIM, dtype=torch.float64))
    assert torch.equal(query.grad[1], torch.zeros(7, dtype=torch.float64))
    assert all(torch.isfinite(p.grad).all() for p in attention.parameters())
    weights = attention.attention_weights(query, tokens, bias, mask)
    assert torch.equal(weights[1], torch.zeros(HEADS, 4, dtype=torch.float64))


def test_what_a_masked_token_holds_has_no_influence():
    attention, (query, tokens, bias, mask) = _attention(), _inputs(5, 6)
    mask[2] = False
    expected = attention(query, tokens, bias, mask)
    garbage = torch.tensor(float("nan"), dtype=torch.float64)
    tokens, bias = (torch.where(mask[..., None], v, garbage) for v in (tokens, bias))
    torch.testing.assert_close(attention(query, tokens, bias, mask), expected, rtol=0, atol=0)


def test_order_of_tokens_does_not_matter_and_rows_are_independent():
    attention, (query, tokens, bias, mask) = _attention(), _inputs(5, 6)
    expected = attention(query, tokens, bias, mask)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(attention(query, tokens[:, order], bias[:, order], mask[:, order]), expected)
    rows = torch.tensor([4, 2, 0])
    torch.testing.assert_close(attention(query[rows], tokens[rows], bias[rows], mask[rows]), expected[rows])


def test_every_parameter_matters():
    attention, inputs = _attention(), _inputs(5, 6)
    attention(*inputs).square().sum().backward()
    dead = [n for n, p in attention.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]
    assert not dead


def test_dropout_acts_in_training_alone():
    attention, inputs = _attention(dropout=0.5), _inputs(5, 6)
    assert torch.equal(attention(*inputs), attention(*inputs))
    attention.train()
    assert not torch.equal(attention(*inputs), attention(*inputs))


@pytest.mark.parametrize("heads", [0, 4])
def test_heads_must_divide_the_width(heads):
    with pytest.raises(ConfigError, match=rf"{heads} attention heads do not divide.*15.*--heads"):
        CrossAttention(7, 5, 15, heads, bias_dim=2, dropout=0.0)
