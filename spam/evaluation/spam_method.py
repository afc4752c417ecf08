"""SPAM and its ablations as methods of the benchmark, and the list of all methods."""

import dataclasses
import difflib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spam.errors import ConfigError
from spam.models.checkpoint import read_checkpoint
from spam.prediction import Predictor
from spam.reports.score_tables import DEPTH_NULL
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.training.cohort import held_out_by_default
from spam.training.finetuning import finetune_on
from spam.training.pretraining import pretrain_on
from spam.training.training_set import training_set_of

from .baselines import BASELINES
from .boards import CountPrediction, MethodPrediction
from .folds import FoldTask
from .methods import Method
from .peers import PEERS

_COVERAGE = 0.9  # of the scored intervals
_N_NEIGHBOURS: int = FinetuneConfig.__dataclass_fields__["n_neighbours"].default  # type: ignore[assignment]


@dataclasses.dataclass(slots=True, kw_only=True)
class SpamMethod:
    """Both training stages and inference, as in the commands, on the spots of a fold.

    Attributes
    ----------
    name
        Name in the tables.
    options
        Options of `FinetuneConfig` that differ from the defaults.
    stage1
        Options of `PretrainConfig` that differ from the defaults; None trains without stage 1.
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stage1: Mapping[str, Any] | None = None
    is_reference: bool = False
    is_seeded: bool = True

    def fit_predict(self, task: FoldTask, *, seed: int) -> Mapping[str, MethodPrediction]:
        """Train on the training sections and predict the test sections.

        The training sections are cross-validated, stage 1 included.
        """
        names = [spots.name for spots in task.train]
        held_out = held_out_by_default(names, [spots.donor for spots in task.train]) if len(names) > 1 else ()
        shared: dict[str, Any] = {"store": "memory", "k": task.k, "seed": seed, "device": "cpu"}
        with tempfile.TemporaryDirectory() as folder:
            options = {"n_neighbours": min(_N_NEIGHBOURS, task.k), **self.options}
            options["with_bank"] = self.options.get("attend") in ("references", "both")
            config = FinetuneConfig(**shared, save_dir=Path(folder) / "finetune", **options)
            data = training_set_of(task.train, task.features, config, held_out=held_out, genes=task.genes)
            pretrained = None
            if self.stage1 is not None:
                first = PretrainConfig(**shared, save_dir=Path(folder) / "pretrain", **self.stage1)
                pretrained = read_checkpoint(pretrain_on(data, first).run.best_path, stage="pretrain")
            report = finetune_on(data, config, pretrained=pretrained)
            predictor = Predictor.load(report.run.best_path, torch.device("cpu"))
        likelihood = predictor.meta.settings["likelihood"]
        predictions = {}
        for spots in task.test:
            inferred = predictor.infer(spots)
            level = predictor.heldout.level_for(_COVERAGE, is_calibrated=inferred.is_calibrated)
            predictions[spots.name] = MethodPrediction(
                expression=inferred.expression,
                counts=CountPrediction(
                    likelihood=likelihood,
                    rate=inferred.rate,
                    theta=None if likelihood == "poisson" else inferred.theta,
                    pi=inferred.pi if likelihood == "zinb" else None,
                    lower=(1 - level) / 2,
                    upper=(1 + level) / 2,
                ),
            )
        return predictions


SPAM = SpamMethod(name="SPAM")
ALL_METHODS: tuple[Method, ...] = (*BASELINES, *PEERS, SPAM)
"""All methods in the order of the tables, without the ablations."""

ABLATIONS: tuple[Method, ...] = (
    *(
        SpamMethod(name=f"SPAM attending to {what}", options={"attend": what})
        for what in ("none", "neighbours", "references", "both")
    ),
    *(
        SpamMethod(name=f"SPAM + stage 1 ({mode})", stage1={"mode": mode})
        for mode in ("joint", "img-gene", "img-coord")
    ),
    SpamMethod(name="SPAM + stage 1 (batch of 256)", stage1={"batch_size": 256}),
    SpamMethod(name="SPAM + stage 1 (soft targets)", stage1={"targets": "soft"}),
    SpamMethod(name="SPAM + stage 1 (masked neighbours)", stage1={"mask_neighbours": True}),
    SpamMethod(name="SPAM + stage 1 (balanced donors)", stage1={"balance_donors": True}),
    SpamMethod(name="SPAM attending to both + stage 1", options={"attend": "both"}, stage1={}),
    SpamMethod(name="SPAM on a ridge path", options={"path": "ridge"}),
    SpamMethod(name="SPAM of one network", options={"members": 1}),
    SpamMethod(name="SPAM with NB", options={"likelihood": "nb"}),
    SpamMethod(name="SPAM with Poisson", options={"likelihood": "poisson"}),
)
"""SPAM with one part changed; run by name only."""


def choose_methods(names: Sequence[str], known: Sequence[Method] = ALL_METHODS) -> tuple[Method | None, ...]:
    """Choose methods by name, in the order of `known`; ``all`` selects all of `known` and the depth null.

    The depth null, first, is None: it reads the test counts, so it is not a method.

    Raises
    ------
    ConfigError
        If a name is unknown; suggests the nearest.
    """
    offered = {DEPTH_NULL: None, **{method.name: method for method in (*known, *ABLATIONS)}}
    for name in names:
        if name not in (*offered, "all"):
            near = difflib.get_close_matches(name, offered, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Choose all, or from: {', '.join(offered)}."
            message = f"Unknown method {name!r} (--methods). {hint}"
            raise ConfigError(message)
    whole = (DEPTH_NULL, *(method.name for method in known)) if "all" in names else ()
    return tuple(method for name, method in offered.items() if name in (*names, *whole))
