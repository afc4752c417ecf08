"""Networks built with timm: from a card with random or pretrained weights, and cards of any model in timm."""

import contextlib
import dataclasses
import difflib
import functools
import json
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.layers.mlp import SwiGLUPacked
from timm.layers.norm import LayerNorm
from torch import nn

from spam.errors import EncoderError
from spam.hub import HUB_ERRORS
from spam.schemas.encoder_card import EncoderCard

from .published_weights import in_order, read_weights, to_timm
from .tile_network import AttentionPool, AttentionPooledNetwork, ChannelwiseNetwork, ConvStem
from .weight_access import WEIGHTS_FILES, HubFile, find_weights

LAYERS = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}  # layers that a card names


def create_network(card: EncoderCard, **changed: Any) -> nn.Module:
    """Build the network of a card with random weights and without its classifier.

    Parameters
    ----------
    **changed
        Keyword arguments that replace those of the card, such as ``depth=2`` for a small twin.

    Raises
    ------
    EncoderError
        If the architecture cannot be built.
    """
    kwargs = {key: LAYERS.get(str(value), value) for key, value in card.kwargs}
    timms = functools.partial(timm.create_model, card.architecture)
    create = OWN_ARCHITECTURES.get(card.architecture, timms)
    with _explained(card.name, card.source):
        return create(**{"num_classes": 0, **kwargs, **changed})


def build_timm_model(card: EncoderCard) -> nn.Module:
    """Build the network of a card with its pretrained weights and without its classifier.

    All weights of the network are loaded, and all of the file are used except a classifier's and those that the
    layout lists as unused.

    Raises
    ------
    EncoderError
        If the weights are not available or do not fit the network.
    """
    with _explained(card.name, card.repository or card.source, card.revision):
        file = find_weights(card)
        if file is None:  # the address of some of timm's models is known to timm only
            model: Any = timm.create_model(card.source.removeprefix("timm:"), pretrained=True)
        else:
            weights = read_weights(file, encoder=card.name)
            if card.layout == "timm":
                model = _load_by_timm(card, weights)
            else:
                is_whole = card.layout == "in-order"  # with ImageNet's classifier
                model = create_network(card, num_classes=1000 if is_whole else 0)
                state = in_order(weights, model.state_dict()) if is_whole else to_timm(card, weights, model)
                model.load_state_dict(state)
        if model.num_classes:
            model.reset_classifier(0)
        built: nn.Module = model
        return built


def describe_timm_model(name: str, revision: str | None, *, has_stages: bool) -> EncoderCard:
    """Make the card of ``timm:<model>``, ``hf-hub:<organisation>/<name>`` or ``local:<folder or file>``.

    Sizes, channel statistics and licence come from timm's configuration of the pretrained weights. The name of a local
    model is its last part, so that no path of this machine gets into a store.

    Parameters
    ----------
    revision
        Branch, tag or commit on the Hub; None for the main branch.
    has_stages
        Whether features are the statistics of all stages (`pool_stages`) instead of the pooled last layer.

    Raises
    ------
    EncoderError
        If there is no such model, it has no pretrained weights or no stages, or its configuration is not available.
    """
    kind, _, place = name.partition(":")
    if kind == "timm" and not timm.is_model(place):
        near = difflib.get_close_matches(place, timm.list_models(pretrained=True), n=3)
        hint = " or ".join(f"timm:{model}" for model in near) or "a name of timm.list_models()"
        message = f"timm {timm.__version__} has no model {place!r}. Use {hint}."
        raise EncoderError(message)
    shown = f"{name}@{revision}" if revision and kind == "hf-hub" else name
    with _explained(shown, place, revision):
        folder = Path(place).parent if Path(place).is_file() else Path(place)
        if kind == "hf-hub":
            folder = HubFile(repository=place, revision=revision, names=("config.json",)).fetch().parent
        with torch.device("meta"):  # only shapes; allocating a billion weights takes a minute
            model: Any = timm.create_model(place if kind == "timm" else f"local-dir:{folder}")
        if model.num_classes:
            model.reset_classifier(0)
    config = model.pretrained_cfg
    if not any(config.get(key) for key in ("hf_hub_id", "url", "file")):
        message = f"timm has no pretrained weights for {place!r}. Use a name of timm.list_pretrained()."
        raise EncoderError(message)
    data = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    _, height, width = data["input_size"]
    if height != width or data["interpolation"] not in ("bicubic", "bilinear"):
        found = f"{height} x {width} pixels resampled by {data['interpolation']!r}"
        message = f"Encoder {shown!r} takes {found}; only square tiles, bicubic or bilinear, are supported."
        raise EncoderError(message)
    tag = f".{config['tag']}" if config.get("tag") else ""
    sources = {"timm": f"timm:{config['architecture']}{tag}", "local": f"local:{Path(place).resolve()}"}
    return EncoderCard(
        name=f"local:{Path(place).resolve().name}" if kind == "local" else shown,
        source=sources.get(kind, name),
        hub_id=(config.get("hf_hub_id") or None) if kind == "timm" else None,
        revision=revision,
        architecture=config["architecture"],
        kwargs=() if kind == "timm" else _model_args(folder),
        dim=_dim(model, shown, has_stages=has_stages),
        pooling="stages" if has_stages else "model",
        input_px=height,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        licence=config.get("license") or "unknown",
    )


@contextlib.contextmanager
def _explained(name: str, repository: str, revision: str | None = None) -> Iterator[None]:
    """Turn what timm and the Hub raise into an `EncoderError` with the next step."""
    try:
        yield
    except EncoderError:
        raise
    except (*HUB_ERRORS, urllib.error.URLError) as error:
        file = HubFile(repository=repository, revision=revision, names=("config.json", *WEIGHTS_FILES))
        message = f"Encoder {name!r}: {file.refusal(error).advice}"
        raise EncoderError(message) from error
    # timm's own: missing file, weights that do not fit, unknown arguments.
    except (FileNotFoundError, RuntimeError, ValueError, TypeError) as error:
        message = f"Encoder {name!r} cannot be built (config.json and model.safetensors?): {error}"
        raise EncoderError(message) from error


def _load_by_timm(card: EncoderCard, weights: dict[str, Any]) -> nn.Module:
    """Load weights with timm, which renames them for each architecture; they include the classifier."""
    # With its tag, because the name of the classifier belongs to the weights.
    architecture = card.source.removeprefix("timm:") if card.source.startswith("timm:") else card.architecture
    config = timm.get_pretrained_cfg(architecture)
    classifier = (config and config.classifier) or "head"
    first = classifier if isinstance(classifier, str) else classifier[0]
    # Classifiers with pooling are newer than some files: head.fc was head.
    names = (f"{first}.weight", f"{first.removesuffix('.fc')}.weight")
    n_classes = next((len(weights[name]) for name in names if name in weights), 0)
    # With as many classes as the file has, timm loads strictly.
    overlay = {"state_dict": weights, "num_classes": n_classes, "label_offset": 0}
    return create_network(
        dataclasses.replace(card, architecture=architecture),
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        num_classes=n_classes,
    )


def _dim(model: Any, shown: str, *, has_stages: bool) -> int:
    """Return the length of a network's features, or of what `pool_stages` makes of its stages."""
    if not has_stages:
        return int(getattr(model, "head_hidden_size", None) or model.num_features)
    stages = getattr(model, "feature_info", None) or []
    # Mixers and the like have many depths of one resolution: those are not stages.
    if len({stage["reduction"] for stage in stages}) < 2 or not hasattr(model, "forward_intermediates"):
        message = f"Encoder {shown!r} has no stages of different resolution. Use it without '+stages'."
        raise EncoderError(message)
    return 2 * sum(int(stage["num_chs"]) for stage in stages)


def _model_args(folder: Path) -> tuple[tuple[str, Any], ...]:
    """Read the arguments that a model of timm's format is built with."""
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_args", {})
    return tuple(
        (key, tuple(value) if isinstance(value, list) else value)
        for key, value in stated.items()
        if key != "num_classes"
    )


def _phikon_b16(**kwargs: Any) -> nn.Module:
    return _timm("vit_base_patch16_224", norm_layer=functools.partial(LayerNorm, eps=1e-12), **kwargs)


def _clip_vision_b32(*, dim: int = 512, **kwargs: Any) -> nn.Module:
    model: Any = _timm("vit_base_patch32_clip_quickgelu_224", **kwargs)
    model.head = nn.Linear(model.embed_dim, dim, bias=False)  # timm's has a bias
    network: nn.Module = model
    return network


def _conch_b16(*, dim: int = 512, n_pool_heads: int = 8, **kwargs: Any) -> nn.Module:
    trunk: Any = _timm("vit_base_patch16_224", **{"img_size": 448, **kwargs})
    pool = AttentionPool(width=trunk.embed_dim, dim=dim, n_heads=n_pool_heads, has_bias=True)
    return AttentionPooledNetwork(trunk, pool, dim=dim)


def _conch_l16(*, dim: int = 768, n_pool_heads: int = 8, **kwargs: Any) -> nn.Module:
    trunk: Any = _timm("vit_large_patch16_224", **{"img_size": 448, "init_values": 1e-6, **kwargs})
    pool = AttentionPool(width=trunk.embed_dim, dim=dim, n_heads=n_pool_heads, has_bias=False)
    return AttentionPooledNetwork(trunk, pool, dim=dim)


def _ctranspath(**kwargs: Any) -> nn.Module:
    return _timm("swin_tiny_patch4_window7_224", embed_layer=ConvStem, **kwargs)


def _genbio_g16(**kwargs: Any) -> nn.Module:
    sizes = {"embed_dim": 1536, "num_heads": 24, "mlp_ratio": 8 / 3}  # two thirds of four times the width
    return ChannelwiseNetwork(
        _timm("vit_7b_patch16_dinov3", in_chans=1, norm_layer=LayerNorm, **sizes | kwargs)
    )


def _timm(name: str, **kwargs: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, **kwargs)
    return model


OWN_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {  # networks that timm has no name for, of its parts
    "spam/phikon_b16": _phikon_b16,
    "spam/clip_vision_b32": _clip_vision_b32,
    "spam/conch_b16": _conch_b16,
    "spam/conch_l16": _conch_l16,
    "spam/ctranspath": _ctranspath,
    "spam/genbio_g16": _genbio_g16,
}
