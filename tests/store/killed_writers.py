"""Kills writers of a store with SIGKILL at chosen file operations; a script, because each writer is a forked process.

``python killed_writers.py FOLDER OPERATION N`` spreads N kills over the operation. After each it checks in another
process that everything that can be read is whole, writes again, and compares the store with an unbroken one. This
process itself never touches Zarr, whose threads do not survive a fork.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import sparse

from spam.schemas.store_meta import FeatureMeta, GraphMeta, SectionMeta
from spam.store import Graph, Overview, SectionRecord, StoredSection, create_store, open_store

N, GENES, DIM, KEY = 13, 7, 5, "tiny_1px"
OLD, NEW = 2, 3


def section_record(value: int) -> SectionRecord:
    meta = SectionMeta(
        name="C2",
        donor=str(value),
        n_spots=N,
        n_genes=GENES,
        has_counts=True,
        mpp=None,
        mpp_source=None,
        slide_width_px=None,
        slide_height_px=None,
        sources=(),
        software={},
    )
    return SectionRecord(
        meta=meta,
        ids=np.array([f"{value}-{i}" for i in range(N)]),
        xy_px=np.full((N, 2), float(value)),
        xy_um=None,
        counts=sparse.csr_matrix(np.full((N, GENES), value)),
        genes=np.array([f"{value}-{i}" for i in range(GENES)]),
        obs={},
        overview=Overview(image=np.full((3, 5, 3), value, np.uint8), scale=1 / value),
    )


def write_features(section: StoredSection, value: int) -> None:
    tile = {"tile_px": value}
    meta = FeatureMeta(
        key=KEY, encoder={}, weights_sha256="", tile=tile, dim=DIM, dtype="float16", chunk_rows=3
    )
    is_overwrite = KEY in section.feature_keys and section.feature_meta(KEY).tile != tile
    if KEY in section.unfinished_keys:
        is_overwrite = False  # go on
    writer = section.feature_writer(meta, is_overwrite=is_overwrite)
    for chunk in writer.pending:
        writer.write(chunk, np.full((chunk.stop - chunk.start, DIM), float(value)))
    writer.finish()


def write_graph(section: StoredSection, value: int) -> None:
    matrix = sparse.csr_matrix(np.full((N, N), float(value)))
    meta = GraphMeta(kind="spatial", k=value, metric="euclidean", unit="px", sigma=1.0, backend="scipy")
    section.write_graph("spatial", Graph(connectivities=matrix, distances=matrix, meta=meta))


def prepare(path: Path, operation: str) -> None:
    store = create_store(path)
    if operation != "add":
        section = store.add_section(section_record(OLD))
        write_graph(section, OLD)
        if operation in ("replace", "features anew"):
            write_features(section, OLD)


def operate(path: Path, operation: str) -> None:
    store = open_store(path, is_read_only=False)
    if operation in ("add", "replace"):
        store.add_section(section_record(NEW), is_overwrite=True)
    elif operation == "graph":
        write_graph(store.section("C2"), NEW)
    else:
        write_features(store.section("C2"), NEW)


def check(path: Path, operation: str) -> None:
    """Find the old or the new throughout, or nothing; never a mixture."""
    store = open_store(path)
    if "C2" not in store.section_names:
        assert operation in ("add", "replace")
        return
    section = store.section("C2")
    assert section.meta.donor is not None
    value = int(section.meta.donor)
    assert value == OLD or operation in ("add", "replace")
    assert list(section.ids) == [f"{value}-{i}" for i in range(N)]
    assert list(section.genes) == [f"{value}-{i}" for i in range(GENES)]
    assert (section.xy_px == value).all()
    assert (section.counts().toarray() == value).all()
    overview = section.overview()
    assert overview is not None
    assert (overview.image == value).all()
    graph = section.graph("spatial")
    if graph is not None:
        assert (graph.connectivities.toarray() == graph.meta.k).all()
        assert (graph.distances.toarray() == graph.meta.k).all()
    if KEY in section.feature_keys:
        assert (section.features(KEY) == section.feature_meta(KEY).tile["tile_px"]).all()
    elif operation == "features anew":  # the one moment between two renames
        assert KEY in section.unfinished_keys


def files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process; return its exit code, or minus the signal that killed it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except Exception:  # noqa: BLE001  printed, and told to the parent by the exit code
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count_changes(do: Callable[[int], None]) -> None:
    """Call `do` with the running number of each change to the disk that this process is about to make."""
    number = -1

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal number
        is_write = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if is_write or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            number += 1
            do(number)

    sys.addaudithook(hook)


def main(folder: Path, operation: str, n_kills: int) -> None:
    unbroken, log = folder / "unbroken", folder / "log"

    def run_unbroken() -> None:
        prepare(unbroken, operation)
        numbers: list[int] = []
        count_changes(numbers.append)
        operate(unbroken, operation)
        log.write_text(str(len(numbers)))

    assert in_child(run_unbroken) == 0
    n_changes = int(log.read_text())
    expected = files(unbroken)
    for step in sorted({n_changes * i // n_kills for i in range(n_kills)}):
        path = folder / f"killed at {step}"

        def run_killed(path: Path = path, step: int = step) -> None:
            prepare(path, operation)
            count_changes(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == step else None)
            operate(path, operation)

        def run_again(path: Path = path) -> None:
            check(path, operation)
            operate(path, operation)

        assert in_child(run_killed) == -signal.SIGKILL, step
        assert in_child(run_again) == 0, step
        found = files(path)
        assert found == expected, (step, sorted(found.keys() ^ expected.keys()))
    print(f"{operation}: {n_changes} changes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
