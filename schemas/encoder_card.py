"""What is known of an encoder: enough to build it, feed it, and decide who may share its features."""

import dataclasses
from pathlib import PurePath
from typing import Any, Literal

__all__ = ["EncoderCard", "Pooling"]

Pooling = Literal["model", "cls", "mean", "cls+mean"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCard:
    """One tile encoder, as data.

    Attributes
    ----------
    name
        Name used on the command line and in feature keys.
    source
        Where the weights come from: ``package:<distribution>``, ``hf-hub:<org>/<name>``, ``timm:<model>``,
        ``local-dir:<folder>``.
    architecture
        timm architecture name; for ``hf-hub:`` sources None means that the repository's own config names it.
    kwargs
        Extra keyword arguments for ``timm.create_model``, as (key, value) pairs.
    revision
        Pinned Hub revision, or None.
    input_px
        Side of the image that the encoder takes, in pixels.
    mean, std
        Channel statistics that the input is normalised with.
    interpolation
        Resampling filter of the tile.
    pooling
        ``model`` (what the model itself returns), ``cls``, ``mean`` (patch tokens) or ``cls+mean``
        (concatenated).
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
    input_px: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    pooling: Pooling = "model"
    licence: str = "unknown"
    is_gated: bool = False
    paper: str | None = None
    aliases: tuple[str, ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types; a local folder by its last part, since stores are shared."""
        plain = dataclasses.asdict(self)
        if self.source.startswith("local-dir:"):
            plain["source"] = f"local-dir:{PurePath(self.source).name}"
        plain["kwargs"] = dict(self.kwargs)
        for key in ("mean", "std", "aliases"):
            plain[key] = list(plain[key])
        return plain
