"""Contrastive losses of stage 1, metrics on held-out spots, and the health check of an alignment."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy.sparse import csr_matrix

from spam.models.contrastive import (
    Embeddings,
    effective_rank,
    info_nce,
    partner_rank,
    profile_targets,
    recall_at_k,
    soft_info_nce,
)
from spam.schemas.training_config import PretrainConfig
from spam.typing import Array, Bool, Float, Int64

Pair: TypeAlias = Literal["gene", "coord"]
PAIRS: tuple[Pair, ...] = ("gene", "coord")
"""Modalities that are contrasted with the image."""
RECALLS = (1, 5, 10)

_WORDS = {"gene": "expression", "coord": "neighbourhood"}
_LEARNED = 0.97  # the loss of an untrained network is within a few percent of ln(batch)
_COLLAPSED = 2.0  # an embedding of fewer effective dimensions has collapsed to a point or a line


def _others(embedded: Embeddings) -> dict[str, torch.Tensor]:
    pairs = {"gene": embedded.gene, "coord": embedded.coord}
    return {pair: other for pair, other in pairs.items() if other is not None}


def pair_losses(embedded: Embeddings, config: PretrainConfig) -> dict[str, torch.Tensor]:
    """Plain InfoNCE of the image with each other embedding of the mode."""
    settings = {"temperature": config.temperature, "mixing": config.mixing}
    return {pair: info_nce(embedded.image, other, **settings) for pair, other in _others(embedded).items()}


def near_pairs(weights: csr_matrix, rows: Int64[Array, " b"]) -> Bool[Array, "b b"]:
    """Mark pairs of spots that are neighbours in the graph, in either direction; False on the diagonal."""
    among = weights[rows][:, rows] > 0
    are_near: Bool[Array, "b b"] = (among + among.T).toarray()
    np.fill_diagonal(are_near, val=False)
    return are_near


def training_losses(
    embedded: Embeddings,
    config: PretrainConfig,
    *,
    expression: Float[torch.Tensor, "b n_genes"],
    weights: csr_matrix,
    rows: Int64[Array, " b"],
) -> dict[str, torch.Tensor]:
    """Training losses, according to ``--targets`` and ``--mask-neighbours``.

    Parameters
    ----------
    embedded
        The spots of a batch.
    expression
        Their centred log1p(CP10k): the source of soft targets, which only the pair of image and gene has.
    weights, rows
        Spatial graph of the cohort, and the rows of the batch in it.
    """
    if config.targets == "hard" and not config.mask_neighbours:
        return pair_losses(embedded, config)
    is_left_out = targets = None
    if config.mask_neighbours:
        is_left_out = torch.from_numpy(near_pairs(weights, rows)).to(expression.device)
    if config.targets == "soft":
        targets = profile_targets(expression, temperature=config.temperature, is_left_out=is_left_out)
    return {
        pair: soft_info_nce(
            embedded.image,
            other,
            temperature=config.temperature,
            mixing=config.mixing,
            targets=targets if pair == "gene" else None,
            is_left_out=is_left_out,
        )
        for pair, other in _others(embedded).items()
    }


def contrast_metrics(batches: list[Embeddings], config: PretrainConfig) -> dict[str, float]:
    """Evaluate an alignment: loss over batches compared with ln(batch), recall and effective rank over all spots.

    The loss is plain InfoNCE for every training loss, so that runs with different ``--targets`` can be compared. Keys of
    each pair: ``gene_loss``, ``gene_recall_10`` (the image finds its expression) and ``gene_recall_back_10`` (the
    expression finds its image); of each embedding: ``image_rank`` (effective rank).

    Parameters
    ----------
    batches
        Embeddings of held-out spots, in random order; all of one size, but the last may be smaller and is then left out of
        the loss.
    """
    size = len(batches[0].image)
    losses = [pair_losses(batch, config) for batch in batches if len(batch.image) == size]
    metrics = {f"{pair}_loss": float(np.mean([float(part[pair]) for part in losses])) for pair in losses[0]}
    metrics |= {"loss": sum(metrics.values()), "ln_batch": math.log(size)}
    whole = {
        name: torch.cat([getattr(batch, name) for batch in batches]).float() for name in ("image", *losses[0])
    }
    for pair in losses[0]:
        there, back = (partner_rank(whole["image"], whole[pair]), partner_rank(whole[pair], whole["image"]))
        for k in RECALLS:
            metrics[f"{pair}_recall_{k}"] = recall_at_k(there, k=k)
            metrics[f"{pair}_recall_back_{k}"] = recall_at_k(back, k=k)
    return metrics | {f"{name}_rank": effective_rank(embedding) for name, embedding in whole.items()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairHealth:
    """How well the image was aligned with one other embedding, on held-out spots.

    Attributes
    ----------
    pair
        ``gene`` or ``coord``.
    loss, ln_batch
        InfoNCE of whole held-out batches, and its value at chance.
    train_loss, train_ln_batch
        Training loss in the last epoch, and its value at chance; None before the first epoch.
    k, recall, recall_back, chance
        Share of held-out spots whose image finds its partner among the `k` most similar of all held-out spots, share
        whose partner finds the image, and the value at chance.
    n
        Held-out spots.
    image_rank, other_rank, dim
        Effective ranks of both embeddings, of `dim` dimensions.
    """

    pair: Pair
    loss: float
    ln_batch: float
    train_loss: float | None
    train_ln_batch: float
    k: int
    recall: float
    recall_back: float
    chance: float
    n: int
    image_rank: float
    other_rank: float
    dim: int

    @property
    def is_loss_at_chance(self) -> bool:
        """Whether the held-out loss stays at ln(batch)."""
        return self.loss >= _LEARNED * self.ln_batch

    @property
    def is_recall_at_chance(self) -> bool:
        """Whether the mean recall of both directions is within three standard errors of chance."""
        error = math.sqrt(self.chance * (1 - self.chance) / self.n)
        return (self.recall + self.recall_back) / 2 <= self.chance + 3 * error

    @property
    def has_learned(self) -> bool:
        """Whether the pair was aligned on spots that were not trained on."""
        return not (self.is_loss_at_chance or self.is_recall_at_chance)

    def describe(self) -> str:
        """Figures and result in one line."""
        return (
            f"image-{self.pair}: loss {self.loss:.3f}, ln(batch) {self.ln_batch:.3f}, recall@{self.k} {self.recall:.2f} and "
            f"back {self.recall_back:.2f} (chance {self.chance:.2f}), effective rank image {self.image_rank:.1f}, "
            f"{self.pair} {self.other_rank:.1f} of {self.dim}: alignment "
            f"{'learned' if self.has_learned else 'NOT learned'}"
        )

    def failure(self) -> str:
        """Explain what went wrong with a pair that was not aligned, and what to try."""
        signs = []
        if self.is_loss_at_chance:
            signs.append(f"the held-out loss stays at ln(batch) ({self.loss:.2f} of {self.ln_batch:.2f})")
        if self.is_recall_at_chance:
            recall = (self.recall + self.recall_back) / 2
            signs.append(f"recall@{self.k} is at chance ({recall:.2f} of {self.chance:.2f})")
        ranks = {"image": self.image_rank, self.pair: self.other_rank}
        collapsed = [
            f"the {name} embedding has collapsed (effective rank {rank:.1f} of {self.dim})"
            for name, rank in ranks.items()
            if rank < _COLLAPSED
        ]
        advice = "the training loss did not fall either: try a higher --lr or more --epochs"
        if self.train_loss is not None and self.train_loss < _LEARNED * self.train_ln_batch:
            advice = (
                f"overfit (training loss {self.train_loss:.2f}): train on more sections, or raise --dropout"
            )
        elif collapsed:
            advice = "try a lower --lr or a higher --temperature"
        return f"image-{self.pair}: {' and '.join([*signs, *collapsed])}; {advice}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContrastHealth:
    """Health check of stage 1, pair by pair: whether the alignment holds on spots that were not trained on.

    Whether predictions gain by it can only be seen in stage 2 with and without it.
    """

    pairs: tuple[PairHealth, ...]

    @property
    def has_worked(self) -> bool:
        """Whether every pair was aligned."""
        return all(pair.has_learned for pair in self.pairs)

    @property
    def verdict(self) -> str:
        """One sentence: whether this stage worked, and why not."""
        if self.has_worked:
            found = " and ".join(
                f"its {_WORDS[pair.pair]} among the first {pair.k} of {pair.n} in {pair.recall:.0%} of cases (chance "
                f"{pair.chance:.0%})"
                for pair in self.pairs
            )
            return f"stage 1 worked: the image of a held-out spot finds {found}"
        failures = [pair.failure() for pair in self.pairs if not pair.has_learned]
        return f"stage 1 did NOT work for {'; for '.join(failures)}"

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {"has_worked": self.has_worked, "verdict": self.verdict} | dataclasses.asdict(self)


def pair_health(
    best: Mapping[str, float], last: Mapping[str, float], *, n_val: int, train_ln_batch: float, dim: int
) -> tuple[PairHealth, ...]:
    """Collect the health of each pair from the history of a run.

    Recall is judged at the largest of 1, 5, 10 of which chance is at most a quarter.

    Parameters
    ----------
    best, last
        Figures of the best and of the last epoch.
    n_val
        Held-out spots.
    train_ln_batch
        Logarithm of the number of spots in a training batch.
    dim
        Length of the embeddings.
    """
    k = max((k for k in RECALLS if 4 * k <= n_val), default=1)
    return tuple(
        PairHealth(
            pair=pair,
            loss=best[f"val_{pair}_loss"],
            ln_batch=best["val_ln_batch"],
            train_loss=last.get(f"{pair}_loss"),
            train_ln_batch=train_ln_batch,
            k=k,
            recall=best[f"val_{pair}_recall_{k}"],
            recall_back=best[f"val_{pair}_recall_back_{k}"],
            chance=k / n_val,
            n=n_val,
            image_rank=best["val_image_rank"],
            other_rank=best[f"val_{pair}_rank"],
            dim=dim,
        )
        for pair in PAIRS
        if f"val_{pair}_loss" in best
    )
