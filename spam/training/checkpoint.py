"""Checkpoints: tensors and metadata in one safetensors file, written atomically, read without torch."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from spam.atomic import replacing
from spam.errors import CheckpointError, MissingInputError
from spam.schemas.checkpoint_meta import CHECKPOINT_FORMAT, CHECKPOINT_VERSION, CheckpointMeta
from spam.typing import Array

__all__ = ["Checkpoint", "read_checkpoint", "read_checkpoint_meta", "write_checkpoint"]

_HEADER_LIMIT = (
    100_000_000  # bytes; the safetensors format's own limit, so that a broken length cannot exhaust memory
)

Checkpoint = tuple[CheckpointMeta, dict[str, Array]]


def write_checkpoint(path: Path, meta: CheckpointMeta, tensors: Mapping[str, Array]) -> None:
    """Write one file that holds `tensors` and `meta`; an existing file is replaced in one step."""
    ready = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(safetensors.numpy.save(ready, metadata={"spam": json.dumps(meta.to_mapping())}))


def read_checkpoint_meta(path: Path) -> CheckpointMeta:
    """Read the metadata alone: no torch, no tensors.

    Raises
    ------
    MissingInputError
        If there is no such file.
    CheckpointError
        If the file is not a checkpoint of SPAM, or is one of another version.
    """
    if not path.is_file():
        message = f"there is no checkpoint {str(path)!r}; give the best.safetensors that training wrote"
        raise MissingInputError(message)
    values = _header(path).get("__metadata__", {}).get("spam")
    plain = json.loads(values) if isinstance(values, str) else None
    if not isinstance(plain, dict) or plain.get("format") != CHECKPOINT_FORMAT:
        message = f"{str(path)!r} is not a checkpoint of SPAM; give a file that `spam pretrain` or `spam finetune` wrote"
        raise CheckpointError(message)
    if plain["version"] > CHECKPOINT_VERSION:
        message = (
            f"{str(path)!r} is a checkpoint of version {plain['version']}; this SPAM reads up to version "
            f"{CHECKPOINT_VERSION}: update it with `pip install --upgrade spam-st`"
        )
        raise CheckpointError(message)
    if plain["version"] < CHECKPOINT_VERSION:
        message = (
            f"{str(path)!r} is a checkpoint of version {plain['version']}, which does not hold all that "
            f"version {CHECKPOINT_VERSION} does; train again with `spam {plain['stage']}`"
        )
        raise CheckpointError(message)
    return CheckpointMeta.from_mapping(plain)


def read_checkpoint(path: Path, *, stage: str) -> Checkpoint:
    """Read metadata and tensors of a checkpoint of `stage`.

    Raises
    ------
    MissingInputError, CheckpointError
        As `read_checkpoint_meta`; also if the checkpoint is of the other stage, or is cut short.
    """
    meta = read_checkpoint_meta(path)
    if meta.stage != stage:
        flag = {"pretrain": "--pretrained-ckpt", "finetune": "--ckpt", "adapt": "--save-dir"}[stage]
        message = f"{str(path)!r} is a checkpoint of `spam {meta.stage}`; {flag} takes one that `spam {stage}` wrote"
        raise CheckpointError(message)
    try:
        return meta, safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        message = f"{str(path)!r} is damaged or cut short ({error}); train again or copy it again"
        raise CheckpointError(message) from error


def _header(path: Path) -> dict[str, Any]:
    """Parse the JSON header of a safetensors file: an 8-byte length, then the header itself."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_HEADER_LIMIT, path.stat().st_size):
            message = (
                f"{str(path)!r} is not a safetensors file, or it is cut short; train again or copy it again"
            )
            raise CheckpointError(message)
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except ValueError as error:
        message = f"{str(path)!r} has a damaged header ({error}); train again or copy it again"
        raise CheckpointError(message) from error
    return header if isinstance(header, dict) else {}
