"""Adapt an encoder to a cohort by low-rank updates of its layers (LoRA)."""

import dataclasses
import functools
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from spam.encoders.adapter import write_adapter
from spam.encoders.build import build_network
from spam.encoders.lora import add_lora, peft_package, target_patterns
from spam.encoders.network import TileNetwork, weights_digest
from spam.errors import ConfigError, StoreError
from spam.hardware import limited_threads, resolve_device, seeded
from spam.models.checkpoint import read_checkpoint
from spam.models.linear import standardise_per_section
from spam.planning import plan
from spam.progress import SILENT, Progress
from spam.schemas.adapt_config import UNUSED_BY_ADAPT, AdaptConfig
from spam.schemas.adapter_card import AdapterCard
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.encoder_card import EncoderCard
from spam.store import open_store, readable_spots
from spam.training.loop import Run, fit
from spam.training.training_set import NOT_IN_DIGEST, TrainingSet, build_training_set
from spam.typing import Array, Int64
from spam.versions import software_versions

from .choosing import agreed, choose, embed_command, in_training_order
from .network import AdaptationNetwork
from .objectives import build_objective
from .report import AdaptReport
from .stage import AdaptationStage
from .tile_bank import cut_tiles

__all__ = ["adapt"]


def adapt(config: AdaptConfig, tiles: EmbedConfig, *, progress: Progress = SILENT) -> AdaptReport:
    """Train an adapter of an encoder on the tiles and the counts of a cohort whose frozen features are in a store.

    The save dir becomes a folder of peft with a card beside it, which ``spam embed --lora`` takes; what is needed to
    go on after a kill is in its folder ``training``. Each epoch visits every training spot once, as an augmented tile; the
    epoch with the least loss on held-out spots is kept, among them the state before the first.

    The encoder has seen the counts of its training sections: a section whose prediction is to be judged must not be among
    ``--sections``, nor among ``--val-sections``, which choose the epoch.

    Parameters
    ----------
    config
        Options of the training.
    tiles
        The options that the frozen features were embedded with. Store, encoder and tile sizes that `config` names too must
        be the same.
    progress
        Gets a task per tile size, counted in tiles, and one for the epochs.

    Raises
    ------
    ConfigError, EncoderError, MissingInputError, SectionError, SlideError, StoreError, TileError
        As `spam.embed` and `spam.pretrain`, before anything is trained; also if peft is not installed, the store lacks the
        frozen features, or they were made with other weights.
    OutputExistsError
        If the save dir holds a run of other options or data, or of more epochs.
    """
    device = resolve_device(config.device)
    peft_package()
    tiles = agreed(config, tiles)
    planned = plan(tiles)
    config = choose(config, tiles, planned)
    assert config.save_dir is not None  # held by AdaptConfig
    data = build_training_set(config)
    sections = in_training_order(planned, tiles, data)
    network = build_network(planned.card)
    digest = weights_digest(network.backbone)
    if digest != data.features.weights_sha256:
        message = (
            f"store {str(config.store)!r} holds features of encoder {planned.card.name!r} with weights "
            f"{data.features.weights_sha256[:8]}…, and these are {digest[:8]}…; embed again with `{embed_command(tiles)} "
            "--overwrite`, or use the weights that the features are of (--revision)"
        )
        raise StoreError(message)
    targets = target_patterns(network)
    with limited_threads(config.num_workers):
        with seeded(config.seed, device=torch.device("cpu")):
            lora = add_lora(
                network,
                r=config.lora_r,
                alpha=config.lora_alpha,
                dropout=config.lora_dropout,
                targets=targets,
            )
            frozen = np.concatenate([standardise_per_section(s.features) for s in data.spots])
            objective = build_objective(config, data, frozen.astype(np.float32), device)
        if config.grad_checkpointing:
            _checkpoint(network)
        config.save_dir.mkdir(parents=True, exist_ok=True)
        spots, rows = _spots_with_counts(config, data)
        cut = functools.partial(
            cut_tiles,
            sections,
            spots,
            rows,
            planned.card,
            n_rows=len(data.totals),
            memory_gb=config.memory_gb,
            folder=config.save_dir,
            n_threads=tiles.n_readers(device.type),
            is_forgiving=tiles.skip_bad_tiles,
            progress=progress,
        )
        stage = AdaptationStage(
            config,
            data,
            AdaptationNetwork(network, objective.head),
            objective,
            device,
            cut=cut,
            is_forgiving=tiles.skip_bad_tiles,
        )
        if config.overwrite:
            _ = stage.tiles  # before the run that is there is thrown away, since a tile may be unreadable
        run = fit(
            stage,
            dataclasses.replace(config, save_dir=config.save_dir / "training"),
            device=device,
            progress=progress,
        )
    _, best = read_checkpoint(run.best_path, stage=stage.name)
    weights = {
        name.removeprefix("network."): torch.from_numpy(value)
        for name, value in best.items()
        if name.startswith("network.")
    }
    stage.network.load_state_dict(weights)
    card = write_adapter(
        config.save_dir, lora, _describe(config, planned.card, data, run, digest=digest, targets=targets)
    )
    return AdaptReport(
        run=run,
        n_train=len(stage.train_rows),
        n_val=len(stage.val_rows),
        val_sections=() if len(data.spots) == 1 else data.held_out_sections,
        folder=config.save_dir,
        card=card,
        next_command=embed_command(tiles, lora=config.save_dir),
    )


def _checkpoint(network: TileNetwork) -> None:
    """Let the backbone compute activations again when it needs them, rather than keep them."""
    backbone: Any = network.backbone
    if not hasattr(backbone, "set_grad_checkpointing"):
        message = (
            f"encoder {network.card.name!r} cannot compute its activations again; leave out --grad-checkpointing, and take "
            "a smaller --batch-size"
        )
        raise ConfigError(message)
    backbone.set_grad_checkpointing(enable=True)


def _spots_with_counts(
    config: AdaptConfig, data: TrainingSet
) -> tuple[list[Int64[Array, "..."]], Int64[Array, " n_kept"]]:
    """Tell by number which spots are trained on or held out, within their section and as rows of the training set.

    The two differ where the store marks tiles that could not be read: the training set leaves out their spots.
    """
    assert config.store is not None  # held by AdaptConfig
    store = open_store(config.store)
    kept = np.sort(np.concatenate([data.train_rows, data.val_rows]))
    spots, first = [], 0
    for section in data.spots:
        numbers = np.flatnonzero(readable_spots(store.section(section.name), data.features.keys))
        own = kept[(kept >= first) & (kept < first + section.n_spots)]
        spots.append(numbers[own - first])
        first += section.n_spots
    return spots, kept


def _describe(
    config: AdaptConfig,
    card: EncoderCard,
    data: TrainingSet,
    run: Run,
    *,
    digest: str,
    targets: tuple[str, ...],
) -> AdapterCard:
    """Put together the adapter's card; its own digest comes when it is written."""
    encoder = card.to_mapping()
    if card.source.startswith("local:"):
        encoder["source"] = card.name  # as in features: where the folder lies is this machine's affair
    options = {
        key: value
        for key, value in config.to_mapping().items()
        if key not in {*NOT_IN_DIGEST, *UNUSED_BY_ADAPT} - {"epochs"}
    }
    is_val, section = data.groups.is_val, data.section_of
    return AdapterCard(
        encoder=encoder,
        weights_sha256=digest,
        adapter_sha256="",
        tiles=data.features.tiles,
        targets=targets,
        objective=config.objective,
        train_sections=tuple(s.name for i, s in enumerate(data.spots) if (~is_val[section == i]).any()),
        val_sections=data.held_out_sections,
        genes=data.genes.genes,
        epochs=len(run.history) - 1,
        best_epoch=int(run.best["epoch"]),
        history=run.history,
        config=options,
        software={**software_versions(), "peft": version("peft")},
    )
