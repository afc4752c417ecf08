"""Options of `spam model …`: describing, verifying and sharing a checkpoint."""

import dataclasses
from pathlib import Path

from .config import Config, option

_CKPT = "checkpoint: its folder or file, or an address such as hf://org/name, https://host/best.safetensors or s3://bucket/name"
_PUSH = "run e.g. spam model push ckpt hf://org/name"
_PULL = "run e.g. spam model pull hf://org/name model"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Config):
    """Options of `spam model info` and `spam model verify`."""

    ckpt: Path | str | None = option(None, _CKPT, required="run e.g. spam model info ckpt", is_argument=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelPushConfig(Config):
    """Options of `spam model push`."""

    ckpt: Path | None = option(
        None, "checkpoint to share: its folder or file", required=_PUSH, is_argument=True
    )
    to: Path | str | None = option(
        None, "address: hf://org/name, s3://bucket/name or a folder", required=_PUSH, is_argument=True
    )
    licence: str | None = option(
        None, "licence of counts and images for the training sections that state none"
    )
    i_have_the_right_to_share: bool = option(
        False, "share although a licence forbids it or is unknown; recorded in the model card"
    )
    private: bool = option(True, "make a new Hub repository private")
    overwrite: bool = option(False, "replace another checkpoint at the address")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelPullConfig(Config):
    """Options of `spam model pull`."""

    address: str | None = option(
        None,
        "address: hf://org/name, https://host/best.safetensors or s3://bucket/name; #sha256=... after it pins the file",
        required=_PULL,
        is_argument=True,
    )
    out: Path | None = option(
        None, "folder to write best.safetensors, its digest and its card to", required=_PULL, is_argument=True
    )
    overwrite: bool = option(False, "replace another checkpoint in the folder")
