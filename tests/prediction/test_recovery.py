"""What is known of a simulated cohort is found again, and no more; benchmarks/test_reliability.py goes further."""

from pathlib import Path

import numpy as np
from recovery_lab import QUICK, cohort, heldout_of, recovery


def test_what_is_recovered_of_the_true_rate_grows_with_the_signal(tmp_path: Path) -> None:
    weak, strong = (
        recovery(cohort(4, n_spots=101, n_genes=53, seed=1, signal=signal), tmp_path / str(signal), **QUICK)
        for signal in (0.05, 1.0)
    )
    # The oracle is given the morphology; few noisy counts limit what it can learn about the genes.
    assert 0.9 < strong.oracle < 1
    assert strong.spam > 0.65
    assert strong.spam > weak.spam + 0.1
    assert strong.oracle > weak.oracle + 0.1


def test_genes_that_images_know_nothing_of_are_not_called_predictable(tmp_path: Path) -> None:
    # Half of the genes have a signal; what else moves them, and moves the others, is as smooth as the tissue.
    sections = cohort(3, n_spots=199, n_genes=53, seed=1, signal=1.0, hidden=0.5, null_share=0.5)
    heldout, genes = heldout_of(sections, tmp_path, **QUICK)
    is_null = sections[0].is_null[[sections[0].genes.index(gene) for gene in genes]]
    is_flagged = heldout.q_value <= 0.05
    assert (is_flagged & ~is_null).sum() > 8
    assert (is_flagged & is_null).sum() <= 0.15 * is_flagged.sum()
    # P values of the others are uniform, or larger.
    assert (heldout.p_value[is_null] < 0.2).mean() < 0.2 + 4 * np.sqrt(0.2 * 0.8 / is_null.sum())


def test_pure_noise_is_called_so(tmp_path: Path) -> None:
    sections = cohort(3, n_spots=101, n_genes=53, seed=1, null_share=1.0, hidden=1.0)
    heldout, _ = heldout_of(sections, tmp_path, **QUICK)
    assert np.isfinite(heldout.p_value).all()
    assert not (heldout.q_value <= 0.05).any()
