"""`spam predict`, also called `spam inference`: expression of a new section."""

import dataclasses
from typing import Any

from spam.progress import Progress
from spam.schemas.predict_config import PredictConfig

from .command import Command, Report
from .lab_files import lab_file_options, with_store
from .options import options_of

__all__ = ["INFERENCE", "PREDICT"]

_OPTIONS = options_of(PredictConfig)


def _work(values: dict[str, Any], progress: Progress) -> Report:
    stage, embedded = with_store(PredictConfig, values, progress, folder="out_dir", checkpoint="ckpt")
    if embedded:
        stage.setdefault("section", embedded[0])
    config = PredictConfig.from_mapping(stage)
    from spam.predicting import predict

    return predict(config, progress=progress)


PREDICT = Command(
    name="predict",
    does="Predict the expression of a new section. With counts: metrics and baselines too.",
    example="spam predict --store cohort.zarr --section C6 \\\n"
    "    --ckpt ckpt/finetune/best.safetensors --out-dir results\n"
    "spam predict --csv mapping.csv --root images \\\n"
    "    --ckpt ckpt/finetune/best.safetensors --out-dir results",
    options=(*_OPTIONS, *lab_file_options(_OPTIONS, leave_out=("manifest",))),
    work=_work,
)
INFERENCE = dataclasses.replace(
    PREDICT, name="inference", does="Same as `spam predict`, under its published name."
)
