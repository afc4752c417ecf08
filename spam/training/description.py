"""What a checkpoint says about the run that made it."""

from typing import Any, Literal

import numpy as np

from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.training_config import TrainingConfig
from spam.versions import software_versions

from .dataset import TrainingSet
from .loop import NOT_IN_DIGEST

__all__ = ["describe_training"]


def describe_training(
    config: TrainingConfig,
    data: TrainingSet,
    *,
    stage: Literal["pretrain", "finetune", "adapt"],
    settings: dict[str, Any],
    epoch: int,
    history: list[dict[str, float]],
    best: dict[str, float],
) -> CheckpointMeta:
    """Put together the metadata of one epoch's checkpoint."""
    roles = data.groups.is_val
    names = [s.name for s in data.spots]
    values = {
        **config.to_mapping(),
        "store": None,
        "save_dir": None,
    }  # folders of one machine mean nothing elsewhere
    return CheckpointMeta(
        stage=stage,
        epoch=epoch,
        config={**values, "pretrained_ckpt": None} if "pretrained_ckpt" in values else values,
        config_digest=config.digest(leave_out=NOT_IN_DIGEST),
        data_digest=data.digest,
        encoder_name=data.features.encoder,
        weights_sha256=data.features.weights_sha256,
        feature_keys=data.features.keys,
        tiles=data.features.tiles,
        feature_dims=data.features.dims,
        stain=data.features.stain,
        is_averaged=data.features.is_averaged,
        genes=data.genes.genes,
        gene_sets=data.genes.sets,
        train_sections=tuple(n for i, n in enumerate(names) if (~roles[data.section_of == i]).any()),
        val_sections=data.held_out_sections,
        # Own sections first: "bank.section" counts them. Of whom the others are is not known.
        donors={
            **{s.name: s.donor for s in data.spots},
            **{name: None for name in data.features.adapted_on if name not in names},
        },
        depth=float(np.median(data.totals[data.train_rows])),
        metrics=history[-1] if history else {},
        history=history,
        best=best,
        settings=settings,
        software=software_versions(),
    )
