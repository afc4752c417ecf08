"""Kills writers of a store with SIGKILL, and lets several write at once; a script, because writers are forked processes.

``python store_writers.py FOLDER cohort N`` writes sections with features and graphs, is killed N times on the way, each
time at a random change to the disk or after a random time, and resumes what the last killed writer left. Whenever it gets to the
end, the store is compared with an unbroken one. ``add``, ``replace``, ``graph``, ``features`` and ``features again`` spread N
kills evenly over one operation. ``parts`` and ``sections`` run N rounds of four or six writers at once, ``readers`` N seconds
of readers beside a writer that replaces everything.

This process itself never touches Zarr, whose threads do not survive a fork.
"""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import sparse

from spam.errors import StoreError
from spam.schemas.store_format import FeatureMeta, GraphMeta, SectionMeta
from spam.store import Graph, StoredSection, create_store, open_store
from spam.store.section_index import file_entry
from spam.store.writing import locked, write_root, write_section
from spam.typing import Array

N, GENES, DIM = 13, 7, 5
OLD, NEW = 2, 3
COHORT = {"C2": 2, "C3": 3, "D1": 5}
KEYS, GRAPHS = ("tiny_1px", "tiny_2px"), ("spatial", "features_tiny_1px")
MOMENTS = (
    "were replaced while",
    "run the command again",
    "are unfinished",
    "has no features",
    "has no section",
    "not exist",
)
"""The only errors that a reader may get while something is replaced."""


def add_section(path: Path, value: int, name: str = "C2") -> StoredSection:
    """Write a section full of one value, unless it is there; replace one of another value."""
    store = create_store(path)
    with locked(path, name):
        if name not in store.section_names or store.section(name).meta.donor != str(value):
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
            write_section(
                path,
                meta,
                ids=np.array([f"{value}-{i}" for i in range(N)]),
                xy_px=np.full((N, 2), float(value)),
                counts=sparse.csr_matrix(np.full((N, GENES), value)),
                genes=np.array([f"{value}-{i}" for i in range(GENES)]),
                overview=(np.full((3, 5, 3), value, np.uint8), 1 / value),
            )
    write_root(path)
    return open_store(path, is_read_only=False).section(name)


def feature_meta(key: str, value: int, chunk_rows: int = 3) -> FeatureMeta:
    return FeatureMeta(
        key=key,
        origin="embed",
        encoder={"name": "tiny"},
        weights_sha256="",
        lora_sha256=None,
        tile={"tile_px": value},
        sampling=None,
        precision="float32",
        dim=DIM,
        dtype="float16",
        chunk_rows=chunk_rows,
        software={},
    )


def rows_of(value: int, key: str) -> Array:
    """Features that float16 holds exactly, different ones in each row of each array."""
    first = value * 131 + KEYS.index(key) * 71
    return (first + np.arange(N * DIM, dtype=np.float32).reshape(N, DIM)) / 16


def write_features(section: StoredSection, value: int, key: str = KEYS[0]) -> None:
    with section.lock(key):
        writer = section.feature_writer(
            feature_meta(key, value), is_overwrite=not has_features(section, value, key)
        )
        for chunk in writer.pending:
            writer.write(chunk, rows_of(value, key)[chunk])
        writer.finish()


def has_features(section: StoredSection, value: int, key: str) -> bool:
    return key in section.feature_keys and section.feature_meta(key).tile["tile_px"] == value


def write_graph(section: StoredSection, value: int, key: str = GRAPHS[0]) -> None:
    matrix = sparse.csr_matrix(np.full((N, N), float(value)))
    meta = GraphMeta(kind="spatial", k=value, metric="euclidean", unit="px", sigma=1.0, backend="scipy")
    section.write_graph(key, Graph(connectivities=matrix, distances=matrix, meta=meta))


def prepare(path: Path, operation: str) -> None:
    create_store(path)
    if operation != "add":
        section = add_section(path, OLD)
        write_graph(section, OLD)
        if operation in ("replace", "features again"):
            write_features(section, OLD)
            write_graph(section, OLD, GRAPHS[1])  # goes with the old features


def operate(path: Path, operation: str) -> None:
    if operation in ("add", "replace"):
        add_section(path, NEW)
    elif operation == "graph":
        write_graph(open_store(path, is_read_only=False).section("C2"), NEW)
    else:
        write_features(open_store(path, is_read_only=False).section("C2"), NEW)


def write_cohort(path: Path) -> None:
    """Write what is not there yet, as `spam embed` does."""
    for name, value in COHORT.items():
        section = add_section(path, value, name)
        for key in KEYS:
            write_features(section, value, key)
        for graph in GRAPHS:
            if section.graph(graph) is None:
                write_graph(section, value, graph)


def check(path: Path) -> None:
    """Find of each section all or nothing, and so of each array and graph."""
    if not (path / "zarr.json").exists():
        return
    for name in open_store(path).section_names:
        section = open_store(path).section(name)
        for file, entry in section.index.files.items():
            assert file_entry((path / name / file).read_bytes()) == entry, file
        look(section)


def look(section: StoredSection) -> int:
    """Read all of a section, find one version of each part, and count its parts."""
    value = int(section.meta.donor or 0)
    assert list(section.ids) == [f"{value}-{i}" for i in range(N)]
    assert section.genes is not None
    assert list(section.genes) == [f"{value}-{i}" for i in range(GENES)]
    assert (section.xy_px == value).all()
    assert (section.counts().toarray() == value).all()
    overview = section.overview()
    assert overview is not None
    assert (overview.image == value).all()
    for key in section.graph_keys:
        graph = section.graph(key)
        assert graph is not None
        assert all((m.toarray() == graph.meta.k).all() for m in (graph.connectivities, graph.distances))
    for key in section.feature_keys:
        assert (section.features(key) == rows_of(section.feature_meta(key).tile["tile_px"], key)).all(), key
    return 1 + len(section.graph_keys) + len(section.feature_keys)


def start(work: Callable[[], object]) -> int:
    """Run in a forked process; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  printed, and reported to the parent by the exit code
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return child


def outcome(child: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def must_work(work: Callable[[], object]) -> None:
    assert outcome(start(work)) == 0


def count_changes(do: Callable[[int], None]) -> None:
    """Call `do` with the running number of each change to the disk that this process is about to make."""
    number = -1

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal number
        flags = arguments[2] if event == "open" else 0
        is_write = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if is_write or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
            number += 1
            do(number)

    sys.addaudithook(hook)


def kill_at(step: int | None) -> None:
    count_changes(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == step else None)


def files(path: Path) -> dict[str, bytes]:
    found = (f for f in path.rglob("*") if f.is_file() and ".locks" not in f.parts)
    return {str(f.relative_to(path)): f.read_bytes() for f in found}


def compare(path: Path, expected: dict[str, bytes]) -> None:
    found = files(path)
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
    assert found == expected, [name for name in found if found[name] != expected[name]]
    assert not list(path.glob(".unfinished-*"))


def measured(folder: Path, work: Callable[[], object]) -> tuple[int, float]:
    """Run in a forked process; return the number of its changes to the disk and its seconds."""

    def run() -> None:
        numbers: list[int] = []
        count_changes(numbers.append)
        begun = time.monotonic()
        work()
        (folder / "log").write_text(f"{len(numbers)} {time.monotonic() - begun}")

    must_work(run)
    n_changes, seconds = (folder / "log").read_text().split()
    return int(n_changes), float(seconds)


def kill_operation(folder: Path, operation: str, n_kills: int) -> None:
    unbroken = folder / "unbroken"
    must_work(lambda: prepare(unbroken, operation))
    n_changes, _ = measured(folder, lambda: operate(unbroken, operation))
    expected = files(unbroken)
    for step in sorted({n_changes * i // n_kills for i in range(n_kills)}):
        path = folder / f"killed at {step}"
        must_work(lambda path=path: prepare(path, operation))
        assert (
            outcome(start(lambda path=path, step=step: (kill_at(step), operate(path, operation))))
            == -signal.SIGKILL
        )
        must_work(lambda path=path: (check(path), operate(path, operation)))
        compare(path, expected)
    print(f"{operation}: {n_changes} changes")


def kill_cohort(folder: Path, n_kills: int) -> None:
    unbroken, path = folder / "unbroken", folder / "killed"
    n_changes, seconds = measured(folder, lambda: write_cohort(unbroken))
    expected, rng = files(unbroken), random.Random(7)
    n_killed, n_whole = 0, 0
    while n_killed < n_kills:
        # Most kills strike early, and now and then a section is finished between two of them.
        share, is_timed = rng.random() ** 3, rng.random() < 0.5
        step = None if is_timed else int(n_changes / 2 * share)
        child = start(lambda step=step: (check(path), kill_at(step), write_cohort(path), check(path)))
        if is_timed:
            time.sleep(0.01 + seconds / 2 * share)
            os.kill(child, signal.SIGKILL)
        end = outcome(child)
        assert end in (0, -signal.SIGKILL), (n_killed, step)
        n_killed += end != 0
        if end == 0:
            compare(path, expected)
            shutil.rmtree(path)
            n_whole += 1
    must_work(lambda: (check(path), write_cohort(path)))
    compare(path, expected)
    print(f"cohort: {n_changes} changes, {n_killed} kills on the way to {n_whole + 1} whole stores")


def write_share(path: Path, share: int, seed: int, step: int | None) -> None:
    """Write every fourth chunk in random order, as a job of a job array; finish if nothing is left."""
    kill_at(step)
    section = open_store(path, is_read_only=False).section("C2")
    with section.lock(KEYS[0], part=f"@{share}of4"):
        writer = section.feature_writer(feature_meta(KEYS[0], 2, chunk_rows=1))
        own = [chunk for chunk in writer.chunks[share::4] if chunk in writer.pending]
        random.Random(seed).shuffle(own)
        for chunk in own:
            writer.write(chunk, rows_of(2, KEYS[0])[chunk])
        if not writer.pending:
            writer.finish()


def race_parts(folder: Path, n_rounds: int) -> None:
    """Fill one array by four processes at once, some of them killed and started again."""
    must_work(
        lambda: (
            add_section(folder / "alone", 2),
            [write_share(folder / "alone", i, 0, None) for i in range(4)],
        )
    )
    expected, rng, n_killed = files(folder / "alone"), random.Random(3), 0
    for number in range(n_rounds):
        path = folder / f"round {number}"
        must_work(lambda path=path: add_section(path, 2))
        todo = set(range(4))
        while todo:
            steps = {share: rng.randrange(40) if rng.random() < 0.5 else None for share in todo}
            seed = rng.randrange(1000)
            children = {
                share: start(
                    lambda share=share, step=step, path=path, seed=seed: write_share(path, share, seed, step)
                )
                for share, step in steps.items()
            }
            ends = {share: outcome(child) for share, child in children.items()}
            assert set(ends.values()) <= {0, -signal.SIGKILL}, ends
            todo = {share for share, end in ends.items() if end}
            n_killed += len(todo)
        # Each may have seen a chunk pending that another one was writing: then the next run finishes.
        must_work(lambda path=path: write_share(path, 0, 0, None))
        compare(path, expected)
    print(f"parts: {n_rounds} rounds, {n_killed} kills")


def race_sections(folder: Path, n_rounds: int) -> None:
    """Add sections, and features and graphs to another one, and the store itself, all at the same time."""

    def section(path: Path) -> StoredSection:
        return add_section(path, 2)

    works: list[Callable[[Path], object]] = [
        *(lambda path, key=key: write_features(section(path), 2, key) for key in KEYS),
        *(lambda path, key=key: write_graph(section(path), 3, key) for key in GRAPHS),
        *(lambda path, name=name: add_section(path, COHORT[name], name) for name in ("C3", "D1")),
    ]
    must_work(lambda: [work(folder / "alone") for work in works])
    expected = files(folder / "alone")
    for number in range(n_rounds):
        path = folder / f"round {number}"
        children = [start(lambda work=work, path=path: work(path)) for work in works]
        assert [outcome(child) for child in children] == [0] * len(works)
        compare(path, expected)
    print(f"sections: {n_rounds} rounds")


def replace_all(path: Path) -> None:
    value = OLD
    while True:
        value = NEW if value == OLD else OLD
        section = (
            add_section(path, value)
            if random.random() < 0.2
            else open_store(path, is_read_only=False).section("C2")
        )
        write_features(section, value)
        write_graph(section, value)


def read_all(path: Path, seconds: float, log: Path) -> None:
    n_whole, n_told, until = 0, 0, time.monotonic() + seconds
    kept: StoredSection | None = None
    while time.monotonic() < until:
        try:
            if kept is None or random.random() < 0.7:
                kept = open_store(path).section("C2")
            n_whole += look(kept) == 3
        except StoreError as error:
            if not any(moment in str(error) for moment in MOMENTS):
                raise
            n_told += 1
            kept = None
    log.write_text(f"{n_whole} {n_told}")


def race_readers(folder: Path, seconds: int) -> None:
    path = folder / "store"
    must_work(lambda: (add_section(path, OLD), prepare(path, "features")))
    writer = start(lambda: replace_all(path))
    readers = [start(lambda i=i: read_all(path, float(seconds), folder / f"log {i}")) for i in range(2)]
    ends = [outcome(reader) for reader in readers]
    os.kill(writer, signal.SIGKILL)
    assert (ends, outcome(writer)) == ([0, 0], -signal.SIGKILL)
    counts = [(folder / f"log {i}").read_text().split() for i in range(2)]
    assert sum(int(whole) for whole, _ in counts) > 0
    print(f"readers: (all of a section, replaced meanwhile) {counts}")


if __name__ == "__main__":
    races = {"cohort": kill_cohort, "parts": race_parts, "sections": race_sections, "readers": race_readers}
    for operation, n in zip(
        sys.argv[2::2], map(int, sys.argv[3::2]), strict=True
    ):  # in one process: imports take seconds
        work_in = Path(sys.argv[1]) / operation
        work_in.mkdir()
        print(operation, flush=True)
        if operation in races:
            races[operation](work_in, n)
        else:
            kill_operation(work_in, operation, n)
