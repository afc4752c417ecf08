"""`spam finetune`: stage 2, expression and count likelihood."""

from typing import Any

from spam.progress import Progress
from spam.schemas.training_config import FinetuneConfig

from .command import Command, Report
from .lab_files import keep_adapter, lab_file_options, with_store
from .options import options_of

__all__ = ["FINETUNE"]

_OPTIONS = options_of(FinetuneConfig)


def _work(values: dict[str, Any], progress: Progress) -> Report:
    stage, embedded = with_store(
        FinetuneConfig, values, progress, folder="save_dir", checkpoint="pretrained_ckpt"
    )
    if embedded:
        stage.setdefault("sections", embedded)
    config = FinetuneConfig.from_mapping(stage)
    from spam.training import finetune

    report = finetune(config, progress=progress)
    assert config.save_dir is not None  # held by FinetuneConfig
    keep_adapter(config.pretrained_ckpt, config.save_dir)
    return report


FINETUNE = Command(
    name="finetune",
    does="Train networks for expression and its count distribution on raw counts (stage 2). Reads from a feature store.",
    example="spam finetune --store cohort.zarr --sections C2,C3,C4,C5 --val-sections C5 \\\n"
    "    --pretrained-ckpt ckpt/pretrain/best.safetensors --save-dir ckpt/finetune",
    options=(*_OPTIONS, *lab_file_options(_OPTIONS)),
    work=_work,
)
