import numpy as np
import pytest
import torch
from torch import nn

from spam.models.networks import GeneEncoder
from spam.models import ImageProjector


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


def test_gene_encoder_keeps_mean_and_variance_of_standardised_input():
    # The fixed point of self-normalising networks (Klambauer et al., theorem 1), dropout included.
    torch.manual_seed(0)
    encoder = GeneEncoder(401, 307, dropout=0.1)
    hidden = encoder.layers[:-1](torch.randn(997, 401))
    assert abs(hidden.mean().item()) < 0.05
    assert abs(hidden.std().item() - 1) < 0.1


def test_gene_encoder_starts_lecun_normal_with_zero_biases():
    torch.manual_seed(0)
    encoder = GeneEncoder(401, 307, dropout=0.1)
    layers = [layer for layer in encoder.layers if isinstance(layer, nn.Linear)]
    assert [layer.in_features for layer in layers] == [401, 614, 614]
    for layer in layers:
        assert not layer.bias.any()
        # A standard deviation over 1e5 draws is within 1 % of the true one.
        np.testing.assert_allclose(layer.weight.std().item(), layer.in_features**-0.5, rtol=0.02)


def test_gene_encoder_keeps_leading_axes():
    torch.manual_seed(0)
    encoder = GeneEncoder(13, 5, dropout=0.2).eval()
    x = torch.randn(3, 11, 13)
    expected = torch.stack([torch.stack([encoder(profile[None])[0] for profile in rows]) for rows in x])
    torch.testing.assert_close(encoder(x), expected)
    assert encoder(x[:0]).shape == (0, 11, 5)


@pytest.mark.parametrize(
    "make", [lambda d: ImageProjector(7, 5, dropout=d), lambda d: GeneEncoder(7, 5, dropout=d)]
)
def test_dropout_acts_in_training_alone(make):
    torch.manual_seed(0)
    x = torch.randn(11, 7)
    model = make(0.5)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    still = make(0.0)
    assert torch.equal(still(x), still(x))
