"""Store + graph -> checkpoints: the two training stages."""

from .finetuning import FinetuneReport, finetune
from .pretraining import PretrainReport, pretrain

__all__ = ["FinetuneReport", "PretrainReport", "finetune", "pretrain"]
