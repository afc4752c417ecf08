"""Parts of SPAM against what users would pick instead, as ratios within one run: medians of five rounds in turns.

``pytest benchmarks/test_components.py --benchmark-enable -n 0 -s`` takes some minutes on two cores. The peers are not among the
test packages: ``pip install squidpy torch_geometric scvi-tools scikit-learn``. Without ``--benchmark-enable`` the same code runs
once on small sizes, and compares the results with those of the peers that are installed.
"""

import subprocess
import sys
import textwrap
from collections.abc import Callable

import numpy as np
import pytest
import torch
from medians import medians
from scipy import sparse

from spam.graphs import spatial_knn_graph
from spam.models.count_likelihood import count_log_prob
from spam.models.networks import SpatialGCN, closure


@pytest.fixture(scope="module")
def is_timed(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--benchmark-enable"))


def compare(what: str, runs: dict[str, Callable[[], object]], *, is_timed: bool) -> None:
    """Print seconds and ratios to the first run, which is SPAM's."""
    found = medians(runs, rounds=5 if is_timed else 1)
    ours = next(iter(found.values()))
    told = (f"{name} {seconds:.3f} s ({seconds / ours:.1f})" for name, seconds in found.items())
    print(f"{what}: {', '.join(told)}", file=sys.stderr)


def edges_of(graph: sparse.csr_matrix) -> np.ndarray:
    """Sorted distances of each row; ties may be ordered in another way."""
    return np.sort(graph.data.reshape(graph.shape[0], -1), axis=1)


@pytest.mark.parametrize("peer", ["sklearn.neighbors", "squidpy"])
def test_spatial_graph(peer: str, is_timed: bool) -> None:
    library = pytest.importorskip(
        peer, reason=f"pip install {peer.split('.')[0].replace('sklearn', 'scikit-learn')}"
    )
    n, k = (500_000, 12) if is_timed else (997, 12)
    xy = np.random.default_rng(0).random((n, 2)) * n**0.5

    def theirs() -> sparse.csr_matrix:
        if peer == "squidpy":
            anndata = pytest.importorskip("anndata")
            adata = anndata.AnnData(obs={"cell": np.arange(n)}, obsm={"spatial": xy})
            library.gr.spatial_neighbors_knn(adata, n_neighs=k)
            return adata.obsp["spatial_distances"]
        tree = library.NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(xy)
        return tree.kneighbors_graph(mode="distance")

    ours = spatial_knn_graph(xy, k=k).distances
    np.testing.assert_allclose(edges_of(sparse.csr_matrix(ours)), edges_of(theirs()), rtol=1e-6)
    compare(
        f"spatial graph, {n} spots",
        {"SPAM": lambda: spatial_knn_graph(xy, k=k), peer: theirs},
        is_timed=is_timed,
    )


def test_graph_convolution(is_timed: bool) -> None:
    """Two layers, forward and backward, on the whole graph, with the same weights."""
    pyg = pytest.importorskip("torch_geometric.nn", reason="pip install torch_geometric")
    n, dim = (50_000, 256) if is_timed else (211, 13)
    rng = np.random.default_rng(0)
    graph = spatial_knn_graph(rng.random((n, 2)), k=12).connectivities
    gcn = SpatialGCN(dim, dim, dim, dropout=0.0)
    layers = [pyg.GCNConv(dim, dim, normalize=False, add_self_loops=False) for _ in range(2)]
    for conv, layer in zip(layers, (gcn.first, gcn.second), strict=True):
        conv.lin.weight.data, conv.bias.data = layer.weight.data, layer.bias.data
    x = torch.from_numpy(rng.standard_normal((n, dim)).astype(np.float32))
    blocks = closure(graph, np.arange(n))
    rows = sparse.csr_matrix(graph)
    shares = (rows.multiply(1 / rows.sum(axis=1))).tocoo()
    edges = torch.from_numpy(np.stack([shares.col, shares.row]).astype(np.int64))
    values = torch.from_numpy(shares.data.astype(np.float32))

    def ours() -> torch.Tensor:
        out = gcn(blocks.gather(x))
        out.square().mean().backward()
        return out

    def theirs() -> torch.Tensor:
        hidden = torch.relu(gcn.norm(layers[0](x, edges, values)))
        out = layers[1](hidden, edges, values)
        out.square().mean().backward()
        return out

    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-5)
    compare(f"GCN, {n} x {dim}", {"SPAM": ours, "PyG, edge_index": theirs}, is_timed=is_timed)


def test_zinb(is_timed: bool) -> None:
    """Log-likelihood, forward and backward; nine in ten counts are zero, as in a panel of cells."""
    scvi = pytest.importorskip("scvi.distributions._negative_binomial", reason="pip install scvi-tools")
    shape = (4096, 2000) if is_timed else (7, 11)
    generator = torch.Generator().manual_seed(0)
    mu = torch.rand(shape, generator=generator) * 0.2 + 0.01
    counts = torch.poisson(mu, generator=generator)
    given = [torch.randn(shape, generator=generator) * 0.1 for _ in range(3)]

    def ours() -> torch.Tensor:
        log_mu, log_theta, logits = (value.clone().requires_grad_() for value in given)
        out = count_log_prob(counts, log_mu=log_mu + mu.log(), log_theta=log_theta, zi_logits=logits)
        out.sum().backward()
        return out

    def theirs() -> torch.Tensor:
        log_mu, log_theta, logits = (value.clone().requires_grad_() for value in given)
        out = scvi.log_zinb_positive(counts, (log_mu + mu.log()).exp(), log_theta.exp(), logits)
        out.sum().backward()
        return out

    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)
    compare(f"ZINB, {shape[0]} x {shape[1]}", {"SPAM": ours, "scvi-tools": theirs}, is_timed=is_timed)


_NCE = """
    import sys, torch
    from spam.hardware import measured
    from spam.models.contrastive import info_nce
    torch.set_num_threads(2)
    n, kind = int(sys.argv[1]), sys.argv[2]
    a, b = (torch.randn(n, 128, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in (0, 1))
    def full(a, b):
        logits = torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T / 0.15
        own = torch.arange(n)
        return (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2
    with measured(torch.device("cpu")) as before:
        pass
    with measured(torch.device("cpu")) as usage:
        loss = info_nce(a, b, temperature=0.15) if kind == "ours" else full(a, b)
        loss.backward()
    print(float(loss.detach()), usage.seconds, (usage.memory_bytes - before.memory_bytes) / 1e6)
"""


def test_info_nce(is_timed: bool) -> None:
    """Time and memory of the loss and its gradient, each in a new process."""
    for n, kinds in (
        ((8192, ("ours", "full")), (32_768, ("ours",))) if is_timed else ((67, ("ours", "full")),)
    ):
        losses = {}
        for kind in kinds:
            command = [sys.executable, "-P", "-c", textwrap.dedent(_NCE), str(n), kind]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            losses[kind], seconds, megabytes = map(float, done.stdout.split())
            print(f"InfoNCE, {n}, {kind}: {seconds:.2f} s, {megabytes:.0f} MB", file=sys.stderr)
        assert losses["ours"] == pytest.approx(losses[kinds[-1]], rel=1e-5)


def test_start_up(is_timed: bool) -> None:
    """What a user waits for before anything is computed, beside the imports that a run needs."""

    def start(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-P", *words], check=True, capture_output=True)

    runs = {
        "spam --help": start("-m", "spam.cli", "--help"),
        "python -c pass": start("-c", "pass"),
        "import torch, timm": start("-c", "import torch, timm"),
    }
    compare("start-up", runs if is_timed else {"python -c pass": runs["python -c pass"]}, is_timed=is_timed)
