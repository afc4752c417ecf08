"""The published LoRA options of `spam pretrain`: adapt the encoder, embed with it, and train on its features."""

import dataclasses
from pathlib import Path
from typing import Any

from spam.errors import ConfigError
from spam.progress import Progress
from spam.schemas.adapt_config import UNUSED_BY_ADAPT, AdaptConfig
from spam.schemas.config import flag
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.training_config import PretrainConfig

from .lab_files import ADAPTER_NAME, embed_values
from .options import Option, options_of

__all__ = ["LORA_OPTIONS", "on_adapted_features", "take_lora"]

_WITH_LORA = Option(
    name="with_lora",
    kind=bool,
    default=False,
    help="adapt the encoder to the training sections by LoRA first, and train on the features that it gives then; the "
    "adapter goes into the folder lora of --save-dir, for --lora of the other commands",
)
_EPOCHS = "lora_epochs"  # --epochs counts those of the stage
_SETTINGS = tuple(
    dataclasses.replace(
        option,
        name=_EPOCHS if option.name == "epochs" else option.name,
        help=f"with --with-lora: {option.help}",
    )
    for option in options_of(AdaptConfig)
    if option.name in ("lora_r", "lora_alpha", "lora_dropout", "epochs")
)
LORA_OPTIONS = (_WITH_LORA, *_SETTINGS)


def take_lora(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Separate LoRA's options from the others; None in their place where it is not asked for.

    Raises
    ------
    ConfigError
        If one of its settings is given without ``--with-lora``, ``--lora`` beside it, or there are no lab files to cut tiles
        from.
    """
    names = [option.name for option in LORA_OPTIONS]
    others = {name: value for name, value in values.items() if name not in names}
    settings = {name: values[name] for name in names[1:] if name in values}
    if not values.get("with_lora"):
        if settings:
            message = f"{', '.join(map(flag, settings))} changes nothing without --with-lora; leave it out"
            raise ConfigError(message)
        return others, None
    if "lora" in values:
        message = "--with-lora trains an adapter, and --lora names one that is trained; give one of them"
        raise ConfigError(message)
    if "store" in values:
        message = (
            "--with-lora needs the tiles, which a store does not hold; give --csv and --root (with --h5ad, or --manifest) "
            "in place of --store, or run `spam adapt` and `spam embed --lora` first"
        )
        raise ConfigError(message)
    # Checked before anything is embedded; folders do not matter for that.
    AdaptConfig.from_mapping({"store": ADAPTER_NAME, "save_dir": ADAPTER_NAME, **_named(settings)})
    return others, settings


def on_adapted_features(
    config: PretrainConfig, values: dict[str, Any], settings: dict[str, Any], progress: Progress
) -> PretrainConfig:
    """Adapt the encoder to the sections of a run, embed with it, and return the run on the adapted features.

    Parameters
    ----------
    config
        The run on frozen features, which are in its store.
    values
        All options that were given, those of the lab files among them.
    settings
        Those of LoRA, from `take_lora`.
    """
    assert config.save_dir is not None  # held by PretrainConfig
    tiles = EmbedConfig.from_mapping(embed_values({**values, "store": config.store}))
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(PretrainConfig)
        if field.name not in (*UNUSED_BY_ADAPT, "epochs", "enc_name")
    }
    folder = Path(config.save_dir) / ADAPTER_NAME
    adapting = AdaptConfig.from_mapping({**shared, **_named(settings), "save_dir": folder})
    from spam.adaptation import adapt
    from spam.embedding import embed

    adapted = adapt(adapting, tiles, progress=progress)
    embed(dataclasses.replace(tiles, lora=adapted.folder), progress=progress)
    return dataclasses.replace(config, enc_name=adapted.card.encoder_name)


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    """Name LoRA's settings as `AdaptConfig` does."""
    return {"epochs" if name == _EPOCHS else name: value for name, value in settings.items()}
