"""What each method costs, and how the fits ran that say so: seconds of a machine that is shared are other seconds."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from .cells import Cell
from .scoring import DEPTH_NULL

__all__ = ["Circumstances", "Fits", "MethodCost", "method_costs", "ran_alike", "tell_circumstances"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How fits ran: `jobs` of them side by side, with `threads` threads each; None where it was not kept."""

    jobs: int | None
    threads: int | None

    def sentence(self) -> str:
        """Say it in a few words."""
        if self.jobs is None:
            return "in a way that an earlier version did not keep"
        threads = f"{self.threads} thread" + ("" if self.threads == 1 else "s")
        return (
            f"alone, with {threads}" if self.jobs == 1 else f"{self.jobs} side by side, with {threads} each"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """A number of fits that ran under the same circumstances."""

    circumstances: Circumstances
    n: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MethodCost:
    """What a method costs.

    Attributes
    ----------
    method
        Name in the tables.
    seconds
        Wall time of one fit and prediction, on the average.
    peak_mb
        Its largest memory.
    fits
        The fits that these are of, by how they ran.
    """

    method: str
    seconds: float
    peak_mb: float | None
    fits: tuple[Fits, ...]


def method_costs(cells: Sequence[Cell]) -> list[MethodCost]:
    """Average the seconds of each method over its cells with scores; its memory is the largest of them."""
    costs = []
    for method in dict.fromkeys(cell.method for cell in cells if cell.failure is None):
        own = [cell for cell in cells if cell.method == method and cell.failure is None]
        ran = Counter(Circumstances(jobs=cell.jobs, threads=cell.threads) for cell in own)
        costs.append(
            MethodCost(
                method=method,
                seconds=float(np.mean([cell.seconds for cell in own])),
                peak_mb=max((cell.peak_mb for cell in own if cell.peak_mb is not None), default=None),
                fits=tuple(Fits(circumstances=how, n=n) for how, n in ran.items()),
            )
        )
    return costs


def ran_alike(costs: Sequence[MethodCost]) -> bool:
    """Whether seconds compare: all fits ran under the same circumstances (the depth null fits nothing)."""
    return len(_methods_by_circumstances(costs)) <= 1


def tell_circumstances(costs: Sequence[MethodCost]) -> str:
    """Say how the fits ran, and which of them ran otherwise than the rest."""
    groups = _methods_by_circumstances(costs)
    if len(groups) <= 1:
        return "".join(f"Fits ran {how.sentence()}." for how in groups)
    told = "; ".join(f"{how.sentence()}: {', '.join(methods)}" for how, methods in groups.items())
    return f"**Fits did not run alike, so seconds compare only within these groups.** {told}."


def _methods_by_circumstances(costs: Sequence[MethodCost]) -> dict[Circumstances, list[str]]:
    """Name the methods that ran under each circumstances, with how many of their fits, if not all."""
    groups: dict[Circumstances, list[str]] = {}
    for cost in costs:
        if cost.method == DEPTH_NULL:
            continue
        total = sum(fits.n for fits in cost.fits)
        for fits in cost.fits:
            name = cost.method if fits.n == total else f"{cost.method} ({fits.n} of {total} fits)"
            groups.setdefault(fits.circumstances, []).append(name)
    return groups
