"""What a checkpoint says about the run that made it."""

from typing import Any, Literal

import numpy as np

from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.training_config import TrainingConfig
from spam.versions import software_versions

from .dataset import TrainingSet
from .loop import NOT_IN_DIGEST


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
        is_averaged=data.features.is_averaged,
        genes=data.genes.genes,
        gene_sets=data.genes.sets,
        train_sections=tuple(n for i, n in enumerate(names) if (~roles[data.section_of == i]).any()),
        val_sections=data.held_out_sections,
        # The run's own sections come first: "appearance.section" counts them. Donors of the others are unknown.
        donors=donor_numbers(data) | {name: None for name in data.features.adapted_on if name not in names},
        depth=float(np.median(data.totals[data.train_rows])),
        metrics=history[-1] if history else {},
        history=history,
        best=best,
        settings=settings,
        software=software_versions(),
    )


def donor_numbers(data: TrainingSet) -> dict[str, int | None]:
    """Number the donors of the sections in order of appearance; None for an unknown donor."""
    known = list(dict.fromkeys(s.donor for s in data.spots if s.donor is not None))
    return {s.name: None if s.donor is None else known.index(s.donor) for s in data.spots}


def with_pretrained_donors(
    own: dict[str, int | None], pretrained: dict[str, int | None]
) -> dict[str, int | None]:
    """Append the sections that only pretraining has seen, with donor numbers that agree with the run's own.

    A pretraining donor is recognised by a section that both runs have. If pretraining has seen all sections of the run,
    its other donors are different ones; else they are unknown.
    """
    same = {pretrained[name]: own[name] for name in own if name in pretrained}
    is_complete = own.keys() <= pretrained.keys()
    added = {
        name: same.get(number, 1000 + number if is_complete and number is not None else None)
        for name, number in pretrained.items()
        if name not in own
    }
    return own | added
