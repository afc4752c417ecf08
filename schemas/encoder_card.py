"""What is known of an encoder: enough to build it, feed it, and decide who may share its features."""

import dataclasses
from pathlib import PurePath
from typing import Any, Literal

__all__ = ["EncoderCard", "Pooling", "WeightLayout"]

Pooling = Literal["model", "cls", "mean", "cls+mean", "stages"]

WeightLayout = Literal[
    "timm", "vit", "dinov2", "dinov2-original", "clip", "coca", "titan", "ctranspath", "beit3", "state-dict"
]
"""How published weights are named: as timm names them, or as another implementation does that they are mapped from."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCard:
    """One tile encoder, as data.

    Attributes
    ----------
    name
        Name used on the command line and in feature keys.
    source
        Where the weights come from: ``package:<distribution>``, ``hf-hub:<org>/<name>``, ``timm:<model>``,
        ``local:<folder or file>``.
    architecture
        timm architecture name; for ``hf-hub:`` sources None means that the repository's own config names it.
    kwargs
        Extra keyword arguments for ``timm.create_model``, as (key, value) pairs.
    revision
        Pinned Hub revision, or None.
    weights_file
        File of the repository that holds the weights; None for timm's own names, safetensors first.
    layout
        How the weights in it are named.
    input_px
        Side of the image that the encoder takes, in pixels.
    resize_px
        Side that upstream resizes a tile to, before it takes the centre of `input_px`; None where it takes all of it.
        A tile here is what the encoder sees: nothing is cut off it again.
    native_mpp
        µm per pixel of the tiles that the encoder was trained on, or None where it was trained on several or unknown.
    mean, std
        Channel statistics that the input is normalised with.
    interpolation
        Resampling filter of the tile.
    pooling
        ``model`` (what the model itself returns), ``cls``, ``mean`` (patch tokens), ``cls+mean`` (concatenated;
        register tokens belong to none of them) or ``stages`` (mean and standard deviation of every channel over the
        map that each stage of a convolutional network ends with).
    n_registers
        Register tokens of the network, which pooling leaves out.
    precision
        Type of the mixed precision that upstream runs it in.
    dim
        Length of a feature vector.
    licence
        SPDX name or the name of the custom licence.
    is_gated
        Whether the Hub asks for an accepted licence and a token.
    paper
        DOI or arXiv id.
    aliases
        Other names that the card answers to.
    """

    name: str
    source: str
    dim: int
    architecture: str | None = None
    kwargs: tuple[tuple[str, Any], ...] = ()
    revision: str | None = None
    weights_file: str | None = None
    layout: WeightLayout = "timm"
    input_px: int = 224
    resize_px: int | None = None
    native_mpp: float | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    pooling: Pooling = "model"
    n_registers: int = 0
    precision: Literal["float16", "bfloat16"] = "bfloat16"
    licence: str = "unknown"
    is_gated: bool = False
    paper: str | None = None
    aliases: tuple[str, ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types; a local folder by its last part, since stores are shared."""
        plain = dataclasses.asdict(self)
        if self.source.startswith("local:"):
            plain["source"] = f"local:{PurePath(self.source).name}"
        plain["kwargs"] = dict(self.kwargs)
        for key in ("mean", "std", "aliases"):
            plain[key] = list(plain[key])
        return plain
