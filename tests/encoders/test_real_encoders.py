"""The real small encoders: the same features by two ways, and photographs that a classifier recognises."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import skimage.data
import torch
from PIL import Image

from spam.encoders import build_encoder, encoder_card

CPU = torch.device("cpu")
# ImageNet-1k's own numbers of the classes.
ESPRESSO, TABBY, TIGER_CAT, EGYPTIAN_CAT = 967, 281, 282, 285


def photograph(name: str, px: int) -> np.ndarray:
    """Read a sample photograph of scikit-image, cut its central square and resample it."""
    image = Image.fromarray(getattr(skimage.data, name)())
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((px, px), Image.Resampling.BICUBIC))


def probabilities(features: np.ndarray, folder: Path) -> np.ndarray:
    """Apply the classifier, which the encoder itself has dropped."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    logits = torch.from_numpy(features) @ weights["classifier.weight"].T + weights["classifier.bias"]
    return logits.softmax(dim=1).numpy()


def test_package_and_folder_give_the_same_features(encoder_folders: Path) -> None:
    packaged = build_encoder(encoder_card("efficientnet_lite0"), device=CPU)
    folder = build_encoder(encoder_card(f"local:{encoder_folders / 'tf_efficientnet_lite0'}"), device=CPU)
    tiles = np.random.default_rng(0).integers(0, 256, size=(3, 224, 224, 3), dtype=np.uint8)
    assert packaged.weights_sha256 == folder.weights_sha256
    features = packaged.embed(tiles)
    assert features.shape == (3, 1280)
    np.testing.assert_array_equal(features, folder.embed(tiles))


def test_stages_of_a_folder_are_those_of_the_default_encoder(encoder_folders: Path) -> None:
    default = build_encoder(encoder_card("efficientnet_lite0_stages"), device=CPU)
    card = encoder_card(f"local:{encoder_folders / 'tf_efficientnet_lite0'}+stages")
    assert (card.name, card.dim, card.pooling) == ("local:tf_efficientnet_lite0+stages", 1024, "stages")
    tiles = np.random.default_rng(0).integers(0, 256, size=(3, 224, 224, 3), dtype=np.uint8)
    np.testing.assert_array_equal(build_encoder(card, device=CPU).embed(tiles), default.embed(tiles))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_photographs_are_recognised(encoder_folders: Path, name: str) -> None:
    folder = encoder_folders / name
    card = encoder_card(f"local:{folder}")
    assert card.input_px == {"tf_efficientnet_lite0": 224, "tf_efficientnet_lite2": 260}[name]
    tiles = np.stack([photograph(photo, card.input_px) for photo in ("coffee", "chelsea")])
    found = probabilities(build_encoder(card, device=CPU).embed(tiles), folder)
    coffee, cat = found.argmax(axis=1)
    assert coffee == ESPRESSO
    assert cat in (TABBY, TIGER_CAT, EGYPTIAN_CAT)
    assert found[0, ESPRESSO] > 0.5
