"""Networks, closed-form predictors, losses and count likelihoods, and what inference needs of a trained model.

Tensors and arrays in, tensors and arrays out: nothing here reads a store or a slide.
"""

from .contrastive import AlignmentModel, Embeddings
from .count_likelihood import Likelihood, count_interval, count_log_prob
from .expression import log1p_cp10k
from .fusion import FusionEnsemble
from .linear import pearson_per_gene
from .networks import ImageProjector, Surroundings

__all__ = [
    "AlignmentModel",
    "Embeddings",
    "FusionEnsemble",
    "ImageProjector",
    "Likelihood",
    "Surroundings",
    "count_interval",
    "count_log_prob",
    "log1p_cp10k",
    "pearson_per_gene",
]
