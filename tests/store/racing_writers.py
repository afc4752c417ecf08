"""Lets several processes write one store at once, or read it while it is written; a script, like `killed_writers`.

``python racing_writers.py FOLDER parts|sections|readers N`` runs N rounds; each ends with a look at the whole store.
"""

import dataclasses
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import killed_writers as kw
import numpy as np

from spam.errors import StoreError
from spam.store import StoredSection, create_store, open_store

N_WRITERS = 4
MOMENTS = (
    "was replaced by another process",
    "another process has changed that section",
    "are unfinished",
    "has no features",
    "has no section",
    "not there any more",
)
"""What a reader may be told while something is replaced, and nothing else."""


def start(work: Callable[[], None]) -> int:
    """Run in a forked process; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except Exception:  # noqa: BLE001  printed, and told to the parent by the exit code
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return child


def outcome(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def must_work(work: Callable[[], None]) -> None:
    assert outcome(start(work)) == 0


def compare(path: Path, expected: dict[str, bytes]) -> None:
    must_work(lambda: open_store(path, is_read_only=False) and None)  # clears up after the killed
    kw.compare(path, expected)


def write_share(path: Path, share: int, seed: int, step: int | None) -> None:
    """Write every fourth chunk, in random order; finish if nobody has left anything to do."""
    kw.count_changes(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == step else None)
    section = open_store(path, is_read_only=False).section("C2")
    with section.lock(kw.KEYS[0], part=f"@{share}"):
        writer = section.feature_writer(dataclasses.replace(kw.feature_meta(kw.KEYS[0], {}), chunk_rows=1))
        own = [chunk for chunk in writer.chunks[share::N_WRITERS] if chunk in writer.pending]
        random.Random(seed).shuffle(own)
        for chunk in own:
            writer.write(chunk, kw.rows_of("C2", kw.KEYS[0])[chunk])
        if not writer.pending:
            writer.finish()


def race_parts(folder: Path, n_rounds: int) -> None:
    def prepare(path: Path) -> None:
        create_store(path).add_section(kw.section_record(2))

    def alone(path: Path) -> None:
        prepare(path)
        for share in range(N_WRITERS):
            write_share(path, share, 0, None)

    must_work(lambda: alone(folder / "alone"))
    expected = kw.files(folder / "alone")
    rng, n_killed = random.Random(3), 0
    for number in range(n_rounds):
        path = folder / f"round {number}"
        must_work(lambda path=path: prepare(path))
        todo = set(range(N_WRITERS))
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
    """Add sections, and features of two encoders and graphs to a third one, all at the same time."""

    def prepare(path: Path) -> None:
        create_store(path).add_section(kw.section_record(2))

    def features(path: Path, key: str) -> None:
        section = open_store(path, is_read_only=False).section("C2")
        with section.lock(key):
            writer = section.feature_writer(kw.feature_meta(key, {}))
            for chunk in writer.pending:
                writer.write(chunk, kw.rows_of("C2", key)[chunk])
            writer.finish()

    def graph(path: Path, key: str) -> None:
        kw.write_graph(open_store(path, is_read_only=False).section("C2"), 3, key)

    def add(path: Path, name: str) -> None:
        create_store(path).add_section(kw.section_record(kw.COHORT[name], name))

    works = [(features, key) for key in kw.KEYS] + [(graph, key) for key in kw.GRAPHS]
    works += [(add, name) for name in ("C3", "D1")]

    def alone(path: Path) -> None:
        prepare(path)
        for work, what in works:
            work(path, what)

    must_work(lambda: alone(folder / "alone"))
    expected = kw.files(folder / "alone")
    for number in range(n_rounds):
        path = folder / f"round {number}"
        if number % 2:  # the store itself is made at the same time too
            children = [start(lambda path=path, name=name: add(path, name)) for name in ("C3", "D1")]
            children += [start(lambda path=path: prepare(path))]
            assert [outcome(child) for child in children] == [0, 0, 0]
            children = [start(lambda w=w, a=a, path=path: w(path, a)) for w, a in works[:4]]
        else:
            must_work(lambda path=path: prepare(path))
            children = [start(lambda w=w, a=a, path=path: w(path, a)) for w, a in works]
        assert {outcome(child) for child in children} == {0}
        compare(path, expected)
    print(f"sections: {n_rounds} rounds")


def replace_all(path: Path) -> None:
    """Replace features, a graph and the whole section, each by others, until killed."""
    store, value = open_store(path, is_read_only=False), kw.OLD
    while True:
        value = kw.NEW if value == kw.OLD else kw.OLD
        # The writer before may have been killed after the old section was gone, and before the new one was there.
        if random.random() < 0.2 or "C2" not in open_store(path).section_names:
            store.add_section(kw.section_record(value), is_overwrite=True)
        section = store.section("C2")
        kw.write_features(section, value)
        kw.write_graph(section, value)


def look(section: StoredSection) -> int:
    """Read all of a section, and find one version of each part; say how many of its parts were there."""
    value = int(section.meta.donor or 0)
    kw.check_tables(section, value)
    graph = section.graph("spatial")
    if graph is not None:
        for matrix in (graph.connectivities, graph.distances):
            assert (matrix.toarray() == graph.meta.k).all()
    if kw.KEY in section.feature_keys:
        stated = section.feature_meta(kw.KEY).tile["tile_px"]
        rows = section.features(kw.KEY)
        assert (rows == stated).all(), (stated, np.unique(rows))
    return 1 + (graph is not None) + (kw.KEY in section.feature_keys)


def read_all(path: Path, seconds: float, log: Path) -> None:
    n_whole, n_told, until = 0, 0, time.monotonic() + seconds
    kept: StoredSection | None = None
    while time.monotonic() < until:
        try:
            if kept is None or random.random() < 0.7:
                kept = open_store(path).section("C2")
            elif random.random() < 0.5:
                kept.refresh()
            n_whole += look(kept) == 3
        except StoreError as error:
            if not any(moment in str(error) for moment in MOMENTS):
                raise
            n_told += 1
            kept = None
    log.write_text(f"{n_whole} {n_told}")


def race_readers(folder: Path, n_rounds: int) -> None:
    path, n_whole, n_told = folder / "store", 0, 0
    must_work(lambda: kw.prepare(path, "replace"))
    for number in range(n_rounds):
        writer = start(lambda: replace_all(path))
        readers = [
            start(lambda n=number, i=i: read_all(path, 2.0, folder / f"log {n} {i}")) for i in range(2)
        ]
        ends = [outcome(reader) for reader in readers]
        os.kill(writer, signal.SIGKILL)
        assert (ends, outcome(writer)) == ([0, 0], -signal.SIGKILL)
        for i in range(2):
            whole, told = map(int, (folder / f"log {number} {i}").read_text().split())
            n_whole, n_told = n_whole + whole, n_told + told
    assert n_whole > 0
    print(f"readers: {n_whole} times all of a section, {n_told} times told that it was being replaced")
    shutil.rmtree(path)


if __name__ == "__main__":
    races = {"parts": race_parts, "sections": race_sections, "readers": race_readers}
    races[sys.argv[2]](Path(sys.argv[1]), int(sys.argv[3]))
