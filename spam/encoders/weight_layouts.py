"""Published weights, whatever implementation they were written by, as the state of a network that timm builds.

Nothing is skipped in silence: every weight of the network must have been published, and every published weight must be
one of the network's or stand among those that the layout names as unused.
"""

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spam.errors import EncoderError
from spam.schemas.encoder_card import WeightLayout

from .layouts import (
    BEIT3,
    CLIP,
    COCA,
    CTRANSPATH,
    DINOV2,
    DINOV2_ORIGINAL,
    TITAN,
    VIT,
    Layout,
    Source,
    fit_positions,
)

__all__ = ["to_timm"]

AS_THEY_ARE = Layout(names={"{rest}": "{rest}"})

LAYOUTS: dict[WeightLayout, Layout] = {
    "timm": AS_THEY_ARE,
    "state-dict": AS_THEY_ARE,
    "vit": VIT,
    "dinov2": DINOV2,
    "dinov2-original": DINOV2_ORIGINAL,
    "clip": CLIP,
    "coca": COCA,
    "titan": TITAN,
    "ctranspath": CTRANSPATH,
    "beit3": BEIT3,
}

LISTED_AT_MOST = 8  # of a kind: a wrong architecture has hundreds of faults
POSITIONS = "pos_embed"


def to_timm(layout: WeightLayout, weights: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Give published weights the names and shapes that a network has.

    Parameters
    ----------
    layout
        How the weights are named.
    weights
        What the published file holds: name -> tensor, or an envelope around it that the layout knows.
    model
        The network, without a classifier.

    Returns
    -------
    dict
        A state that ``model.load_state_dict(..., strict=True)`` takes. A position embedding that was published for
        another image size is resampled to that of the network, where the original does so, and as it does.

    Raises
    ------
    EncoderError
        If a weight is missing or has another shape, or a published one is neither the network's nor known to be
        unused. All of them are named at once.
    """
    return _Conversion(LAYOUTS[layout], weights, model).state(layout)


@dataclasses.dataclass(slots=True)
class _Published:
    name: str  # in the file
    tensor: Tensor
    is_used: bool = False


class _Conversion:
    """One file, on its way into one network."""

    def __init__(self, rules: Layout, weights: Mapping[str, Any], model: nn.Module) -> None:
        self._rules, self._model = rules, model
        self._missing: list[str] = []
        self._unexpected: list[str] = []
        self._misshapen: list[str] = []
        for envelope in rules.envelopes:
            if isinstance(weights.get(envelope), Mapping):
                weights = weights[envelope]
        self._published: dict[str, _Published] = {}
        for name, tensor in weights.items():
            ours = rules.rewrite(name)
            if not isinstance(tensor, Tensor) or ours in self._published:
                self._unexpected.append(repr(name))
            else:
                self._published[ours] = _Published(name, tensor)

    def state(self, layout: str) -> dict[str, Tensor]:
        """Make the network's state, or raise all faults at once."""
        expected: dict[str, Tensor] = self._model.state_dict()
        made = {name: self._made(name, tuple(wanted.shape)) for name, wanted in expected.items()}
        state = {name: tensor for name, tensor in made.items() if tensor is not None}
        for name in [name for name in state if name.endswith(POSITIONS)]:
            self._place(name, tuple(expected[name].shape), state)
        self._unexpected += [
            repr(published.name)
            for name, published in self._published.items()
            if not published.is_used and not any(fnmatch.fnmatchcase(name, u) for u in self._rules.unused)
        ]
        faults = [
            *_listed("missing", list(dict.fromkeys(self._missing))),  # one may be missing for several
            *_listed("unexpected", self._unexpected),
            *_listed("of another shape", self._misshapen),
        ]
        if faults:
            message = (
                f"the published weights do not fit the network {type(self._model).__name__} by layout {layout!r}: "
                f"{'; '.join(faults)}; correct architecture, kwargs or layout of the card, or fetch the file again"
            )
            raise EncoderError(message)
        return state

    def _made(self, name: str, wanted: tuple[int, ...]) -> Tensor | None:
        """Make the network's weight `name` from what was published, or note why that cannot be done."""
        sources = self._rules.sources(name)
        absent = [source.name for source in sources if source.name not in self._published]
        self._missing += map(repr, absent or ([] if sources else [name]))
        for source in sources:
            if source.name in self._published:
                self._published[source.name].is_used = True
        if absent or not sources:
            return None
        whole = [self._published[source.name] for source in sources]
        if name.endswith(POSITIONS):  # its length is that of the published image size
            n_unused = self._rules.n_unused_positions
            return self._unflat(name, whole[0].tensor[n_unused:] if n_unused else whole[0].tensor)
        if name in self._rules.flat:
            wanted = wanted[-whole[0].tensor.ndim :]
        fits = [self._has_shape(p, s, wanted, len(whole)) for p, s in zip(whole, sources, strict=True)]
        if not all(fits):
            return None
        parts = [
            p.tensor if s.n_parts == 1 else p.tensor.chunk(s.n_parts)[s.part]
            for p, s in zip(whole, sources, strict=True)
        ]
        return self._unflat(name, parts[0] if len(parts) == 1 else torch.cat(parts))

    def _has_shape(
        self, published: _Published, source: Source, wanted: tuple[int, ...], n_sources: int
    ) -> bool:
        """Tell whether a published weight has the shape that it needs for its part of one of shape `wanted`."""
        shape = (wanted[0] // n_sources * source.n_parts, *wanted[1:]) if wanted else ()
        found = tuple(published.tensor.shape)
        fault = f"{published.name!r} {found}, expected {shape}"
        if found != shape and fault not in self._misshapen:
            self._misshapen.append(fault)
        return found == shape

    def _unflat(self, name: str, tensor: Tensor) -> Tensor:
        n_axes = 3 if name in self._rules.flat else tensor.ndim
        return tensor.reshape((1,) * (n_axes - tensor.ndim) + tuple(tensor.shape))

    def _place(self, name: str, wanted: tuple[int, ...], state: dict[str, Tensor]) -> None:
        """Fit the position embedding `name` of `state` to the network's grid of patches, and to its class token."""
        prefix = name.removesuffix(POSITIONS)
        trunk: Any = self._model.get_submodule(prefix.rstrip("."))
        has_registers = getattr(trunk, "num_reg_tokens", 0) > 0
        rules = self._rules
        resampling = rules.resampling_with_registers if has_registers else rules.resampling
        positions = fit_positions(state[name], grid=tuple(trunk.patch_embed.grid_size), resampling=resampling)
        token = state.get(f"{prefix}cls_token")
        is_joined = has_registers and resampling is not None
        if is_joined and token is not None and token.shape[2:] == positions.shape[2:]:
            state[f"{prefix}cls_token"] = token + positions[:, :1]
            positions = positions[:, 1:]
        state[name] = positions
        if tuple(positions.shape) != wanted:
            published = self._published[rules.sources(name)[0].name]
            found, made = tuple(published.tensor.shape), tuple(positions.shape)
            becomes = f", which becomes {made}" if made != found else ""
            self._misshapen.append(f"{published.name!r} {found}{becomes}, expected {wanted}")


def _listed(kind: str, faults: list[str]) -> list[str]:
    if not faults:
        return []
    more = f" and {len(faults) - LISTED_AT_MOST} more" if len(faults) > LISTED_AT_MOST else ""
    return [f"{kind}: {', '.join(faults[:LISTED_AT_MOST])}{more}"]
