import numpy as np
import pytest
import torch
from scipy import sparse

from spam.errors import ConfigError
from spam.models import AlignmentModel, closure, normalised_adjacency
from spam.models.fusion import FusionModel
from spam.models.contrastive import info_nce

MODES = ("joint", "img-gene", "img-coord")
SPOTS = np.array([11, 2, 7, 3, 5])


def _setting(mode, dropout=0.0):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = AlignmentModel(image_dim=13, n_genes=17, proj_dim=7, mode=mode, dropout=dropout)
    weights = sparse.random_array((19, 19), density=0.3, format="csr", rng=rng)
    features, expression = torch.randn(19, 13), torch.randn(5, 17)
    graph = None if mode == "img-gene" else closure(weights, SPOTS).gather(features)
    return model, features, weights, None if mode == "img-coord" else expression, graph


@pytest.mark.parametrize("mode", MODES)
def test_embeddings_are_those_of_the_parts(mode):
    model, features, weights, expression, graph = _setting(mode)
    out = model(features[SPOTS], expression, graph)
    torch.testing.assert_close(out.image, model.image_projector(features[SPOTS]))
    if expression is None:
        assert out.gene is None
        assert model.gene_encoder is None
    else:
        torch.testing.assert_close(out.gene, model.gene_encoder(expression))
    if graph is None:
        assert out.coord is None
        assert model.gcn is None
    else:
        torch.testing.assert_close(out.coord, model.gcn(features, normalised_adjacency(weights))[SPOTS])


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_reaches_every_parameter(mode):
    model, features, _, expression, graph = _setting(mode)
    out = model(features[SPOTS], expression, graph)
    others = [embedding for embedding in (out.gene, out.coord) if embedding is not None]
    sum(info_nce(out.image, other, temperature=0.15) for other in others).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]


def test_a_spots_expression_does_not_touch_image_or_coord():
    model, features, _, expression, graph = _setting("joint")
    before = model(features[SPOTS], expression, graph)
    after = model(features[SPOTS], expression.flip(0) * 3, graph)
    assert torch.equal(before.image, after.image)
    assert torch.equal(before.coord, after.coord)
    assert not torch.equal(before.gene, after.gene)


@pytest.mark.parametrize("mode", MODES)
def test_weights_carry_over_to_the_fusion_model_by_name(mode):
    model = _setting(mode)[0]
    fusion = FusionModel(
        image_dim=13,
        n_genes=17,
        proj_dim=7,
        fuse_dim=6,
        heads=2,
        merge="gated-sum",
        dropout=0.0,
        likelihood="nb",
    )
    theirs = {name: value.shape for name, value in fusion.state_dict().items()}
    ours = {name: value.shape for name, value in model.state_dict().items()}
    assert ours.items() <= theirs.items()


def test_inputs_must_fit_the_mode():
    model, features, _, expression, graph = _setting("joint")
    with pytest.raises(ConfigError, match=r"--mode: expression missing, graph missing"):
        model(features[SPOTS], None, None)
    model = _setting("img-gene")[0]
    with pytest.raises(ConfigError, match=r"--mode: graph given;.*img-gene expression alone"):
        model(features[SPOTS], expression, graph)


@pytest.mark.usefixtures("unchecked_types")
def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match=r"mode 'both' is unknown; --mode is joint, img-gene or img-coord"):
        AlignmentModel(image_dim=3, n_genes=3, proj_dim=3, mode="both", dropout=0.0)
