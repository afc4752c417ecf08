"""Lab files in place of ``--store``: embedded first, into a store inside the folder of the results."""

import dataclasses
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from spam.atomic import replacing
from spam.errors import ConfigError
from spam.progress import Progress
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.config import Config, flag
from spam.schemas.embed_config import EmbedConfig

from .options import Option, options_of

__all__ = ["ADAPTER_NAME", "STORE_NAME", "embed_values", "keep_adapter", "lab_file_options", "with_store"]

STORE_NAME = "store.zarr"
ADAPTER_NAME = "lora"  # folder of the adapter of `spam pretrain --with-lora`, beside its checkpoints
_IMG_BATCH_SIZE = (
    "img_batch_size"  # --batch-size counts the spots of a training step; the encoder has its own
)
_LEFT_TO_EMBED = ("store", "dtype", "chunk_rows", "overview", "overwrite", "device")
_SOURCES = ("h5ad", "csv", "root", "manifest")


def lab_file_options(stage: Collection[Option], *, leave_out: Collection[str] = ()) -> tuple[Option, ...]:
    """List the options of `spam embed` that a stage takes beside its own."""
    own = {option.name for option in stage}
    found = []
    for option in options_of(EmbedConfig, leave_out={*_LEFT_TO_EMBED, *leave_out}):
        if option.name == "batch_size":
            found.append(dataclasses.replace(option, name=_IMG_BATCH_SIZE, flags=()))
        elif option.name not in own:
            found.append(option)
    return tuple(found)


def _named_encoder(name: str) -> str:
    """Put the name that stores carry for an alias, e.g. ``hoptimus0`` for ``h-optimus-0``."""
    from spam.encoders import list_encoders

    return next((card.name for card in list_encoders() if name in card.aliases), name)


def _encoder_of(checkpoint: Path, lora: Path | None) -> dict[str, Any]:
    """Read from a checkpoint which encoder, adapter and tile sizes a section needs to be used with it.

    Raises
    ------
    ConfigError
        If it needs an adapter, and neither `lora` nor the folder ``lora`` beside the checkpoint is that one.
    """
    from spam.encoders.adapter import CARD, frozen_name, read_adapter
    from spam.models.checkpoint import read_checkpoint_meta

    meta = read_checkpoint_meta(checkpoint)
    name = frozen_name(meta.encoder_name)
    if name is not None:
        folder = checkpoint.parent / ADAPTER_NAME if lora is None else lora
        found = read_adapter(folder).encoder_name if lora or (folder / CARD).exists() else None
        if found != meta.encoder_name:
            message = (
                f"checkpoint {str(checkpoint)!r} was trained on features of the adapted encoder {meta.encoder_name!r}, and "
                + (f"--lora {str(folder)!r} is that of {found!r}" if found else "no adapter is given")
                + "; give the folder that `spam adapt`, or `spam pretrain --with-lora`, wrote then with --lora"
            )
            raise ConfigError(message)
        return {"lora": folder, **_asked_of(meta, name)}
    return _asked_of(meta, meta.encoder_name)


def keep_adapter(checkpoint: Path | None, save_dir: Path) -> None:
    """Copy the adapter that lies beside a checkpoint into the folder of the run that starts from it."""
    folder = None if checkpoint is None else checkpoint.parent / ADAPTER_NAME
    if folder is not None and folder.is_dir() and folder.resolve() != (save_dir / ADAPTER_NAME).resolve():
        kept = save_dir / ADAPTER_NAME
        kept.mkdir(exist_ok=True)
        for file in folder.iterdir():
            if file.is_file():  # not the state of the training that made it
                with replacing(kept / file.name) as partial:
                    shutil.copyfile(file, partial)


def _asked_of(meta: CheckpointMeta, enc_name: str) -> dict[str, Any]:
    """Name encoder and tile sizes as `spam embed` is told them."""
    sizes = {
        key: tuple(tile[key] for tile in meta.tiles if tile[key] is not None)
        for key in ("tile_um", "tile_px")
    }
    kind = {"dihedral": meta.is_averaged}
    return {"enc_name": enc_name, **{key: value for key, value in {**sizes, **kind}.items() if value}}


def embed_values(values: Mapping[str, Any], checkpoint: Path | None = None) -> dict[str, Any]:
    """Pick what `spam embed` is told; encoder and tile sizes default to those of a checkpoint."""
    wanted = {field.name for field in dataclasses.fields(EmbedConfig)} - {"batch_size"}
    told = {name: value for name, value in values.items() if name in wanted}
    if _IMG_BATCH_SIZE in values:
        told["batch_size"] = values[_IMG_BATCH_SIZE]
    assumed = _encoder_of(checkpoint, told.get("lora")) if checkpoint else {}
    if "tile_um" in told or "tile_px" in told:
        assumed = {
            name: value
            for name, value in assumed.items()
            if name in ("enc_name", "lora", "dihedral")
        }
    return {**assumed, **told}


def with_store(
    config: type[Config],
    values: Mapping[str, Any],
    progress: Progress,
    *,
    folder: str,
    checkpoint: str | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a stage's own values, with a store, and the sections embedded for it (none with ``--store``).

    The stage's options are checked before anything is embedded. `folder` names the option of the folder that
    gets the store, `checkpoint` the option of the checkpoint that says which encoder to use where nobody else
    does.

    Raises
    ------
    ConfigError
        If options of lab files stand beside ``--store``, or without any lab file.
    """
    own = {field.name for field in dataclasses.fields(config)}
    stage = {name: value for name, value in values.items() if name in own}
    if "enc_name" in values:
        values = {**values, "enc_name": _named_encoder(values["enc_name"])}
        stage.update({"enc_name": values["enc_name"]} if "enc_name" in own else {})
    apart = ", ".join(flag(name) for name in values if name not in own)
    has_files = any(name in values for name in _SOURCES)
    if apart and not has_files:
        advice = "leave them out beside --store" if "store" in values else "add --csv and --root"
        message = f"{apart} serve to embed lab files, and none are given; {advice}"
        raise ConfigError(message)
    if not has_files:
        return stage, ()
    if "store" in values:
        message = f"{apart} serve to embed lab files into their own store; leave out these, or --store"
        raise ConfigError(message)
    if folder not in values:
        message = f"{flag(folder)} is missing: say where the results (and the feature store, {STORE_NAME}) go"
        raise ConfigError(message)
    stage["store"] = Path(values[folder]) / STORE_NAME
    config.from_mapping(stage)
    embedding = EmbedConfig.from_mapping(
        embed_values({**values, "store": stage["store"]}, values.get(checkpoint) if checkpoint else None)
    )
    from spam.embedding import embed  # heavy: not before everything above was found in order

    report = embed(embedding, progress=progress)
    if "enc_name" in own:
        stage["enc_name"] = report.encoder  # of an adapter, or of a folder, the name that its features carry
    return stage, tuple(section.name for section in report.sections)
