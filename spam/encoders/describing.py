"""Cards of models that have none, made from timm's own configuration of them."""

import difflib
import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config

from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

from .hub_access import HubFile, fetch_file
from .loading_errors import explained
from .registry import STAGES
from .timm_models import n_registers

__all__ = ["describe_timm_model", "timm_repository"]


def describe_timm_model(name: str, revision: str | None = None, *, has_stages: bool = False) -> EncoderCard:
    """Make the card of ``timm:<model>``, ``hf-hub:<organisation>/<name>`` or ``local:<folder or file>``.

    Sizes, channel statistics and licence are those of timm's configuration of the pretrained weights. A folder or
    file is named in the card by its last part alone, so that no store carries a path of the machine that wrote it.

    Parameters
    ----------
    name
        Name of the encoder.
    revision
        Branch, tag or commit, where the weights lie on the Hub; None for the main branch.
    has_stages
        Whether features are statistics of the maps of all stages (`pool_stages`), not the pooled last layer.

    Raises
    ------
    EncoderError
        If there is no such model, it has no pretrained weights or not the stages that are asked for, or its
        configuration cannot be reached or used.
    """
    kind, _, place = name.partition(":")
    if kind == "local" and revision:
        message = (
            f"encoder {name!r} lies in a folder, which has no revisions; leave out --revision {revision!r}"
        )
        raise EncoderError(message)
    if kind == "timm" and not timm.is_model(place):
        near = difflib.get_close_matches(place, timm.list_models(pretrained=True), n=3)
        hint = f"did you mean {' or '.join(f'timm:{m}' for m in near)}?" if near else "see timm.list_models()"
        message = f"timm {timm.__version__} has no model {place!r}; {hint}"
        raise EncoderError(message)
    shown = f"{name}@{revision}" if revision and kind == "hf-hub" else name
    with explained(shown, name, revision=revision):
        folder = _config_folder(kind, place, revision)
        with torch.device("meta"):  # shapes alone; a billion weights would take a minute
            model: Any = timm.create_model(place if folder is None else f"local-dir:{folder}")
        if model.num_classes:
            model.reset_classifier(0)
    config = model.pretrained_cfg
    if not any(config.get(key) for key in ("hf_hub_id", "url", "file")):
        tags = timm.list_pretrained(f"{place.split('.')[0]}*")
        hint = f"use one of {', '.join(f'timm:{t}' for t in tags[:5])}" if tags else "choose another model"
        message = f"timm has no pretrained weights for {place!r}, and a random encoder is of no use; {hint}"
        raise EncoderError(message)
    data = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    _, height, width = data["input_size"]
    if height != width or data["interpolation"] not in ("bicubic", "bilinear"):
        message = (
            f"encoder {shown!r} takes {height} x {width} pixels resampled by {data['interpolation']!r}; "
            "expected square tiles and bicubic or bilinear; choose another model"
        )
        raise EncoderError(message)
    tag = f".{config['tag']}" if config.get("tag") else ""
    own_name = f"local:{Path(place).resolve().name}" if kind == "local" else shown
    return EncoderCard(
        name=f"{own_name}{STAGES}" if has_stages else own_name,
        source=f"timm:{config['architecture']}{tag}" if kind == "timm" else name,
        revision=revision,
        architecture=config["architecture"],
        kwargs=tuple(_model_args(folder).items()) if folder else (),
        dim=_stages_dim(model, shown)
        if has_stages
        else int(getattr(model, "head_hidden_size", None) or model.num_features),
        pooling="stages" if has_stages else "model",
        n_registers=n_registers(model),
        input_px=height,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        licence=config.get("license") or "unknown",
    )


def timm_repository(model: str) -> str | None:
    """Name the repository of the Hub that holds the weights of one of timm's models; None if it is elsewhere."""
    config = timm.get_pretrained_cfg(model)
    repository: str | None = config.hf_hub_id if config else None
    return repository or None


def _stages_dim(model: Any, shown: str) -> int:
    """Count what `pool_stages` makes of a network.

    Raises
    ------
    EncoderError
        If it has tokens and no stages, as a vision transformer.
    """
    stages = getattr(model, "feature_info", None) or []
    # Mixers and the like keep one resolution: their maps are those of one stage, at many depths.
    n_sizes = len({stage["reduction"] for stage in stages})
    if n_sizes < 2 or not hasattr(model, "forward_intermediates"):
        message = (
            f"encoder {shown!r} has no stages of maps that {STAGES!r} could pool, as convolutional networks have; "
            f"ask for {shown!r} alone"
        )
        raise EncoderError(message)
    return 2 * sum(int(stage["num_chs"]) for stage in stages)


def _config_folder(kind: str, place: str, revision: str | None) -> Path | None:
    """Find the folder with timm's configuration of a model, and fetch it from the Hub if need be; None for timm's own."""
    if kind == "timm":
        return None
    if kind == "hf-hub":
        return fetch_file(HubFile(repository=place, revision=revision, names=("config.json",))).parent
    path = Path(place)
    return path.parent if path.is_file() else path


def _model_args(folder: Path) -> dict[str, Any]:
    """Read the arguments that a model is built with besides the name of its architecture."""
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_args", {})
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in stated.items()
        if key != "num_classes"
    }
