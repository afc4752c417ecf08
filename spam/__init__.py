"""Predicts spatially resolved gene expression from H&E histology: embed once, then train from a store.

Each command has its function here: ``spam embed`` is ``spam.embed(spam.EmbedConfig(...))``. Names are looked
up on first use, so that ``import spam`` loads no heavy package.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adaptation import adapt
    from .evaluation import benchmark
    from .demonstration import demo
    from .diagnosis import diagnose
    from .embedding import embed
    from .errors import SpamError
    from .graphs import build_graphs
    from .hest_tasks import hest_benchmark
    from .predicting import predict
    from .schemas.adapt_config import AdaptConfig
    from .schemas.benchmark_config import BenchmarkConfig
    from .schemas.embed_config import EmbedConfig
    from .schemas.graph_config import GraphConfig
    from .schemas.hest_config import HestConfig
    from .schemas.predict_config import PredictConfig
    from .schemas.simulate_config import DemoConfig, SimulateConfig
    from .schemas.training_config import FinetuneConfig, PretrainConfig
    from .simulation import simulate
    from .store import open_store
    from .training import finetune, pretrain

__all__ = [
    "AdaptConfig",
    "BenchmarkConfig",
    "DemoConfig",
    "EmbedConfig",
    "FinetuneConfig",
    "GraphConfig",
    "HestConfig",
    "PredictConfig",
    "PretrainConfig",
    "SimulateConfig",
    "SpamError",
    "adapt",
    "benchmark",
    "build_graphs",
    "demo",
    "diagnose",
    "embed",
    "finetune",
    "hest_benchmark",
    "open_store",
    "predict",
    "pretrain",
    "simulate",
]

_HOMES = {
    "AdaptConfig": "spam.schemas.adapt_config",
    "BenchmarkConfig": "spam.schemas.benchmark_config",
    "DemoConfig": "spam.schemas.simulate_config",
    "EmbedConfig": "spam.schemas.embed_config",
    "FinetuneConfig": "spam.schemas.training_config",
    "GraphConfig": "spam.schemas.graph_config",
    "HestConfig": "spam.schemas.hest_config",
    "PredictConfig": "spam.schemas.predict_config",
    "PretrainConfig": "spam.schemas.training_config",
    "SimulateConfig": "spam.schemas.simulate_config",
    "SpamError": "spam.errors",
    "adapt": "spam.adaptation",
    "benchmark": "spam.evaluation",
    "build_graphs": "spam.graphs",
    "demo": "spam.demonstration",
    "diagnose": "spam.diagnosis",
    "embed": "spam.embedding",
    "finetune": "spam.training",
    "hest_benchmark": "spam.hest_tasks",
    "open_store": "spam.store",
    "predict": "spam.predicting",
    "pretrain": "spam.training",
    "simulate": "spam.simulation",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        message = f"module 'spam' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
