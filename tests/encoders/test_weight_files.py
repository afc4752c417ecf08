"""Files of weights: every kind that is read, and what is said of those that are not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from spam.encoders import build_encoder, encoder_card
from spam.encoders.published_weights import read_weights
from spam.errors import EncoderError

CPU = torch.device("cpu")


class Trap:
    """Runs when an unguarded reader meets it."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('the trap has sprung')",))


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "a": torch.randn(3, 5, generator=generator),
        "b.weight": torch.randn(7, generator=generator).to(torch.bfloat16),
        "b.count": torch.tensor(11),
    }


def assert_same(found: dict[str, Any], expected: dict[str, torch.Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("ending", ["bin", "pth", "pt"])
@pytest.mark.parametrize("is_archive", [True, False])
def test_pickles_are_read_in_both_forms(
    tmp_path: Path, weights: dict[str, torch.Tensor], ending: str, is_archive: bool
) -> None:
    file = tmp_path / f"weights.{ending}"
    torch.save(weights, file, _use_new_zipfile_serialization=is_archive)
    assert_same(read_weights(file, encoder="x"), weights)


def test_safetensors_are_read(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(weights, file)
    assert_same(read_weights(file, encoder="x"), weights)


def test_an_envelope_is_left_around_the_weights(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"teacher": weights, "iteration": 5}, file)
    found = read_weights(file, encoder="x")
    assert found["iteration"] == 5
    assert_same(found["teacher"], weights)


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, is_archive: bool) -> None:
    file = tmp_path / "weights.bin"
    torch.save({"a": Trap()}, file, _use_new_zipfile_serialization=is_archive)
    with pytest.raises(
        EncoderError,
        match=r"'x': 'weights.bin' holds more than weights.*would run '\S*exec'.*\.safetensors file.*local:<file>",
    ):
        read_weights(file, encoder="x")


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_file_that_was_cut_short_is_told(
    tmp_path: Path, weights: dict[str, torch.Tensor], ending: str, kept: int
) -> None:
    file = tmp_path / f"weights.{ending}"
    if ending == "bin":
        torch.save(weights, file)
    else:
        safetensors.torch.save_file(weights, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(
        EncoderError, match=rf"'weights.{ending}' are damaged.*delete .*weights.{ending}' and run"
    ):
        read_weights(file, encoder="x")


@pytest.mark.parametrize(
    ("content", "what"), [([torch.zeros(2)], "a list"), (torch.zeros(2), "a Tensor"), ({}, "no weights")]
)
def test_a_file_without_named_weights_is_told(tmp_path: Path, content: Any, what: str) -> None:
    file = tmp_path / "weights.pt"
    torch.save(content, file)
    with pytest.raises(EncoderError, match=rf"'weights.pt' holds {what}, expected named weights"):
        read_weights(file, encoder="x")


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        EncoderError, match=r"cannot read weights from 'w.h5'; expected .*\.safetensors, \.bin"
    ):
        read_weights(tmp_path / "w.h5", encoder="x")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "other.pth"])
def test_a_local_file_is_an_encoder(tmp_path: Path, write_folder: Callable[..., Path], file: str) -> None:
    folder = write_folder(tmp_path / "tiny", num_classes=7)
    expected = build_encoder(encoder_card(f"local:{folder}"), device=CPU)
    safe = folder / "model.safetensors"
    torch.save(safetensors.torch.load_file(safe), folder / file)
    safe.unlink()
    encoder = build_encoder(encoder_card(f"local:{folder / file}"), device=CPU)
    assert encoder.weights_sha256 == expected.weights_sha256
    assert encoder.card.name == f"local:{file}"
    if file == "pytorch_model.bin":
        assert (
            build_encoder(encoder_card(f"local:{folder}"), device=CPU).weights_sha256
            == expected.weights_sha256
        )
    else:
        with pytest.raises(
            EncoderError, match=r"holds no weights; expected model.safetensors or pytorch_model.bin"
        ):
            build_encoder(encoder_card(f"local:{folder}"), device=CPU)
