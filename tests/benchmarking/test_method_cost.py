"""What methods cost, and whether their seconds compare."""

import pytest

from spam.benchmarking.cells import Cell, Failure
from spam.benchmarking.method_cost import Circumstances, method_costs, ran_alike, tell_circumstances


def cell(
    method: str, seconds: float, jobs: int | None, threads: int | None, *, peak_mb: float | None = None
) -> Cell:
    return Cell(
        fold="a",
        method=method,
        seed=0,
        is_reference=False,
        seconds=seconds,
        peak_mb=peak_mb,
        jobs=jobs,
        threads=threads,
    )


def test_seconds_are_averaged_and_memory_is_the_largest() -> None:
    failed = Cell(
        fold="b",
        method="x",
        seed=0,
        is_reference=False,
        seconds=99.0,
        peak_mb=999.0,
        failure=Failure(kind="E", message="m"),
    )
    x, y = method_costs(
        [cell("x", 2.0, 1, 2, peak_mb=7.0), cell("y", 5.0, 1, 2), cell("x", 4.0, 1, 2), failed]
    )
    assert (x.method, x.seconds, x.peak_mb) == ("x", 3.0, 7.0)
    assert (y.method, y.seconds, y.peak_mb) == ("y", 5.0, None)
    assert [(fits.circumstances, fits.n) for fits in x.fits] == [(Circumstances(jobs=1, threads=2), 2)]


@pytest.mark.parametrize(
    ("jobs", "threads", "told"),
    [
        (1, 1, "Fits ran alone, with 1 thread."),
        (1, 2, "Fits ran alone, with 2 threads."),
        (3, 1, "Fits ran 3 side by side, with 1 thread each."),
        (None, None, "Fits ran in a way that an earlier version did not keep."),
    ],
)
def test_fits_that_ran_alike(jobs: int | None, threads: int | None, told: str) -> None:
    costs = method_costs(
        [cell("depth null", 0.0, 7, 7), cell("x", 1.0, jobs, threads), cell("y", 2.0, jobs, threads)]
    )
    assert ran_alike(costs)
    assert tell_circumstances(costs) == told


def test_fits_that_did_not_run_alike_are_named() -> None:
    cells = [
        cell("x", 1.0, 1, 2),
        cell("y", 1.0, 1, 2),
        cell("y", 1.0, 1, 2),
        cell("y", 1.0, 4, 1),
        cell("z", 1.0, 1, 1),
    ]
    costs = method_costs(cells)
    assert not ran_alike(costs)
    assert tell_circumstances(costs) == (
        "**Fits did not run alike, so seconds compare only within these groups.** alone, with 2 threads: x, y (2 of 3 fits); "
        "4 side by side, with 1 thread each: y (1 of 3 fits); alone, with 1 thread: z."
    )


def test_without_fits_nothing_is_told() -> None:
    assert ran_alike(method_costs([cell("depth null", 0.0, 1, 1)]))
    assert tell_circumstances(method_costs([cell("depth null", 0.0, 1, 1)])) == ""
