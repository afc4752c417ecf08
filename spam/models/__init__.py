"""Closed-form predictors, encoders, the graph network, attention and fusion, losses, count distributions.

Tensors and arrays in, tensors and arrays out: nothing here reads a store or a slide.
"""

from .alignment import AlignmentMode, AlignmentModel, Embeddings
from .attention import CrossAttention
from .contrastive import info_nce, recall_at_k
from .distributions import (
    CountDistribution,
    Likelihood,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    build_distribution,
)
from .encoders import GeneEncoder, ImageProjector
from .expression import (
    CountMatrix,
    highly_expressed_genes,
    highly_variable_genes,
    is_constant,
    log1p_cp10k,
    morans_i,
    spatially_variable_genes,
)
from .fusion import Branch, FusionBatch, FusionEnsemble, FusionModel, FusionOutput
from .gcn import Blocks, GraphInputs, SpatialGCN, closure, normalised_adjacency
from .intervals import count_cdf, count_interval
from .linear import (
    FeatureTransform,
    Ridge,
    choose_alpha,
    fit_ridge,
    hest_ridge_fit,
    neighbour_mean,
    pearson_per_gene,
    standardise_per_section,
)
from .merge import ConcatProj, GatedSum, Merge

__all__ = [
    "AlignmentMode",
    "AlignmentModel",
    "Blocks",
    "Branch",
    "ConcatProj",
    "CountDistribution",
    "CountMatrix",
    "CrossAttention",
    "Embeddings",
    "FeatureTransform",
    "FusionBatch",
    "FusionEnsemble",
    "FusionModel",
    "FusionOutput",
    "GatedSum",
    "GeneEncoder",
    "GraphInputs",
    "ImageProjector",
    "Likelihood",
    "Merge",
    "NegativeBinomial",
    "Poisson",
    "Ridge",
    "SpatialGCN",
    "ZeroInflatedNegativeBinomial",
    "build_distribution",
    "choose_alpha",
    "closure",
    "count_cdf",
    "count_interval",
    "fit_ridge",
    "hest_ridge_fit",
    "highly_expressed_genes",
    "highly_variable_genes",
    "info_nce",
    "is_constant",
    "log1p_cp10k",
    "morans_i",
    "neighbour_mean",
    "normalised_adjacency",
    "pearson_per_gene",
    "recall_at_k",
    "spatially_variable_genes",
    "standardise_per_section",
]
