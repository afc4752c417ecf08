import attention_truth
import graph_truth
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch import nn

from spam.errors import ConfigError
from spam.models.networks import (
    ConcatProj,
    CrossAttention,
    GatedSum,
    GeneEncoder,
    ImageProjector,
    SpatialGCN,
    Surroundings,
    closure,
)


def test_image_projector_by_its_formula():
    torch.manual_seed(0)
    projector = ImageProjector(7, 5, dropout=0.4).eval()
    x = torch.randn(11, 7)
    state = projector.state_dict()
    p = x @ state["project.weight"].T + state["project.bias"]
    gelu = 0.5 * p * (1 + torch.erf(p / 2**0.5))
    z = p + gelu @ state["refine.2.weight"].T + state["refine.2.bias"]
    expected = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(projector(x), expected, rtol=1e-4, atol=1e-5)


def test_gene_encoder_is_self_normalising():
    # The fixed point of Klambauer et al., theorem 1, dropout included: mean and variance of the input are kept.
    torch.manual_seed(0)
    encoder = GeneEncoder(401, 307, dropout=0.1)
    layers = [layer for layer in encoder.layers if isinstance(layer, nn.Linear)]
    assert [layer.in_features for layer in layers] == [401, 614, 614]
    for layer in layers:
        assert not layer.bias.any()
        np.testing.assert_allclose(layer.weight.std().item(), layer.in_features**-0.5, rtol=0.02)
    hidden = encoder.layers[:-1](torch.randn(997, 401))
    assert abs(hidden.mean().item()) < 0.05
    assert abs(hidden.std().item() - 1) < 0.1
    x = torch.randn(3, 11, 401)
    torch.testing.assert_close(encoder.eval()(x)[1, 7], encoder(x[1, 7]))


def graph(rng, n, density=0.2, n_isolated=2):
    dense = rng.random((n, n)) * (rng.random((n, n)) < density)
    dense[rng.choice(n, min(n_isolated, n), replace=False)] = 0  # no neighbours, but others may have them
    return dense


def gcn_model(dtype=torch.float64):
    torch.manual_seed(0)
    model = SpatialGCN(5, 7, 3, dropout=0.3).to(dtype).eval()
    with torch.no_grad():  # LayerNorm starts at 1 and 0, which would hide a mistake
        model.norm.weight.uniform_(0.5, 2.0)
        model.norm.bias.uniform_(-1.0, 1.0)
    return model


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 29), t=st.integers(0, 11), density=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_tokens_of_a_closure_equal_the_dense_formula(n, t, density, seed):
    rng = np.random.default_rng(seed)
    dense = graph(rng, n, density) + np.diag(rng.random(n))  # self loops do not count
    nodes, x = rng.integers(0, n, t), rng.normal(size=(n, 5))  # unsorted, may repeat
    model = gcn_model()
    got = model(closure(sparse.csr_array(dense), nodes).gather(torch.as_tensor(x)))
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    expected = graph_truth.gcn(x, dense, state)[nodes]
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-4, atol=1e-4)  # weights are float32


@given(n=st.integers(1, 23), t=st.integers(1, 29), density=st.floats(0, 1), seed=st.integers(0, 999))
def test_tokens_of_averaged_inputs_equal_those_of_the_closure(n, t, density, seed):
    rng = np.random.default_rng(seed)
    weights = sparse.csr_array(rng.random((n, n)) * (rng.random((n, n)) < density))
    x = torch.as_tensor(rng.normal(size=(n, 5)), dtype=torch.float32)
    nodes = rng.integers(0, n, t)
    torch.manual_seed(seed)
    model = SpatialGCN(5, 7, 3, dropout=0.0)
    expected = model(closure(weights, nodes).gather(x))
    torch.testing.assert_close(model(Surroundings(weights, x).of(nodes)), expected)


def test_closure_takes_no_more_than_two_hops_and_skips_the_spot_itself():
    # A chain 0 -> 1 -> 2 -> 3 -> 4: the token of 0 reads the inputs of 2 alone; that of 4, which has no neighbour, none.
    chain = sparse.csr_array(np.eye(5, k=1))
    assert closure(chain, np.array([0])).inputs.tolist() == [2]
    x = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model = gcn_model()
    model(closure(chain, np.array([0])).gather(x)).sum().backward()
    assert (x.grad.abs().sum(1) > 0).tolist() == [False, False, True, False, False]
    torch.testing.assert_close(model(closure(chain, np.array([4])).gather(x))[0], model.second.bias)


def test_gradients_of_the_graph_network_equal_those_of_dense_matrices():
    rng = np.random.default_rng(2)
    dense = graph(rng, 13)
    x = torch.as_tensor(rng.normal(size=(13, 5))).requires_grad_()
    model = gcn_model()
    model(closure(sparse.csr_array(dense), np.arange(13)).gather(x)).square().sum().backward()
    got = [x.grad.clone(), *(p.grad.clone() for p in model.parameters())]
    x.grad = None
    model.zero_grad()
    a = torch.as_tensor(graph_truth.mean_matrix(dense)).float().double()
    h = torch.relu(model.norm(a @ (x @ model.first.weight.T) + model.first.bias))
    (a @ (h @ model.second.weight.T) + model.second.bias).square().sum().backward()
    for ours, parameter in zip(got, [x, *model.parameters()], strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-7, atol=1e-7)


def test_autocast_does_not_reach_the_aggregation():
    rng = np.random.default_rng(4)
    x = torch.as_tensor(rng.normal(size=(17, 5)), dtype=torch.float32)
    inputs = closure(sparse.csr_array(graph(rng, 17)), np.arange(17)).gather(x)
    model = gcn_model(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(inputs)
        got.float().square().sum().backward()
    torch.testing.assert_close(got.float(), model(inputs), rtol=0.05, atol=0.05)  # bf16 keeps 8 bits
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


HEADS, DIM = 3, 15


def attention_of(dropout=0.0):
    torch.manual_seed(0)
    attention = CrossAttention(7, 5, DIM, HEADS, bias_dim=2, dropout=dropout).double().eval()
    with torch.no_grad():
        attention.token_norm.weight.uniform_(0.5, 2.0)
        attention.token_norm.bias.uniform_(-1.0, 1.0)
        attention.bias[2].weight.mul_(5.0)  # large enough for a wrong bias to show
    return attention


def tokens_of(b, t, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mask = torch.rand(b, t, generator=generator) < 0.6
    return draw(b, 7), draw(b, t, 5), draw(b, t, 2), mask


@settings(max_examples=25, deadline=None)
@given(b=st.integers(0, 5), t=st.integers(1, 11), seed=st.integers(0, 2**31))
def test_attention_equals_the_loop(b, t, seed):
    attention, inputs = attention_of(), tokens_of(b, t, seed)
    state = {name: value.numpy() for name, value in attention.state_dict().items()}
    expected, _ = attention_truth.cross_attention(state, HEADS, *(v.numpy() for v in inputs))
    np.testing.assert_allclose(attention(*inputs).detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_masked_tokens_have_no_influence_and_a_row_without_tokens_gives_zeros():
    attention, (query, tokens, bias, mask) = attention_of(), tokens_of(5, 6)
    mask[2] = False
    expected = attention(query, tokens, bias, mask)
    assert torch.equal(expected[2], torch.zeros(DIM, dtype=torch.float64))
    garbage = torch.tensor(float("nan"), dtype=torch.float64)
    tokens, bias = (torch.where(mask[..., None], v, garbage) for v in (tokens, bias))
    query.requires_grad_()
    out = attention(query, tokens, bias, mask)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    out.square().sum().backward()
    assert torch.equal(query.grad[2], torch.zeros(7, dtype=torch.float64))
    gradients = [p.grad for p in attention.parameters()]
    assert all(torch.isfinite(g).all() and g.abs().max() > 1e-9 for g in gradients)


@pytest.mark.parametrize("heads", [0, 4])
def test_heads_must_divide_the_width(heads):
    with pytest.raises(ConfigError, match=rf"{heads} .*15 .*--heads"):
        CrossAttention(7, 5, 15, heads, bias_dim=2, dropout=0.0)


def test_merges_by_their_formulas():
    torch.manual_seed(0)
    gated, parts = GatedSum(5, n_parts=3), torch.randn(7, 3, 5)
    gates = nn.functional.linear(parts.reshape(7, 15), gated.gate.weight, gated.gate.bias).exp()
    expected = sum(gates[:, i, None] / gates.sum(1, keepdim=True) * parts[:, i] for i in range(3))
    torch.testing.assert_close(gated(parts), expected)
    concat = ConcatProj(5, n_parts=3)
    w = concat.project.weight
    expected = sum(parts[:, i] @ w[:, 5 * i : 5 * i + 5].T for i in range(3)) + concat.project.bias
    torch.testing.assert_close(concat(parts), expected)


DRAWN = torch.Generator().manual_seed(0)  # the global one depends on which tests ran before


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda d: ImageProjector(7, 5, dropout=d), (torch.randn(11, 7, generator=DRAWN),)),
        (lambda d: GeneEncoder(7, 5, dropout=d), (torch.randn(11, 7, generator=DRAWN),)),
        (
            lambda d: SpatialGCN(5, 7, 3, dropout=d),
            (
                closure(sparse.csr_array(np.eye(5, k=1)), np.arange(3)).gather(
                    torch.randn(5, 5, generator=DRAWN)
                ),
            ),
        ),
        (lambda d: attention_of(d).train(), tokens_of(5, 6)),
    ],
)
def test_dropout_acts_in_training_alone(make, inputs):
    torch.manual_seed(0)
    model = make(0.5)
    assert not torch.equal(model(*inputs), model(*inputs))
    model.eval()
    assert torch.equal(model(*inputs), model(*inputs))
