import json
import struct
from pathlib import Path

import numpy as np
import pytest

from spam.errors import CheckpointError, MissingInputError
from spam.models.checkpoint import read_checkpoint, read_checkpoint_meta, write_checkpoint
from spam.schemas.checkpoint_meta import CheckpointMeta


def meta() -> CheckpointMeta:
    return CheckpointMeta(
        stage="pretrain",
        epoch=3,
        config={"epochs": 7},
        config_digest="aa",
        data_digest="bb",
        encoder_name="tiny",
        weights_sha256="cc",
        feature_keys=("tiny_112um",),
        tiles=({"tile_um": 112.0, "tile_px": None, "out_px": 224},),
        feature_dims=(11,),
        genes=("A", "É"),
        gene_sets={"HVG-50": ["A"]},
        train_sections=("S1",),
        val_sections=("S2",),
        donors={"S1": None, "S2": "d"},
        depth=1.5,
        metrics={"val_loss": 0.5},
        history=[{"epoch": 0.0, "val_loss": 0.5}],
        best={"epoch": 0.0, "val_loss": 0.5},
        settings={"image_dim": 5},
        software={"torch": "x"},
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([], dtype=np.int64),
        "c": np.asarray(2.0),
    }
    write_checkpoint(tmp_path / "x.safetensors", meta(), tensors)
    read, back = read_checkpoint(tmp_path / "x.safetensors", stage="pretrain")
    assert read == meta()
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"no checkpoint .*none\.safetensors"):
        read_checkpoint_meta(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"short", struct.pack("<Q", 10**15) + b"{}", struct.pack("<Q", 4) + b"nope"]
)
def test_a_broken_file_is_an_error_not_a_crash(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="train again or copy it again"):
        read_checkpoint_meta(path)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    (tmp_path / "other.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="not a checkpoint of SPAM"):
        read_checkpoint_meta(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("version", "way_out"),
    [
        (99, r"version 99; .*pip install --upgrade spam-st"),
        (1, r"version 1, .*train again with `spam pretrain`"),
        (3, r"version 3, .*version 4 does; train again with `spam pretrain`"),
    ],
)
def test_another_version_is_refused_with_the_way_out(tmp_path: Path, version: int, way_out: str) -> None:
    plain = {**meta().to_mapping(), "version": version}
    header = json.dumps({"__metadata__": {"spam": json.dumps(plain)}}).encode()
    (tmp_path / "new.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match=way_out):
        read_checkpoint_meta(tmp_path / "new.safetensors")


def test_the_other_stage_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.safetensors", meta(), {"a": np.zeros(1)})
    with pytest.raises(
        CheckpointError, match=r"checkpoint of `spam pretrain`; --ckpt takes one that `spam finetune`"
    ):
        read_checkpoint(tmp_path / "x.safetensors", stage="finetune")


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, meta(), {"a": np.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"damaged or cut short .*; train again or copy it again"):
        read_checkpoint(path, stage="pretrain")
