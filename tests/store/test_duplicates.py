"""The same tissue under two names: digests against comparisons of whole profiles by Python sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from spam.store import Profiles, StoredSection, create_store, profiles_of
from spam.store.duplicates import duplicates_in

N_GENES = 61
GENES = [f"G{i}" for i in range(N_GENES)]


def counts(seed: int, n_spots: int = 47, depth: float = 900.0) -> np.ndarray:
    """Poisson counts over the same gene frequencies in all sections."""
    share = np.random.default_rng(3).gamma(0.8, 1.0, N_GENES)
    return np.random.default_rng([seed, 5]).poisson(share / share.sum() * depth, (n_spots, N_GENES))


def profiles(dense: np.ndarray, genes: list[str] = GENES, **options: object) -> Profiles:
    return profiles_of(csr_matrix(dense), genes, **options)


def test_profiles_are_counted_as_python_counts_them() -> None:
    dense = counts(0)
    dense[[5, 9]] = dense[2]  # three equal spots identify nothing
    dense[11, 7:] = 0  # seven counts are too few
    rows = [tuple(row) for row in dense]
    assert len(profiles(dense).spots) == sum(
        rows.count(row) == 1 and np.count_nonzero(row) >= 8 for row in rows
    )
    columns = [tuple(sorted(x for x in column if x)) for column in dense.T]
    n_genes = sum(columns.count(column) == 1 and len(column) >= 8 for column in columns)
    assert len(profiles(dense).genes) == n_genes


@given(st.integers(0, 99), st.sampled_from(["spots", "genes", "some spots", "some genes", "both orders"]))
def test_the_same_counts_are_found_in_any_order_and_in_part(seed: int, change: str) -> None:
    rng = np.random.default_rng(seed)
    dense = counts(seed)
    n_rows = 23 if change == "some spots" else 47
    n_columns = 31 if change == "some genes" else N_GENES
    rows = rng.permutation(47)[:n_rows] if "spots" in change or "both" in change else np.arange(47)
    columns = (
        rng.permutation(N_GENES)[:n_columns] if "genes" in change or "both" in change else np.arange(N_GENES)
    )
    copy, genes = dense[np.ix_(rows, columns)], [GENES[i] for i in columns]
    a, b = profiles(dense, among=genes), profiles(copy, genes, among=genes)
    assert a.share_of_counts(b) == b.share_of_counts(a) == 1.0
    assert profiles(counts(seed + 100), among=genes).share_of_counts(b) == 0.0


@pytest.mark.parametrize("n_spots", [16, 30, 47])
def test_a_part_of_the_spots_of_a_stored_section_is_found_and_the_whole_of_a_stored_part(
    tmp_path: Path, add: Callable[..., StoredSection], n_spots: int
) -> None:
    whole, other = counts(0), counts(1, 29)
    rows = np.random.default_rng(0).permutation(47)[:n_spots]
    for name, stored, new, is_found in (
        ("whole", whole, whole[rows], True),
        ("part", whole[rows], whole, True),
        ("other", whole, other, False),
    ):
        store = create_store(tmp_path / f"{name}.zarr")
        add(store, name="A", **tables(stored))
        found = duplicates_in(store, "B", csr_matrix(new), np.array(GENES))
        assert found == (["A"] if is_found else [])


def tables(dense: np.ndarray) -> dict[str, Any]:
    """Return what differs from the section that `add` writes otherwise."""
    n = len(dense)
    xy = np.random.default_rng(1).uniform(0, 900, (n, 2))
    spots = {"ids": np.array([f"s{i}" for i in range(n)]), "xy_px": xy, "xy_um": xy * 0.69, "obs": {}}
    return {"n_spots": n, "n_genes": N_GENES, **spots, "counts": csr_matrix(dense), "genes": np.array(GENES)}


def test_renamed_genes_are_found_by_their_counts() -> None:
    renamed = [f"ENSG{i:011d}" for i in range(N_GENES)]
    assert profiles(counts(1)).share_of_counts(profiles(counts(1), renamed)) == 1.0


@pytest.mark.parametrize(("n_shared", "is_found"), [(47, True), (9, True), (3, False)])
def test_a_partial_overlap_is_found_from_a_tenth_of_the_spots(n_shared: int, *, is_found: bool) -> None:
    other = counts(8)
    other[:n_shared] = counts(7)[:n_shared]
    share = profiles(counts(7)).share_of_counts(profiles(other))
    assert share == (pytest.approx(n_shared / 47) if is_found else 0.0)


@pytest.mark.parametrize(("n_spots", "depth"), [(16, 90.0), (331, 30.0), (1009, 200.0)])
def test_sections_of_the_same_kind_are_not_taken_for_each_other(n_spots: int, depth: float) -> None:
    found = [profiles(counts(seed, n_spots, depth)) for seed in range(5)]
    assert {a.share_of_counts(b) for a in found for b in found if a is not b} == {0.0}


def test_images_are_compared_bit_by_bit() -> None:
    features = np.random.default_rng(0).normal(size=(47, 13)).astype(np.float32)
    features[[3, 4]] = 0  # two blank tiles identify nothing
    own = profiles_of(None, None, features)
    assert len(own.images) == 45
    assert own.share_of_images(profiles_of(None, None, features[::-1][:29])) == 1.0
    assert own.share_of_images(profiles_of(None, None, np.nextafter(features, 9))) == 0.0
    assert own.share_of_counts(own) == 0.0


def test_a_checkpoint_keeps_64_digests_of_each_kind() -> None:
    features = np.random.default_rng(0).normal(size=(211, 5))
    whole = profiles_of(csr_matrix(counts(2, 211)), GENES, features)
    kept = whole.to_mapping()
    assert {name: len(digests) for name, digests in kept.items()} == {
        "spots": 64,
        "genes": len(whole.genes),
        "images": 64,
    }
    again = Profiles.from_mapping(kept)
    assert (again.share_of_counts(whole), again.share_of_images(whole)) == (1.0, 1.0)
    half = profiles_of(csr_matrix(counts(2, 211)[:105]), GENES, features[:105])
    assert again.share_of_counts(half) == pytest.approx(np.isin(whole.spots[:64], half.spots).mean())
