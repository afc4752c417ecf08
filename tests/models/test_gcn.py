import graph_truth
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from spam.errors import ConfigError
from spam.models.networks import SpatialGCN
from spam.models import closure, normalised_adjacency


def _graph(rng, n, density=0.2, n_isolated=2):
    dense = rng.random((n, n)) * (rng.random((n, n)) < density)
    dense[rng.choice(n, min(n_isolated, n), replace=False)] = 0  # no neighbours, but others may have them
    return dense


def _model(in_dim=5, hidden_dim=7, out_dim=3, dtype=torch.float64):
    torch.manual_seed(0)
    model = SpatialGCN(in_dim, hidden_dim, out_dim, dropout=0.3).to(dtype).eval()
    with torch.no_grad():  # LayerNorm starts at 1 and 0, which would hide a mistake
        model.norm.weight.uniform_(0.5, 2.0)
        model.norm.bias.uniform_(-1.0, 1.0)
    return model


def _state(model):
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def test_adjacency_is_the_row_mean_without_self():
    rng = np.random.default_rng(0)
    dense = _graph(rng, 17) + np.diag(rng.random(17))
    adjacency = normalised_adjacency(sparse.csr_array(dense))
    assert adjacency.dtype == torch.float32
    assert adjacency.layout == torch.sparse_csr
    expected = graph_truth.mean_matrix(dense)
    np.testing.assert_allclose(adjacency.to_dense().numpy(), expected, rtol=1e-6, atol=1e-8)
    assert (expected.sum(1) == 0).sum() >= 2


def test_forward_equals_the_dense_formula():
    rng = np.random.default_rng(1)
    dense, x = _graph(rng, 23) + np.eye(23), rng.normal(size=(23, 5))
    model = _model()
    got = model(torch.as_tensor(x), normalised_adjacency(sparse.csr_matrix(dense)))
    # The weights are float32.
    np.testing.assert_allclose(
        got.detach().numpy(), graph_truth.gcn(x, dense, _state(model)), rtol=1e-5, atol=1e-5
    )


def test_gradients_equal_those_of_dense_matrices():
    rng = np.random.default_rng(2)
    adjacency = normalised_adjacency(sparse.csr_array(_graph(rng, 13)))
    x = torch.as_tensor(rng.normal(size=(13, 5))).requires_grad_()
    model = _model()
    model(x, adjacency).square().sum().backward()
    got = [x.grad.clone(), *(p.grad.clone() for p in model.parameters())]
    x.grad = None
    model.zero_grad()
    a = adjacency.to_dense().double()
    h = torch.relu(model.norm(a @ (x @ model.first.weight.T) + model.first.bias))
    (a @ (h @ model.second.weight.T) + model.second.bias).square().sum().backward()
    for ours, parameter in zip(got, [x, *model.parameters()], strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 29), t=st.integers(0, 11), density=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_closure_gives_the_same_rows_as_the_whole_graph(n, t, density, seed):
    rng = np.random.default_rng(seed)
    weights = sparse.csr_array(_graph(rng, n, density))
    nodes = rng.integers(0, n, t)  # unsorted, may repeat
    x = torch.as_tensor(rng.normal(size=(n, 5)))
    model = _model()
    blocks = closure(weights, nodes)
    graph = blocks.gather(x)
    got = model.forward_blocks(graph.x_inputs, graph.adj1, graph.adj2)
    whole = model(x, normalised_adjacency(weights))
    torch.testing.assert_close(got, whole[nodes], rtol=1e-12, atol=1e-12)
    assert len(blocks.inputs) <= n
    assert blocks.adj2.shape[0] == t


def test_closure_takes_no_more_than_two_hops():
    # A chain 0 -> 1 -> 2 -> 3 -> 4: the token of 0 reads the features of 2 alone.
    chain = sparse.csr_array(np.eye(5, k=1))
    blocks = closure(chain, np.array([0]))
    assert blocks.inputs.tolist() == [2]
    moved = blocks.to("cpu")
    assert moved.inputs.tolist() == [2]
    assert moved.adj1.to_dense().tolist() == moved.adj2.to_dense().tolist() == [[1.0]]


def test_a_spots_own_features_enter_only_through_the_way_back():
    chain = sparse.csr_array(np.eye(5, k=1))
    x = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    _model()(x, normalised_adjacency(chain))[0].sum().backward()
    touched = x.grad.abs().sum(1) > 0
    assert touched.tolist() == [False, False, True, False, False]


def test_an_isolated_spot_gets_a_token_of_the_weights_alone():
    model = _model()
    graph = sparse.csr_array((3, 3))
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    token = model(x, normalised_adjacency(graph))
    torch.testing.assert_close(token, model.second.bias.expand(3, 3))


def test_renaming_spots_renames_tokens():
    rng = np.random.default_rng(3)
    dense, x = _graph(rng, 19), rng.normal(size=(19, 5))
    order = rng.permutation(19)
    model = _model()
    token = model(torch.as_tensor(x), normalised_adjacency(sparse.csr_array(dense)))
    permuted = model(
        torch.as_tensor(x[order]), normalised_adjacency(sparse.csr_array(dense[np.ix_(order, order)]))
    )
    torch.testing.assert_close(permuted, token[order], rtol=1e-6, atol=1e-6)


def test_autocast_does_not_reach_the_aggregation():
    rng = np.random.default_rng(4)
    adjacency = normalised_adjacency(sparse.csr_array(_graph(rng, 17)))
    x = torch.as_tensor(rng.normal(size=(17, 5)), dtype=torch.float32)
    model = _model(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(x, adjacency)
        got.float().square().sum().backward()
    torch.testing.assert_close(got.float(), model(x, adjacency), rtol=0.05, atol=0.05)  # bf16 keeps 8 bits
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_dropout_acts_in_training_alone():
    rng = np.random.default_rng(5)
    adjacency = normalised_adjacency(sparse.csr_array(_graph(rng, 17)))
    x = torch.as_tensor(rng.normal(size=(17, 5)))
    model = _model()
    torch.testing.assert_close(model(x, adjacency), model(x, adjacency), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(x, adjacency), model(x, adjacency))


@pytest.mark.parametrize("make", [normalised_adjacency, lambda weights: closure(weights, np.array([0]))])
@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_weights_must_be_weights(make, bad):
    dense = np.eye(3, k=1)
    dense[0, 2] = bad
    with pytest.raises(ConfigError, match=r"square matrix of finite weights >= 0.*1 other weights.*spam"):
        make(sparse.csr_array(dense))


def test_a_graph_must_be_square():
    with pytest.raises(ConfigError, match=r"square matrix.*\(3, 2\)"):
        normalised_adjacency(sparse.csr_array((3, 2)))
