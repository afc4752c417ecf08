"""Adapt an encoder to a cohort by low-rank updates of its layers (LoRA): tiles + frozen features in the store -> adapter."""

import contextlib
import dataclasses
import functools
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spam.atomic import claimed
from spam.encoders.encoder import build_network
from spam.encoders.lora_adapter import add_lora, peft_package, write_adapter
from spam.encoders.tile_network import weights_digest
from spam.errors import ConfigError, StoreError
from spam.hardware import limited_threads, resolve_device, seeded
from spam.models.checkpoint import read_checkpoint, weights_of
from spam.progress import SILENT, Progress
from spam.schemas.adapt_config import UNUSED_BY_ADAPT, AdaptConfig
from spam.schemas.config import check, flag
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.encoder_card import AdapterCard, EncoderCard
from spam.store import open_store, readable_spots
from spam.training.loop import Run, TrainingReport, fit
from spam.training.training_set import NOT_IN_DIGEST, TrainingSet, build_training_set
from spam.typing import Array, Int64
from spam.versions import software_versions

from .adaptation_stage import AdaptationStage
from .planning import EmbedPlan, PlannedSection, read_plan
from .tile_bank import cut_tiles


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdaptReport(TrainingReport):
    """Outcome of `adapt`: besides the training, the folder and card of the adapter, and the command that embeds with it."""

    folder: Path
    card: AdapterCard
    next_command: str

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            **{name: getattr(self, name) for name in ("n_train", "n_val", "val_sections")},
            "adapter": str(self.folder),
            "encoder": self.card.encoder_name,
            "adapter_sha256": self.card.adapter_sha256,
            "best_epoch": self.card.best_epoch,
            "resumed_from": self.run.resumed_from,
            "metrics": self.run.best,
            "next": self.next_command,
        }

    def summary(self) -> str:
        """Compare the held-out loss with that before training and by chance, and name the next command."""
        start, best = self.run.history[0], self.run.best
        n_pairs = sum(f"val_{pair}_loss" in best for pair in ("gene", "coord"))
        lines = [
            *self.run.repeated(),
            f"{self.n_train} training spots, {self.n_val} held out ({self.held_out}); best epoch {self.card.best_epoch} of "
            f"{self.card.epochs}: held-out loss {best['val_loss']:.4f}, before training {start['val_loss']:.4f} (chance: "
            f"{n_pairs * best['val_ln_batch']:.4f})",
            f"Adapter: {self.folder}; encoder name of its features: {self.card.encoder_name}",
            f"Next: {self.next_command}",
        ]
        if self.card.best_epoch == 0:
            lines.append(
                "NOT learned: this adapter changes nothing. Use another --lr, or the frozen features."
            )
        return "\n".join(lines)


def adapt(config: AdaptConfig, tiles: EmbedConfig, *, progress: Progress = SILENT) -> AdaptReport:
    """Train an adapter of an encoder on the tiles and counts of a cohort whose frozen features are in a store.

    The save dir becomes an adapter folder for ``spam embed --lora``; its folder ``training`` allows a killed run to
    resume. Each epoch visits every training spot once (at most `spots_per_epoch`), as an augmented tile. The epoch with the
    lowest loss on held-out spots is kept; the state before training is among them.

    The encoder sees the counts of its training sections, and the held-out sections choose the epoch: do not evaluate on
    ``--sections`` or ``--val-sections``.

    Parameters
    ----------
    config
        Options of the training.
    tiles
        Options with which the frozen features were embedded. Store, encoder and tile sizes must agree with `config`.
    progress
        Gets a task per tile size, counted in tiles, and one for the epochs.

    Raises
    ------
    ConfigError, EncoderError, MissingInputError, SectionError, SlideError, StoreError, TileError
        As `spam.embed` and `spam.pretrain`, before training; also if peft is not installed, or the store lacks the frozen
        features or holds those of other weights.
    OutputExistsError
        If the save dir holds a run with other options or data, or more epochs.
    """
    device = resolve_device(config.device)
    peft_package()
    tiles = dataclasses.replace(tiles, overwrite=False)
    with contextlib.ExitStack() as slides:
        planned = read_plan(tiles, slides)
        config = _completed(config, tiles, planned)
        assert config.save_dir is not None  # checked by AdaptConfig
        with limited_threads(config.num_workers), claimed(config.save_dir, "--save-dir"):
            return _adapt(config, tiles, planned, device, progress)


def _adapt(
    config: AdaptConfig, tiles: EmbedConfig, planned: EmbedPlan, device: torch.device, progress: Progress
) -> AdaptReport:
    assert isinstance(config.store, Path)  # checked by AdaptConfig, as is save_dir
    assert config.save_dir is not None
    data = build_training_set(config)
    sections = _in_training_order(planned, data)
    network = build_network(planned.card)
    digest = weights_digest(network.backbone)
    stored = {str(encoder["weights_sha256"]) for encoder in data.features.encoders}
    if stored != {digest}:
        found = ", ".join(sorted(weights[:8] for weights in stored))
        message = (
            f"The features of {planned.card.name!r} in the store come from weights {found}, not {digest[:8]}. Choose "
            f"their --revision, or embed again: {embed_command(tiles)} --overwrite"
        )
        raise StoreError(message)
    spots, rows = _spots_with_counts(data, config.store)
    cut = functools.partial(
        cut_tiles,
        sections,
        spots,
        rows,
        tiles,
        n_rows=len(data.totals),
        folder=config.save_dir,
        device=device,
        progress=progress,
    )
    with seeded(config.seed, device=torch.device("cpu")):
        lora = add_lora(network, r=config.lora_r, alpha=config.lora_alpha, dropout=config.lora_dropout)
        stage = AdaptationStage(config, data, network, device, cut=cut)
    if config.grad_checkpointing:
        backbone: Any = network.backbone
        if not hasattr(backbone, "set_grad_checkpointing"):
            message = f"Encoder {planned.card.name!r} has no --grad-checkpointing. Lower --batch-size."
            raise ConfigError(message)
        backbone.set_grad_checkpointing(enable=True)
    if config.overwrite:
        _ = stage.tiles  # a tile may be unreadable: find out before the old run is deleted
    training = dataclasses.replace(config, save_dir=config.save_dir / "training")
    run = fit(stage, training, device=device, progress=progress)
    _, best = read_checkpoint(run.best_path, stage=stage.name)
    stage.network.load_state_dict(weights_of(best))
    return AdaptReport(
        run=run,
        n_train=len(data.train_rows),
        n_val=len(data.val_rows),
        val_sections=() if len(data.spots) == 1 else data.held_out_sections,
        folder=config.save_dir,
        card=write_adapter(config.save_dir, lora, _describe(config, planned.card, data, run, digest)),
        next_command=embed_command(dataclasses.replace(tiles, lora=config.save_dir)),
    )


def embed_command(tiles: EmbedConfig) -> str:
    """Write the `spam embed` command of a configuration, without default options."""
    words = ["spam", "embed"]
    for field in dataclasses.fields(tiles):
        value, name = getattr(tiles, field.name), flag(field.name)
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(name if value else f"--no-{name[2:]}")
        else:
            words += [name, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def _completed(config: AdaptConfig, tiles: EmbedConfig, planned: EmbedPlan) -> AdaptConfig:
    """Fill in sections, encoder and tile sizes, after checking that all their frozen features exist."""
    check(
        f"{flag(name)} is {value!r} for the training, but {getattr(tiles, name)!r} for the tiles; use one value"
        for name in ("store", "enc_name", "tile_um", "dihedral")
        if (value := getattr(config, name)) and value != getattr(tiles, name)
    )
    described = {one.section.name: one for one in planned.sections}
    names = config.sections or tuple(described)
    used = tuple(dict.fromkeys((*names, *config.val_sections)))
    if unknown := [name for name in used if name not in described]:
        message = (
            f"--sections {', '.join(map(repr, unknown))} not in the input files ({', '.join(described)})."
        )
        raise ConfigError(message)
    store = open_store(planned.store) if planned.store.exists() else None
    missing = [
        f"{name}: {key}"
        for name in used
        for key in described[name].keys
        if store is None or name not in store.section_names or key not in store.section(name).feature_keys
    ]
    if missing:
        message = f"The store lacks frozen features {'; '.join(missing)}. Run first: {embed_command(tiles)}"
        raise StoreError(message)
    sizes = tuple(spec.tile_um for spec in described[used[0]].specs if spec.tile_um is not None)
    return dataclasses.replace(
        config,
        store=planned.store,
        enc_name=planned.card.name,
        sections=names,
        tile_um=sizes,
        dihedral=tiles.dihedral,
    )


def _in_training_order(planned: EmbedPlan, data: TrainingSet) -> list[PlannedSection]:
    """Order sections and tile sizes as the training set does."""
    described = {one.section.name: one for one in planned.sections}
    ordered = []
    for spots in data.spots:
        one = described[spots.name]
        if set(one.keys) != set(data.features.keys):
            used = ", ".join(data.features.keys)
            message = f"Section {spots.name!r} has {', '.join(one.keys)}, the training uses {used}. Choose --tile-um."
            raise StoreError(message)
        order = [one.keys.index(key) for key in data.features.keys]
        specs, samplings = tuple(one.specs[i] for i in order), tuple(one.samplings[i] for i in order)
        ordered.append(dataclasses.replace(one, specs=specs, samplings=samplings, keys=data.features.keys))
    return ordered


def _spots_with_counts(
    data: TrainingSet, store: Path
) -> tuple[list[Int64[Array, "..."]], list[Int64[Array, "..."]]]:
    """Return the training and held-out spots by their number in each section, and by their row in the training set.

    The two differ if tiles could not be read: the training set omits their spots.
    """
    opened, kept = open_store(store), np.sort(np.concatenate([data.train_rows, data.val_rows]))
    spots, rows = [], []
    for i, section in enumerate(data.spots):
        numbers = np.flatnonzero(readable_spots(opened.section(section.name), data.features.keys))
        rows.append(kept[data.section_of[kept] == i])
        spots.append(numbers[rows[-1] - np.searchsorted(data.section_of, i)])
    return spots, rows


def _describe(
    config: AdaptConfig, card: EncoderCard, data: TrainingSet, run: Run, digest: str
) -> AdapterCard:
    """Make the adapter's card; its own digest follows when it is written."""
    skipped = {*NOT_IN_DIGEST, *UNUSED_BY_ADAPT} - {"epochs"}
    is_val, section = data.groups.is_val, data.section_of
    return AdapterCard(
        encoder=card.to_mapping(),
        weights_sha256=digest,
        adapter_sha256="",
        tiles=data.features.tiles,
        train_sections=tuple(s.name for i, s in enumerate(data.spots) if (~is_val[section == i]).any()),
        val_sections=data.held_out_sections,
        genes=data.genes.genes,
        epochs=len(run.history) - 1,
        best_epoch=int(run.best["epoch"]),
        history=run.history,
        config={key: value for key, value in config.to_mapping().items() if key not in skipped},
        software={**software_versions(), "peft": version("peft")},
    )
