"""Predicts spatially resolved gene expression from H&E histology: embed once, then train from a store.

Each command has a function: ``spam embed`` is ``spam.embed(spam.EmbedConfig(...))``. Functions are imported on first
use, so that ``import spam`` loads no heavy package.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import SpamError as SpamError
from .schemas.adapt_config import AdaptConfig as AdaptConfig
from .schemas.alignment_config import AlignmentConfig as AlignmentConfig
from .schemas.benchmark_config import BenchmarkConfig as BenchmarkConfig
from .schemas.cluster_config import ClusterConfig as ClusterConfig
from .schemas.embed_config import EmbedConfig as EmbedConfig
from .schemas.embed_config import PlanConfig as PlanConfig
from .schemas.graph_config import GraphConfig as GraphConfig
from .schemas.hest_config import HestConfig as HestConfig
from .schemas.import_config import ImportConfig as ImportConfig
from .schemas.predict_config import PredictConfig as PredictConfig
from .schemas.report_config import PlotConfig as PlotConfig
from .schemas.report_config import ReportConfig as ReportConfig
from .schemas.simulate_config import DemoConfig as DemoConfig
from .schemas.simulate_config import SimulateConfig as SimulateConfig
from .schemas.store_config import ExportConfig as ExportConfig
from .schemas.training_config import FinetuneConfig as FinetuneConfig
from .schemas.training_config import PretrainConfig as PretrainConfig

if TYPE_CHECKING:
    from .alignment import check_alignment as check_alignment
    from .clusters import cluster as cluster
    from .diagnosis import diagnose as diagnose
    from .embedding import adapt as adapt
    from .embedding import embed as embed
    from .evaluation import benchmark as benchmark
    from .exports import export as export
    from .graphs import build_graphs as build_graphs
    from .hest_tasks import hest_benchmark as hest_benchmark
    from .predicting import predict as predict
    from .probing import plan as plan
    from .reporting import plot as plot
    from .reporting import report as report
    from .sections.lab_file_writer import import_folder as import_folder
    from .simulation import simulate as simulate
    from .simulation.demo import demo as demo
    from .store import open_store as open_store
    from .training import finetune as finetune
    from .training import pretrain as pretrain

# Public function -> its module.
_MODULE_OF = {
    "adapt": "embedding",
    "benchmark": "evaluation",
    "build_graphs": "graphs",
    "check_alignment": "alignment",
    "cluster": "clusters",
    "demo": "simulation.demo",
    "diagnose": "diagnosis",
    "embed": "embedding",
    "export": "exports",
    "finetune": "training",
    "hest_benchmark": "hest_tasks",
    "import_folder": "sections.lab_file_writer",
    "open_store": "store",
    "plan": "probing",
    "plot": "reporting",
    "predict": "predicting",
    "pretrain": "training",
    "report": "reporting",
    "simulate": "simulation",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULE_OF:
        message = f"module 'spam' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(f"spam.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *_MODULE_OF})
