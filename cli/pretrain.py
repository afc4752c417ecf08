"""`spam pretrain`: stage 1, contrastive alignment."""

from typing import Any

from spam.progress import Progress
from spam.schemas.training_config import PretrainConfig

from .command import Command, Report
from .lab_files import lab_file_options, with_store
from .lora import LORA_OPTIONS, on_adapted_features, take_lora
from .options import options_of

__all__ = ["PRETRAIN"]

_MODE_ALIASES = {"gene": "img-gene", "spatial": "img-coord"}
_OPTIONS = options_of(PretrainConfig)


def _work(values: dict[str, Any], progress: Progress) -> Report:
    values, lora = take_lora(values)
    if lora is not None:
        from spam.encoders.lora_adapter import peft_package

        peft_package()  # better missed now than after the first embedding
    if "mode" in values:
        values["mode"] = _MODE_ALIASES.get(values["mode"], values["mode"])
    stage, embedded = with_store(PretrainConfig, values, progress, folder="save_dir")
    if embedded:
        stage.setdefault("sections", embedded)
    config = PretrainConfig.from_mapping(stage)
    if lora is not None:
        config = on_adapted_features(config, values, lora, progress)
    from spam.training import pretrain

    return pretrain(config, progress=progress)


PRETRAIN = Command(
    name="pretrain",
    does="Align image, coordinates and gene expression by contrast (stage 1). Reads from a feature store.",
    example="spam pretrain --store cohort.zarr --sections C2,C3,C4,C5 --save-dir ckpt/pretrain\n"
    "spam pretrain --h5ad C2.h5ad --csv mapping.csv --root images --mode joint --save-dir ckpt/pretrain\n"
    "spam pretrain --manifest sections.csv --root images --with-lora --save-dir ckpt/pretrain",
    options=(*_OPTIONS, *lab_file_options(_OPTIONS), *LORA_OPTIONS),
    work=_work,
)
