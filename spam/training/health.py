"""Whether an alignment was learned, and what it carries beside: the health check at the end of stage 1."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from .contrast import PAIRS, RECALLS, Pair
from .probing import Probe

__all__ = ["ContrastHealth", "PairHealth", "pair_health"]

_WORDS = {"gene": "expression", "coord": "neighbourhood"}
# An untrained network lies within a few percent of ln(batch); a loss above this share of it has not fallen.
_LEARNED = 0.97
# An embedding of fewer effective dimensions has collapsed to a point or a line.
_COLLAPSED = 2.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairHealth:
    """How well the image was aligned with one other embedding, on held-out spots.

    Attributes
    ----------
    pair
        ``gene`` or ``coord``.
    loss, ln_batch
        InfoNCE of whole held-out batches; where nothing is told apart it is ln(batch).
    train_loss, train_ln_batch
        Loss that was minimised, in the last epoch (of soft targets, where these are asked for), and what it starts from;
        None before the first epoch.
    k, recall, recall_back, chance
        Share of held-out spots whose image finds its own partner among the `k` most similar of all held-out spots, share
        whose partner finds the image, and what chance would give.
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
        """Say in one line what was measured, and whether the pair was aligned."""
        return (
            f"image-{self.pair}: loss {self.loss:.3f}, ln(batch) {self.ln_batch:.3f}, recall@{self.k} {self.recall:.2f} and "
            f"back {self.recall_back:.2f} (chance {self.chance:.2f}), effective rank image {self.image_rank:.1f}, "
            f"{self.pair} {self.other_rank:.1f} of {self.dim}: alignment "
            f"{'learned' if self.has_learned else 'NOT learned'}"
        )

    def failure(self) -> str:
        """Say what went wrong with a pair that was not aligned, and what to try."""
        signs = [
            f"the held-out loss stays at ln(batch) ({self.loss:.2f} of {self.ln_batch:.2f})"
            if self.is_loss_at_chance
            else "",
            f"recall@{self.k} is at chance ({(self.recall + self.recall_back) / 2:.2f} of {self.chance:.2f})"
            if self.is_recall_at_chance
            else "",
        ]
        collapsed = [
            f"the {name} embedding has collapsed (effective rank {rank:.1f} of {self.dim})"
            for name, rank in (("image", self.image_rank), (self.pair, self.other_rank))
            if rank < _COLLAPSED
        ]
        found = " and ".join(sign for sign in (*signs, *collapsed) if sign)
        return f"image-{self.pair}: {found}; {self._advice(is_collapsed=bool(collapsed))}"

    def _advice(self, *, is_collapsed: bool) -> str:
        has_fitted = self.train_loss is not None and self.train_loss < _LEARNED * self.train_ln_batch
        if has_fitted:
            return (
                f"the training loss fell (to {self.train_loss:.2f}), so training spots were learned by heart: train on more "
                "sections, or raise --dropout"
            )
        if is_collapsed:
            return "try a lower --lr or a higher --temperature"
        return "the training loss did not fall either: try a higher --lr or more --epochs"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContrastHealth:
    """The health check of a stage 1.

    It tells whether the alignment holds on spots that were not trained on; whether predictions gain by it, only stage 2
    with and without it can tell.

    Attributes
    ----------
    pairs
        The best epoch's figures, pair by pair.
    probes
        Labels that were probed; none where there is one section only.
    """

    pairs: tuple[PairHealth, ...]
    probes: tuple[Probe, ...]

    @property
    def has_worked(self) -> bool:
        """Whether every pair was aligned."""
        return all(pair.has_learned for pair in self.pairs)

    @property
    def verdict(self) -> str:
        """One sentence: whether this stage worked, and why not."""
        if self.has_worked:
            found = " and ".join(
                f"its own {_WORDS[pair.pair]} among the first {pair.k} of {pair.n} in {pair.recall:.0%} of cases (chance "
                f"{pair.chance:.0%})"
                for pair in self.pairs
            )
            return f"stage 1 worked: the image of a held-out spot finds {found}"
        return "stage 1 did NOT work for " + "; for ".join(
            pair.failure() for pair in self.pairs if not pair.has_learned
        )

    def lines(self) -> list[str]:
        """Return the report, line by line; the verdict comes last."""
        return [*(pair.describe() for pair in self.pairs), *(p.describe() for p in self.probes), self.verdict]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "has_worked": self.has_worked,
            "verdict": self.verdict,
            "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
            "probes": [dataclasses.asdict(probe) for probe in self.probes],
        }


def pair_health(
    best: Mapping[str, float], last: Mapping[str, float], *, n_val: int, train_ln_batch: float, dim: int
) -> tuple[PairHealth, ...]:
    """Put together what the history of a run says of each pair.

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
