"""Timing of rivals in turns, for the benchmarks."""

import statistics
import time
from collections.abc import Callable


def medians(runs: dict[str, Callable[[], object]], *, rounds: int = 5) -> dict[str, float]:
    """Time runs in turns, so that a busy moment does not hit one alone; return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}
