"""All baselines in the order of the tables: each ridge adds one thing to the one above it."""

from spam.benchmarking.method_inputs import CONTEXT, InputView
from spam.benchmarking.task import Method

from .averages import Average
from .kernels import ImageNeighbours, KernelRidge
from .means import CoordinateNeighbours, TrainingMean
from .networks import CountMlp, SquaredErrorMlp
from .ridges import TUNED_RIDGE, HestRidge, NegativeBinomialRidge, RidgeStep

__all__ = ["METHODS"]

_STEPS = (
    RidgeStep(
        name="ridge on one scale",
        view=InputView(scales="smallest", normalisation="none"),
        is_target_centred=False,
    ),
    RidgeStep(name="ridge + all scales", view=InputView(normalisation="none"), is_target_centred=False),
    RidgeStep(name="ridge + centring", view=InputView(normalisation="centred")),
    RidgeStep(name="ridge + standardising", view=InputView()),
    TUNED_RIDGE,
)
_LINEAR_PARTS = (TUNED_RIDGE, ImageNeighbours(view=CONTEXT), KernelRidge())
_MLPS = (SquaredErrorMlp(), CountMlp())

METHODS: tuple[Method, ...] = (
    TrainingMean(),
    CoordinateNeighbours(),
    ImageNeighbours(),
    HestRidge(),
    *_STEPS,
    NegativeBinomialRidge(),
    Average(name="ridge + kNN + RBF", parts=_LINEAR_PARTS, is_seeded=False),
    *_MLPS,
    Average(name="ridge + kNN + RBF + MLPs", parts=(*_LINEAR_PARTS, *_MLPS), is_seeded=True),
)
