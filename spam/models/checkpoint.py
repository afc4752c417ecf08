"""Checkpoints: one safetensors file with tensors and JSON metadata, replaced atomically."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy
import torch

from spam.atomic import replacing
from spam.errors import CheckpointError, ConfigError, MissingInputError, shortened
from spam.schemas.checkpoint_meta import CHECKPOINT_FORMAT, CHECKPOINT_VERSION, CheckpointMeta
from spam.schemas.tile_spec import dim_of_smallest
from spam.typing import Array, Float, Int

from .stacking import KINDS

T = TypeVar("T")
_Shape = tuple[int | str, ...]

Checkpoint = tuple[CheckpointMeta, dict[str, Array]]

_META, _DIGEST = ("spam", "spam_sha256")  # entries of the file's header
_REPAIR = "Copy it again or train again."


def write_checkpoint(path: Path, meta: CheckpointMeta, tensors: Mapping[str, Array]) -> None:
    """Write metadata and tensors to one file; an existing file is replaced atomically."""
    ready = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    text = json.dumps(meta.to_mapping())
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        header = {_META: text, _DIGEST: _digest(text, ready)}
        partial.write_bytes(safetensors.numpy.save(ready, metadata=header))


def _digest(text: str, tensors: Mapping[str, Array]) -> str:
    """Hash metadata and tensors: safetensors itself has no checksum."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype.str}{tensor.shape}\0".encode())
        digest.update(np.ascontiguousarray(tensor).data.cast("B") if tensor.size else b"")
    return digest.hexdigest()


def read_checkpoint_meta(path: Path | str) -> CheckpointMeta:
    """Read the metadata alone.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    CheckpointError
        If the file is damaged, is not a SPAM checkpoint, or has another version.
    """
    path = Path(path)
    if not path.is_file():
        message = f"Checkpoint not found: {path}. Give the best.safetensors that training wrote."
        raise MissingInputError(message)
    return _read_meta(path, _read_header(path))


def _read_header(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, ValueError) as error:
        message = f"{str(path)!r} is damaged or not a safetensors file ({error}). {_REPAIR}"
        raise CheckpointError(message) from error


def _read_meta(path: Path, header: Mapping[str, str]) -> CheckpointMeta:
    try:
        values = json.loads(header.get(_META, "{}"))
    except (ValueError, RecursionError) as error:
        message = f"The metadata of {str(path)!r} are not JSON ({error}). {_REPAIR}"
        raise CheckpointError(message) from error
    if not isinstance(values, dict) or values.get("format") != CHECKPOINT_FORMAT:
        message = f"{str(path)!r} is not a SPAM checkpoint. Give a file written by `spam pretrain` or `spam finetune`."
        raise CheckpointError(message)
    if (version := values.get("version")) != CHECKPOINT_VERSION:
        message = (
            f"{str(path)!r} is a checkpoint of version {shortened(version)}; this SPAM reads version "
            f"{CHECKPOINT_VERSION}. Train again, or install the matching spam-st."
        )
        raise CheckpointError(message)
    try:
        return CheckpointMeta.from_mapping(values)
    except (TypeError, ConfigError) as error:
        message = f"The metadata of {str(path)!r} do not fit the format: {error}. {_REPAIR}"
        raise CheckpointError(message) from error


def read_checkpoint(path: Path | str, *, stage: str) -> Checkpoint:
    """Read metadata and tensors of a checkpoint of `stage`.

    Raises
    ------
    MissingInputError, CheckpointError
        As `read_checkpoint_meta`; also if the checkpoint belongs to another stage.
    """
    path = Path(path)
    meta = read_checkpoint_meta(path)
    if meta.stage != stage:
        flag = {"pretrain": "--pretrained-ckpt", "finetune": "--ckpt"}.get(stage, "--save-dir")
        message = f"{str(path)!r} is a checkpoint of stage {meta.stage!r}; {flag} needs stage {stage!r}."
        raise CheckpointError(message)
    try:
        tensors = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:  # unknown number formats
        message = f"The tensors of {str(path)!r} cannot be read ({error!r}). {_REPAIR}"
        raise CheckpointError(message) from error
    header = _read_header(path)
    if header.get(_DIGEST) != _digest(header[_META], tensors):
        message = f"{str(path)!r} was changed after training: its digest is another. {_REPAIR}"
        raise CheckpointError(message)
    shapes = _input_shapes(meta) if stage in ("pretrain", "finetune") else {}
    shapes |= _prediction_shapes(meta, tensors) if stage == "finetune" else {}
    sizes: dict[str, int] = {}
    wrong = [
        name
        for name, shape in shapes.items()
        if name not in tensors or not _fits(tensors[name].shape, shape, sizes)
    ]
    in_float32 = ("network.", "bank.expression")
    wrong += [k for k, v in tensors.items() if k.startswith(in_float32) and v.dtype != np.float32]
    if wrong:
        message = f"Tensors of {str(path)!r} are missing or do not fit its metadata: {', '.join(wrong[:3])}. {_REPAIR}"
        raise CheckpointError(message)
    return meta, tensors


def _fits(found: tuple[int, ...], wanted: _Shape, sizes: dict[str, int]) -> bool:
    """Compare a shape; a named axis has the same size in all tensors, kept in `sizes`."""
    return len(found) == len(wanted) and all(
        size == (sizes.setdefault(axis, size) if isinstance(axis, str) else axis)
        for size, axis in zip(found, wanted, strict=True)
    )


def _input_shapes(meta: CheckpointMeta) -> dict[str, _Shape]:
    wide = 3 * sum(meta.feature_dims)  # `context_features`
    shapes: dict[str, _Shape] = {f"inputs.{name}": (wide,) for name in ("spread", "components.pca.mean")}
    shapes["inputs.components.pca.scale"] = (wide,)
    return shapes | {"inputs.components.pca.components": (meta.settings["image_dim"], wide)}


def _prediction_shapes(meta: CheckpointMeta, tensors: Mapping[str, Array]) -> dict[str, _Shape]:
    """Shapes of what `spam.prediction.Predictor` reads."""
    n_genes, q, dims = len(meta.genes), meta.settings["image_dim"], meta.feature_dims
    shapes: dict[str, _Shape] = {"cohort.per_10k": (n_genes,), "baseline.mean": (n_genes,)}
    for name in ("path", "ridge"):
        shapes |= {f"{name}.{part}": (n_genes,) for part in ("gene_mean", "offset", "ridge.intercept")}
        shapes[f"{name}.ridge.coefficients"] = (q, n_genes)
    for name, size in {"ridge": n_genes, "raw_ridge": len(meta.gene_sets.get("hest-50", ()))}.items():
        shapes |= {f"baseline.{name}.coefficients": ("baseline", size), f"baseline.{name}.intercept": (size,)}
    for name, size in {"baseline": dim_of_smallest(meta.tiles, dims), "appearance": sum(dims)}.items():
        shapes |= {f"{name}.transform.{part}": (size,) for part in ("mean", "scale")}
        shapes[f"{name}.transform.components"] = (name, size)
    n_components = len(tensors.get("appearance.transform.components", ()))
    shapes |= {"appearance.bank": ("seen", n_components + 1), "appearance.section": ("seen",)}
    shapes |= {"prototypes.centres": ("prototypes", q), "prototypes.coefficients": ("prototypes", n_genes)}
    shapes |= {"stack.weights": (len(KINDS),)}
    shapes |= {f"heldout.{part}": (n_genes,) for part in ("pearson", "p_value")}
    shapes |= {f"heldout.{part}": ("levels",) for part in ("levels", "coverage", "lowest")}
    if meta.config.get("with_bank") or "gene" in meta.settings["branches"]:
        shapes |= {
            "bank.inputs": ("bank", q),
            "bank.expression": ("bank", n_genes),
            "bank.section": ("bank",),
        }
    return shapes


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
    """Rebuild a dataclass from what `to_tensors` returned for the same name.

    Raises
    ------
    CheckpointError
        If a tensor is missing, or has another number format or number of axes than the field.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        key, of = f"{name}.{field.name}", field.type
        if dataclasses.is_dataclass(of):
            values[field.name] = from_tensors(of, tensors, key)  # type: ignore[arg-type]
            continue
        is_scalar, value = of in (int, float), tensors.get(key)
        one = Int[Array, "1"] if of is int else Float[Array, "1"]
        if not isinstance(value, one if is_scalar else of):  # type: ignore[arg-type]
            found = "missing" if value is None else f"{value.dtype} {value.shape}"
            message = f"Tensor {key!r} of the checkpoint is {found}, which does not fit the format. {_REPAIR}"
            raise CheckpointError(message)
        values[field.name] = value.item() if is_scalar else value
    return kind(**values)
