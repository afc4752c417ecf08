"""Tiles that could not be read: a run goes as if their spots had never been measured."""

from pathlib import Path

import numpy as np
import pytest
from cohorts import add_section

from spam.errors import StoreError
from spam.models.checkpoint import read_checkpoint
from spam.models.inputs import context_features
from spam.schemas.training_config import FinetuneConfig
from spam.store import open_store
from spam.training import finetune
from spam.training.cohort import choose_features, data_digest, read_spots

KEYS = ("tiny_112um", "tiny_224um")
UNREADABLE = (0, 7, 8, 30)


def _add(store: Path, *, is_whole: bool) -> Path:
    """Four sections with tiles that could not be read, or without the spots of these tiles."""
    for i in range(4):
        n_spots = 37 + 2 * i
        kept = np.delete(np.arange(n_spots), UNREADABLE)
        options = {"unreadable": UNREADABLE} if is_whole else {"order": kept}
        add_section(store, f"S{i + 1}", seed=i, n_spots=n_spots, **options)  # type: ignore[arg-type]
    return store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _add(tmp_path_factory.mktemp("whole") / "a.zarr", is_whole=True)


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _add(tmp_path_factory.mktemp("partial") / "a.zarr", is_whole=False)


def test_the_quality_of_tiles_is_never_chosen_as_features(whole: Path) -> None:
    sections = [open_store(whole).section(name) for name in ("S1", "S2")]
    assert choose_features(sections, None, ()).keys == KEYS


def test_what_is_read_holds_no_trace_of_unreadable_spots(whole: Path, partial: Path) -> None:
    a, b = (read_spots(open_store(store).section("S2"), KEYS, k=5) for store in (whole, partial))
    assert a.n_spots == b.n_spots == 39 - len(UNREADABLE)
    for name in ("features", "xy", "totals"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.counts is not None
    assert (a.counts != b.counts).nnz == 0
    assert (a.graph.distances != b.graph.distances).nnz == 0
    assert a.graph.meta == b.graph.meta
    np.testing.assert_array_equal(context_features(a), context_features(b))
    assert data_digest([a]) == data_digest([b])


def test_training_is_that_of_a_cohort_without_these_spots(whole: Path, partial: Path, tmp_path: Path) -> None:
    found = []
    for store in (whole, partial):
        config = FinetuneConfig(
            store=store, save_dir=tmp_path / store.parent.name, epochs=1, fuse_dim=24, heads=3, k=5, n_neighbours=4,
            n_references=5, n_top_genes=29,
        )  # fmt: skip
        found.append(read_checkpoint(finetune(config).run.last_path, stage="finetune")[1])
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)


def test_a_section_of_which_nothing_could_be_read_is_refused(tmp_path: Path) -> None:
    add_section(tmp_path / "a.zarr", "S1", n_spots=11, unreadable=tuple(range(11)))
    with pytest.raises(StoreError, match="no tile of section 'S1' could be read"):
        read_spots(open_store(tmp_path / "a.zarr").section("S1"), KEYS, k=3)
