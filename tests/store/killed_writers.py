"""Kills writers of a store with SIGKILL; a script, because each writer is a forked process.

``python killed_writers.py FOLDER OPERATION N`` spreads N kills over the changes to the disk that the operation makes.
After each it checks in another process that everything that can be read is whole, writes again, and compares the store
with an unbroken one. The operation ``cohort`` writes several sections with features and graphs. It is killed N times
on the way, each time after a random number of changes or after a random time, and goes on where it stopped, also in
what the last kill left; each time that it gets to the end the store is compared with an unbroken one.

This process itself never touches Zarr, whose threads do not survive a fork.
"""

import dataclasses
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from spam.errors import StoreError
from spam.schemas.store_format import QUALITY, FeatureMeta, GraphMeta, SectionMeta, quality_key
from spam.store import Graph, Overview, SectionRecord, StoredSection, create_store, feature_format, open_store
from spam.typing import Array

N, GENES, DIM, KEY = 13, 7, 5, "tiny_1px"
OLD, NEW = 2, 3
COHORT = {"C2": 2, "C3": 3, "D1": 5}
KEYS, GRAPHS = ("tiny_1px", "tiny_2px"), ("spatial", "features_tiny_1px")

feature_format._SHARD_BYTES = 60  # two chunks: the features of a section have three files


def section_record(value: int, name: str = "C2") -> SectionRecord:
    meta = SectionMeta(
        name=name,
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


def feature_meta(key: str, tile: dict[str, Any]) -> FeatureMeta:
    return FeatureMeta(
        key=key,
        origin="embed",
        encoder={},
        weights_sha256="",
        lora_sha256=None,
        tile=tile,
        sampling=None,
        precision="float32",
        dim=DIM,
        dtype="float16",
        chunk_rows=3,
        software={},
    )


def write_features(section: StoredSection, value: int) -> None:
    tile = {"tile_px": value}
    meta = feature_meta(KEY, tile)
    is_overwrite = KEY in section.feature_keys and section.feature_meta(KEY).tile != tile
    try:
        writer = section.feature_writer(meta, is_overwrite=is_overwrite)
    except StoreError as error:  # killed while others took the place of what was there
        if "begun differently" not in str(error):
            raise
        writer = section.feature_writer(meta, is_overwrite=True)
    for chunk in writer.pending:
        writer.write(chunk, np.full((chunk.stop - chunk.start, DIM), float(value)))
    writer.finish()


def write_graph(section: StoredSection, value: int, key: str = "spatial") -> None:
    matrix = sparse.csr_matrix(np.full((N, N), float(value)))
    meta = GraphMeta(kind="spatial", k=value, metric="euclidean", unit="px", sigma=1.0, backend="scipy")
    section.write_graph(key, Graph(connectivities=matrix, distances=matrix, meta=meta))


def prepare(path: Path, operation: str) -> None:
    store = create_store(path)
    if operation != "add":
        section = store.add_section(section_record(OLD))
        write_graph(section, OLD)
        if operation in ("replace", "features anew"):
            write_features(section, OLD)
        if operation == "features anew":  # what goes with the old features
            write_graph(section, OLD, GRAPHS[1])
            measured = dataclasses.replace(
                feature_meta(KEY, {"tile_px": OLD}), key=quality_key(KEY), origin=QUALITY
            )
            writer = section.feature_writer(measured)
            for chunk in writer.pending:
                writer.write(chunk, np.zeros((chunk.stop - chunk.start, DIM)))
            writer.finish()


def operate(path: Path, operation: str) -> None:
    store = open_store(path, is_read_only=False)
    if operation in ("add", "replace"):
        store.add_section(section_record(NEW), is_overwrite=True)
    elif operation == "graph":
        write_graph(store.section("C2"), NEW)
    else:
        write_features(store.section("C2"), NEW)


def rows_of(name: str, key: str) -> Array:
    """Features that float16 holds exactly, other ones in each row of each array."""
    first = COHORT[name] * 131 + KEYS.index(key) * 71
    return (first + np.arange(N * DIM, dtype=np.float32).reshape(N, DIM)) / 16


def write_cohort(path: Path) -> None:
    """Write what is not there yet, as `spam embed` does."""
    store = create_store(path)
    for name, value in COHORT.items():
        there = name in store.section_names
        section = store.section(name) if there else store.add_section(section_record(value, name))
        for key in KEYS:
            with section.lock(key):
                writer = section.feature_writer(feature_meta(key, {"tile_px": 1 + KEYS.index(key)}))
                for chunk in writer.pending:
                    writer.write(chunk, rows_of(name, key)[chunk])
                writer.finish()
        for graph in GRAPHS:
            if section.graph(graph) is None:
                write_graph(section, value, graph)


def check_cohort(path: Path) -> None:
    """Find of each section all or nothing, and so of each array and graph."""
    if not (path / "zarr.json").exists():
        return
    store = open_store(path)
    for name in store.section_names:
        section = store.section(name)
        check_tables(section, COHORT[name])
        for file, entry in section.index.files.items():
            content = (path / name / file).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.n_bytes, entry.sha256), file
        for key in section.feature_keys:
            assert (section.features(key) == rows_of(name, key)).all(), (name, key)
        for key in GRAPHS:
            graph = section.graph(key)
            assert graph is None or (graph.distances.toarray() == COHORT[name]).all(), (name, key)


def check_tables(section: StoredSection, value: int) -> None:
    assert section.meta.donor == str(value)
    assert list(section.ids) == [f"{value}-{i}" for i in range(N)]
    assert section.genes is not None
    assert list(section.genes) == [f"{value}-{i}" for i in range(GENES)]
    assert (section.xy_px == value).all()
    assert (section.counts().toarray() == value).all()
    overview = section.overview()
    assert overview is not None
    assert (overview.image == value).all()


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
    check_tables(section, value)
    graph = section.graph("spatial")
    if graph is not None:
        assert (graph.connectivities.toarray() == graph.meta.k).all()
        assert (graph.distances.toarray() == graph.meta.k).all()
    if KEY in section.feature_keys:
        assert (section.features(KEY) == section.feature_meta(KEY).tile["tile_px"]).all()
    elif operation == "features anew":  # the one moment between two indexes
        assert KEY in section.unfinished_keys


def files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def in_child(work: Callable[[], None], *, kill_after_s: float | None = None) -> int:
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
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(
            child, signal.SIGKILL
        )  # of a process that has ended in the meantime nothing is left but its code
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count_changes(do: Callable[[int], None]) -> None:
    """Call `do` with the running number of each change to the disk that this process is about to make."""
    number = -1

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal number
        is_write = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if is_write or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link"):
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
        compare(path, expected)
    print(f"{operation}: {n_changes} changes")


def kill_cohort(folder: Path, n_kills: int) -> None:
    """Write the cohort again and again, killed `n_kills` times in all; print where the kills struck."""
    unbroken, log = folder / "unbroken", folder / "log"

    def run_unbroken() -> None:
        numbers: list[int] = []
        count_changes(numbers.append)
        begun = time.monotonic()
        write_cohort(unbroken)
        log.write_text(f"{len(numbers)} {time.monotonic() - begun}")

    assert in_child(run_unbroken) == 0
    n_changes, seconds = (float(word) for word in log.read_text().split())
    expected = files(unbroken)
    rng = random.Random(7)
    path, n_killed, n_whole = folder / "killed", 0, 0
    while n_killed < n_kills:
        # Most kills strike soon, and now and then a section gets done between two of them.
        share, is_timed = rng.random() ** 3, rng.random() < 0.5
        step = None if is_timed else int(n_changes / 2 * share)
        outcome = in_child(
            lambda step=step: go_on(path, step),
            kill_after_s=0.01 + seconds / 2 * share if is_timed else None,
        )
        assert outcome in (0, -signal.SIGKILL), (n_killed, step)
        n_killed += outcome != 0
        if outcome == 0:
            compare(path, expected)
            shutil.rmtree(path)
            n_whole += 1
    assert in_child(lambda: go_on(path, None)) == 0
    compare(path, expected)
    print(f"cohort: {n_changes:.0f} changes, {n_killed} kills on the way to {n_whole + 1} whole stores")


def go_on(path: Path, step: int | None) -> None:
    check_cohort(path)
    count_changes(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == step else None)
    write_cohort(path)
    check_cohort(path)


def compare(path: Path, expected: dict[str, bytes]) -> None:
    found = files(path)
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
    assert found == expected, [name for name in found if found[name] != expected[name]]
    assert not (path / ".unfinished").exists()


if __name__ == "__main__":
    if sys.argv[2] == "cohort":
        kill_cohort(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
