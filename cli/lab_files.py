"""Lab files in place of ``--store``: embedded first, into a store in the output folder, with LoRA on request."""

import dataclasses
import importlib.util
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from spam.atomic import replacing
from spam.errors import ConfigError
from spam.progress import Progress
from spam.schemas.adapt_config import UNUSED_BY_ADAPT, AdaptConfig
from spam.schemas.checkpoint_meta import ADAPTER_NAME, CHECKPOINT_NAME
from spam.schemas.config import Config, flag
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.predict_config import SlideConfig

from .command import call
from .options import Option, options_of

C = TypeVar("C", bound=Config)
_log = logging.getLogger(__name__)

STORE_NAME = "store.zarr"
_SOURCES = ("h5ad", "csv", "cells", "root", "manifest", "from_")
# Options of `spam embed` that other commands do not take; a part of the features (--shard) is of no use to them.
_ONLY_EMBED = ("chunk_rows", "local_cache", "overview", "shard")
_STAGES = {"ckpt": "finetune", "pretrained_ckpt": "pretrain"}  # of the checkpoint of an option
_AS_IN_CHECKPOINT = ("enc_name", "tile_um", "dihedral")  # where `spam predict` embeds lab files
# --batch-size and --epochs belong to the stage; the encoder and its adapter have options with other names.
_OF_THE_ENCODER = {"batch_size": "img_batch_size"}
_OF_THE_ADAPTER = {"epochs": "lora_epochs"}


def lab_file_options(stage: type[Config], *, leave_out: tuple[str, ...] = ()) -> tuple[Option, ...]:
    """List the options of `spam embed` that a stage takes besides its own."""
    own = {field.name for field in dataclasses.fields(stage)} - set(_OF_THE_ENCODER)
    options = []
    for option in options_of(EmbedConfig, leave_out={*own, *_ONLY_EMBED, *leave_out}):
        help = option.help
        if "ckpt" in own and option.name in _AS_IN_CHECKPOINT:
            help = f"{help.partition(' (default')[0]} (default: as in the checkpoint)"
        name = _OF_THE_ENCODER.get(option.name, option.name)
        options.append(dataclasses.replace(option, name=name, help=help, flags=(), panel="Lab files"))
    return tuple(options)


def lora_options() -> tuple[Option, ...]:
    """List the published LoRA options of `spam pretrain`."""
    with_lora = Option(
        name="with_lora",
        kind=bool,
        default=False,
        panel="Lab files",
        help="first adapt the encoder to the training sections with LoRA, then train on the adapted features; the adapter is "
        "saved in the folder lora of --save-dir",
    )
    settings = (
        dataclasses.replace(
            option,
            name=_OF_THE_ADAPTER.get(option.name, option.name),
            help=f"with --with-lora: {option.help}",
            panel="Lab files",
        )
        for option in options_of(AdaptConfig)
        if option.name.startswith("lora_") or option.name in _OF_THE_ADAPTER
    )
    return (with_lora, *settings)


def with_store(
    config: type[C], values: Mapping[str, Any], progress: Progress, *, checkpoint: str | None = None
) -> C:
    """Build the configuration of a stage; lab files are embedded first, and their store and sections are filled in.

    All options and paths are checked before anything is embedded.

    Parameters
    ----------
    config
        Class of the configuration.
    values
        Given options: those of the stage and those of the lab files.
    progress
        Shows the embedding.
    checkpoint
        Option of the checkpoint that sets the default encoder and tile sizes.

    Raises
    ------
    ConfigError
        If options of lab files are given together with ``--store``, or without any lab file.
    MissingInputError
        If an input does not exist.
    """
    own = {field.name for field in dataclasses.fields(config)}
    stage = {name: value for name, value in values.items() if name in own}
    foreign = ", ".join(flag(name) for name in values if name not in own)
    if not any(name in values for name in _SOURCES):
        if foreign:
            advice = "leave out these, or --store" if "store" in values else "add --csv and --root"
            message = f"{foreign} describe lab files, and none are given; {advice}"
            raise ConfigError(message)
        config.from_mapping(stage).check_paths()
        return config.from_mapping(_with_encoder_name(stage))
    if "store" in values:
        message = f"{foreign} describe lab files, which go into a new store; leave out these, or --store"
        raise ConfigError(message)
    folder = "save_dir" if "save_dir" in own else "out_dir"
    if folder not in values:
        message = f"{flag(folder)} is missing: give a folder for the results and the feature store"
        raise ConfigError(message)
    stage["store"] = Path(values[folder]) / STORE_NAME
    config.from_mapping(stage).check_paths(leave_out=["store"])
    tiles = embed_config(values, stage["store"])
    tiles.check_paths()
    values = _with_encoder_name(values)
    if checkpoint in values:
        from spam.models.checkpoint import read_checkpoint
        from spam.store import local_file, pinned

        # What is read afterwards is the same file, even if another one is shared meanwhile.
        stage[checkpoint] = pinned(getattr(config.from_mapping(stage), checkpoint), CHECKPOINT_NAME)
        # refused now, not after hours of embedding
        read_checkpoint(local_file(stage[checkpoint], CHECKPOINT_NAME), stage=_STAGES[checkpoint])
        tiles = embed_config(values, stage["store"], stage[checkpoint])
    report = call("embed", tiles, progress=progress)
    _log.info("%s", report.summary())
    sections = tuple(section.name for section in report.sections)
    if "sections" in own:
        stage.setdefault("sections", sections)
    else:
        stage.setdefault("section", sections[0])
    if "enc_name" in own:
        stage["enc_name"] = report.encoder  # an adapter or a folder has another name in the store
    return config.from_mapping(stage)


def with_slide(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ``SLIDE`` by the options that it stands for: a grid on that slide, a folder for the results, and a report.

    Raises
    ------
    ConfigError
        If options that name other inputs are given too.
    MissingInputError
        If there is no such file.
    """
    given = dict(values)
    slide = SlideConfig.from_mapping({"slide": given.pop("slide", None)})
    if slide.slide is None:
        return given
    if others := [flag(name) for name in ("store", "tiles", *_SOURCES) if name in given]:
        message = f"SLIDE names the only input; omit {', '.join(others)}, or omit SLIDE"
        raise ConfigError(message)
    slide.check_paths()
    defaults = {"out_dir": f"{slide.slide.stem}_predicted", "report": True}
    return {**defaults, **given, "root": str(slide.slide), "tiles": "grid"}


def embed_config(
    values: Mapping[str, Any], store: Path | str, checkpoint: Path | str | None = None
) -> EmbedConfig:
    """Pick the options of `spam embed`; the default encoder and tile sizes are those of a checkpoint."""
    wanted = {field.name for field in dataclasses.fields(EmbedConfig)} - set(_OF_THE_ENCODER)
    given = {name: value for name, value in values.items() if name in wanted}
    given |= {name: values[own] for name, own in _OF_THE_ENCODER.items() if own in values}
    assumed = _encoder_of(checkpoint, given.get("lora")) if checkpoint else {}
    if "tile_um" in given or "tile_px" in given:
        assumed = {name: value for name, value in assumed.items() if name not in ("tile_um", "tile_px")}
    return EmbedConfig.from_mapping({**assumed, **given, "store": store})


def _with_encoder_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the alias of an encoder by its name in stores, e.g. ``h-optimus-0`` by ``hoptimus0``."""
    if "enc_name" not in values:
        return dict(values)
    from spam.encoders import list_encoders

    names = {alias: card.name for card in list_encoders() for alias in card.aliases}
    given = str(values["enc_name"]).split(",")
    return {**values, "enc_name": ",".join(names.get(name, name) for name in given)}


def _encoder_of(checkpoint: Path | str, lora: str | Path | None) -> dict[str, Any]:
    """Read from a checkpoint the encoder, adapter and tile sizes that its input needs.

    Raises
    ------
    ConfigError
        If it needs an adapter that is neither `lora` nor in the folder ``lora`` beside the checkpoint.
    """
    from spam.encoders import read_adapter
    from spam.encoders.lora_adapter import CARD, frozen_name
    from spam.models.checkpoint import read_checkpoint_meta
    from spam.store import local_file
    from spam.store.remote import shown

    path = local_file(checkpoint, CHECKPOINT_NAME)
    meta = read_checkpoint_meta(path)
    encoder, *others = meta.encoder_names
    if others:
        message = (
            f"The checkpoint needs features of several encoders ({', '.join(meta.encoder_names)}), so it needs a store. Run "
            "`spam embed` with each --enc-name into one store, then give --store instead of SLIDE or --root"
        )
        raise ConfigError(message)
    assumed: dict[str, Any] = {"enc_name": encoder, "dihedral": meta.is_averaged}
    for size in ("tile_um", "tile_px"):
        if sizes := tuple(tile[size] for tile in meta.tiles if tile[size] is not None):
            assumed[size] = sizes
    frozen = frozen_name(encoder)
    if frozen is None:
        return assumed
    folder = Path(lora or path.parent / ADAPTER_NAME)
    found = read_adapter(folder).encoder_name if lora or (folder / CARD).exists() else None
    if found != encoder:
        given = f"--lora {folder} holds {found!r}" if found else "no adapter is given"
        where = checkpoint if isinstance(checkpoint, Path) else shown(checkpoint.partition("#")[0])
        fetch = "" if isinstance(checkpoint, Path) else f"; `spam model pull {where} model` fetches both"
        message = (
            f"{where} was trained on features of the adapted encoder {encoder!r}, but {given}. "
            f"Give its adapter with --lora{fetch}"
        )
        raise ConfigError(message)
    return {**assumed, "enc_name": frozen, "lora": folder}


def take_lora(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Separate the options of LoRA, named as in `AdaptConfig`, from the others; None if it is off.

    Raises
    ------
    ConfigError
        If a setting is given without ``--with-lora``, with ``--lora``, or without lab files.
    """
    names = {option.name for option in lora_options()}
    others = {name: value for name, value in values.items() if name not in names}
    given = [name for name in values if name in names and name != "with_lora"]
    if not values.get("with_lora"):
        if given:
            message = f"{', '.join(map(flag, given))} has no effect without --with-lora"
            raise ConfigError(message)
        return others, None
    if "lora" in values:
        message = "--with-lora trains an adapter, --lora uses an existing one; give one of them"
        raise ConfigError(message)
    if "store" in values:
        message = "--with-lora needs the tiles, which a store does not hold; give --csv and --root instead of --store"
        raise ConfigError(message)
    back = {own: name for name, own in _OF_THE_ADAPTER.items()}
    settings = {back.get(name, name): values[name] for name in given}
    AdaptConfig.from_mapping({"store": STORE_NAME, "save_dir": ADAPTER_NAME, **settings})  # checks the values
    if importlib.util.find_spec("peft") is None:
        from spam.encoders.lora_adapter import peft_package

        peft_package()  # raises: better now than after the first embedding
    return others, settings


def adapt_and_embed(
    config: C, values: Mapping[str, Any], settings: Mapping[str, Any], progress: Progress
) -> C:
    """Adapt the encoder to the sections of a run, embed with it, and return the run on the adapted features.

    Parameters
    ----------
    config
        The run on frozen features.
    values
        All given options, including those of the lab files.
    settings
        Options of LoRA, from `take_lora`.
    progress
        Shows the steps.
    """
    mapping = config.to_mapping()
    shared = {
        name: value for name, value in mapping.items() if name not in {*UNUSED_BY_ADAPT, "epochs", "enc_name"}
    }
    adapting = AdaptConfig.from_mapping(
        {**shared, **settings, "save_dir": Path(mapping["save_dir"]) / ADAPTER_NAME}
    )
    tiles = embed_config(values, mapping["store"])
    adapted = call("adapt", adapting, tiles, progress=progress)
    call("embed", dataclasses.replace(tiles, lora=adapted.folder), progress=progress)
    return type(config).from_mapping({**mapping, "enc_name": adapted.card.encoder_name})


def keep_adapter(checkpoint: Path | str | None, save_dir: Path) -> None:
    """Copy the adapter beside a checkpoint on this machine into the folder of the run that starts from it."""
    from spam.store import is_remote, local_file

    if checkpoint is None or is_remote(checkpoint):
        return

    folder, kept = local_file(checkpoint, CHECKPOINT_NAME).parent / ADAPTER_NAME, save_dir / ADAPTER_NAME
    if folder.is_dir() and folder.resolve() != kept.resolve():
        kept.mkdir(exist_ok=True)
        for file in filter(Path.is_file, folder.iterdir()):  # leaves out the state of its training
            with replacing(kept / file.name) as partial:
                shutil.copyfile(file, partial)
