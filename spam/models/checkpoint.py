"""Checkpoints: one safetensors file with tensors and JSON metadata, replaced atomically."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy
import torch

from spam.atomic import replacing
from spam.errors import CheckpointError, MissingInputError
from spam.schemas.checkpoint_meta import CHECKPOINT_FORMAT, CHECKPOINT_VERSION, CheckpointMeta
from spam.typing import Array

T = TypeVar("T")

Checkpoint = tuple[CheckpointMeta, dict[str, Array]]


def write_checkpoint(path: Path, meta: CheckpointMeta, tensors: Mapping[str, Array]) -> None:
    """Write metadata and tensors to one file; an existing file is replaced atomically."""
    ready = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(safetensors.numpy.save(ready, metadata={"spam": json.dumps(meta.to_mapping())}))


def read_checkpoint_meta(path: Path) -> CheckpointMeta:
    """Read the metadata alone.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    CheckpointError
        If the file is damaged, is not a SPAM checkpoint, or has another version.
    """
    if not path.is_file():
        message = f"Checkpoint not found: {path}. Give the best.safetensors that training wrote."
        raise MissingInputError(message)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            values = json.loads((file.metadata() or {}).get("spam", "{}"))
    except (safetensors.SafetensorError, ValueError) as error:
        message = (
            f"{str(path)!r} is damaged or not a safetensors file ({error}). Copy it again or train again."
        )
        raise CheckpointError(message) from error
    if values.get("format") != CHECKPOINT_FORMAT:
        message = f"{str(path)!r} is not a SPAM checkpoint. Give a file written by `spam pretrain` or `spam finetune`."
        raise CheckpointError(message)
    if values["version"] != CHECKPOINT_VERSION:
        message = (
            f"{str(path)!r} is a checkpoint of version {values['version']}; this SPAM reads version "
            f"{CHECKPOINT_VERSION}. Train again with `spam {values['stage']}`, or install the matching spam-st."
        )
        raise CheckpointError(message)
    return CheckpointMeta.from_mapping(values)


def read_checkpoint(path: Path, *, stage: str) -> Checkpoint:
    """Read metadata and tensors of a checkpoint of `stage`.

    Raises
    ------
    MissingInputError, CheckpointError
        As `read_checkpoint_meta`; also if the checkpoint belongs to another stage.
    """
    meta = read_checkpoint_meta(path)
    if meta.stage != stage:
        flag = {"pretrain": "--pretrained-ckpt", "finetune": "--ckpt"}.get(stage, "--save-dir")
        message = (
            f"{str(path)!r} is a checkpoint of stage {meta.stage!r}; {flag} needs one of stage {stage!r}."
        )
        raise CheckpointError(message)
    return meta, safetensors.numpy.load_file(path)


def weights_of(tensors: Mapping[str, Array], prefix: str = "network.") -> dict[str, torch.Tensor]:
    """Tensors whose name starts with `prefix`, without it, as a torch state dict."""
    return {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def to_tensors(record: Any, name: str) -> dict[str, Array]:
    """Flatten a dataclass of arrays, numbers and such dataclasses; keys are ``name.field``."""
    tensors: dict[str, Array] = {}
    for field in dataclasses.fields(record):
        value, key = getattr(record, field.name), f"{name}.{field.name}"
        tensors |= to_tensors(value, key) if dataclasses.is_dataclass(value) else {key: np.atleast_1d(value)}
    return tensors


def from_tensors(kind: type[T], tensors: Mapping[str, Array], name: str) -> T:
    """Rebuild a dataclass from what `to_tensors` returned for the same name."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        key, of = f"{name}.{field.name}", field.type
        if dataclasses.is_dataclass(of):
            values[field.name] = from_tensors(of, tensors, key)  # type: ignore[arg-type]
        else:
            values[field.name] = tensors[key].item() if of in (int, float) else tensors[key]
    return kind(**values)
