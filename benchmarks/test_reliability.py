"""What SPAM recovers of a known truth, and how often it claims what is not there; with real training throughout.

``pytest benchmarks/test_reliability.py --benchmark-enable -n 0 -s`` takes about 50 minutes on one core: five strengths of
signal for two cohorts seen by colours and for one that is drawn, embedded and trained on as users would, intervals for new
donors, and three times 100 cohorts without signal in all or half of the genes. Without
``--benchmark-enable`` the same code runs once on few, so that it cannot rot.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from spam.embedding import embed
from spam.evaluation.runs import score_fold
from spam.evaluation.spam_method import SPAM, SpamMethod, choose_methods
from spam.models.reliability import FALSE_DISCOVERY_RATE
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.simulate_config import SimulateConfig
from spam.simulation import simulate
from spam.store import open_store
from spam.training.cohort import read_spots
from spam.training.feature_choice import choose_shared_features

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reference"))

# What the tests use, too.
from recovery_lab import (
    QUICK,
    K,
    cohort,
    fold_data_of,
    fold_of,
    heldout_of,
    mean_correlation,
    recovery,
    spots_of,
)

SIGNALS = (0.03, 0.1, 0.3, 1.0, 2.0)
METHODS = (
    *("tuned ridge", "HEST ridge", "image kNN", "ridge + kNN + RBF", "MLP (squared error)", "BLEEP"),
    *("ST-Net MLP", "STFlow/DeepSpot-style set", "TRIPLEX-style", "SPAM"),
)
N_COHORTS = 100
NOISE = {
    "independent from spot to spot": {"null_share": 1.0},
    "as smooth as tissue": {"null_share": 1.0, "hidden": 1.0},
    "as smooth as tissue, half of the genes with signal": {"null_share": 0.5, "hidden": 0.5},
}


def test_recovery(benchmark, tmp_path, capsys):
    signals, seeds = (SIGNALS, range(2)) if benchmark.enabled else ((0.3,), range(1))
    rows = []
    for signal in signals:
        found = [
            recovery(
                cohort(4, n_spots=151, n_genes=101, signal=signal, seed=seed), tmp_path / f"{signal}-{seed}"
            )
            for seed in seeds
        ]
        spam, oracle = np.mean([(f.spam, f.oracle) for f in found], axis=0)
        rows.append((signal, spam, oracle))
        with capsys.disabled():
            print(f"\nsignal {signal}: SPAM {spam:.3f}, oracle {oracle:.3f}, share {spam / oracle:.3f}")
    benchmark(lambda: None)
    if benchmark.enabled:
        _, spam, oracle = np.array(rows).T
        # Beyond a signal of 1 a few genes fill the library, and the oracle's least squares do worse, too.
        assert (np.diff(spam / oracle) > -0.02).all()
        assert spam[0] / oracle[0] < 0.5
        assert spam[-1] / oracle[-1] > 0.8


def test_recovery_by_the_default_encoder(benchmark, tmp_path, capsys):
    """Images in full resolution, the default encoder and default options: what users would have."""
    signals, sizes, tile_um = (
        (SIGNALS, {"n_donors": 8, "n_spots": 200, "n_genes": 101}, (112.0, 224.0, 448.0))
        if benchmark.enabled
        else ((0.3,), {"n_donors": 3, "n_spots": 37, "n_genes": 23}, (112.0,))
    )
    options = {} if benchmark.enabled else QUICK
    drawn = simulate(SimulateConfig(out_dir=tmp_path / "cohort", n_sections=1, **sizes))
    store = tmp_path / "store.zarr"
    embed(EmbedConfig(manifest=drawn.manifest, store=store, tile_um=tile_um, device="cpu"))
    sections = [open_store(store).section(name) for name in drawn.sections]
    features = choose_shared_features(sections, None, ())
    seen = [read_spots(section, features.keys, k=K) for section in sections]
    rows = []
    for signal in signals:
        # The same tissue with other genes, and drawn coarsely: it was looked at already.
        truth = cohort(len(seen), mpp=8.0, signal=signal, **{k: sizes[k] for k in ("n_spots", "n_genes")})
        spots = []
        for section, look in zip(truth, seen, strict=True):
            np.testing.assert_allclose(look.xy - look.xy[0], (section.xy_px - section.xy_px[0]) * 8, atol=1)
            spots.append(
                dataclasses.replace(spots_of(section), features=look.features, xy=look.xy, graph=look.graph)
            )
        found = recovery(
            truth,
            tmp_path / str(signal),
            n_unseen=3 if benchmark.enabled else 1,
            spots=spots,
            features=features,
            **options,
        )
        rows.append((found.spam, found.oracle))
        with capsys.disabled():
            share = found.spam / found.oracle
            print(f"\nsignal {signal}: SPAM {found.spam:.3f}, oracle {found.oracle:.3f}, share {share:.3f}")
    benchmark(lambda: None)
    spam, oracle = np.array(rows).T
    assert (spam > 0.05).all()
    if benchmark.enabled:
        # If the signal is stronger than count noise, images give nearly all of the oracle's accuracy.
        assert (np.diff(spam) > -0.02).all()
        assert (np.diff(spam / oracle) > -0.02).all()
        assert spam[-1] / oracle[-1] > 0.95


def test_other_methods(benchmark, capsys):
    """Whether SPAM recovers as much as others would on the same spots."""
    signals, seeds, names = (
        (SIGNALS[1:], range(2), METHODS) if benchmark.enabled else ((0.3,), range(1), METHODS[:1])
    )
    for signal in signals:
        folds = [fold_of(cohort(4, n_spots=151, n_genes=101, signal=signal, seed=seed)) for seed in seeds]
        for method in choose_methods(names):
            found = [
                mean_correlation(prediction.expression, truth)
                for task, truth in folds
                for prediction in method.fit_predict(task, seed=0).values()
            ]
            assert len(found) == len(folds)
            assert np.isfinite(found).all()
            assert min(found) > 0.05  # the mean of a section correlates with nothing
            with capsys.disabled():
                print(f"\nsignal {signal}: {method.name} {np.mean(found):.3f}")
    benchmark(lambda: None)


def test_intervals_for_new_donors(benchmark, capsys):
    """Two sections of each of four donors, and four others: what it is worth to hold out all of a donor at first."""
    effects, seeds, n_donors, size = (
        ((0.2, 0.6), range(3), 4, {"n_spots": 151, "n_genes": 101})
        if benchmark.enabled
        else ((0.6,), range(1), 3, {"n_spots": 37, "n_genes": 23})
    )
    spam = SPAM if benchmark.enabled else SpamMethod(name="SPAM", options={**QUICK, "epochs": 1})
    for effect in effects:
        scores = []
        for seed in seeds:
            options = {"donor_effect": effect, "seed": seed, **size}
            known = cohort(n_donors, per_donor=2, **options)
            # Each new donor's first section.
            spots = [spots_of(s) for s in (*known, *cohort(2 * n_donors, **options)[n_donors:])]
            nameless = [
                dataclasses.replace(s, donor=None) for s in spots
            ]  # then the last section alone is held out
            for data in (fold_data_of(cohort_, n_donors) for cohort_ in (nameless, spots)):
                found = score_fold(data, spam.name, spam.fit_predict(data.task, seed=0)).sets
                means = found[found["gene_set"] == "all"].groupby("score")["value"].mean()
                scores.append(means[["coverage", "pearson"]].tolist())
        section, donor = np.array(scores).reshape(len(seeds), 2, 2).mean(axis=0)
        assert np.isfinite([section, donor]).all()
        with capsys.disabled():
            print(
                f"\ndonor effect {effect}: 90 % intervals cover {section[0]:.3f} where a section is held out, "
                f"{donor[0]:.3f} where a donor is; Pearson {section[1]:.3f}, {donor[1]:.3f}"
            )
        if benchmark.enabled:
            assert abs(donor[0] - 0.9) < abs(section[0] - 0.9)
            assert donor[1] > section[1] - 0.01
    benchmark(lambda: None)


@pytest.mark.parametrize("noise", NOISE)
def test_false_discoveries(benchmark, tmp_path, capsys, noise):
    n_cohorts = N_COHORTS if benchmark.enabled else 2
    tested, flagged, false, possible = np.zeros((4, n_cohorts))
    for seed in range(n_cohorts):
        sections = cohort(3, n_spots=199, n_genes=101, seed=seed, **NOISE[noise])
        heldout, genes = heldout_of(sections, tmp_path / str(seed), **QUICK)
        is_flagged = heldout.q_value <= FALSE_DISCOVERY_RATE
        is_null = sections[0].gene_table.loc[list(genes), "is_null"].to_numpy()
        # A network that learns nothing on its held-out section stays at the mean, and has nothing to test.
        tested[seed] = np.isfinite(heldout.p_value).any()
        flagged[seed], false[seed] = is_flagged.sum(), (is_flagged & is_null).sum()
        possible[seed] = (~is_null).sum()
    rates = false / np.maximum(flagged, 1)
    error = rates.std(ddof=1) / np.sqrt(n_cohorts)
    with capsys.disabled():
        print(
            f"\nnoise {noise}: {int((false > 0).sum())} of {n_cohorts} cohorts with a false discovery "
            f"({int(tested.sum())} were tested), rate "
            f"{rates.mean():.4f} ± {error:.4f}, {flagged.mean():.1f} genes flagged of {possible.mean():.1f} with signal"
        )
    benchmark(lambda: None)
    if benchmark.enabled:
        # Without any signal a cohort's rate is 0 or 1; in both cases what 99 of 100 runs of this would not exceed.
        if not possible.any():
            assert (false > 0).sum() <= stats.binom.ppf(0.99, n_cohorts, FALSE_DISCOVERY_RATE)
        else:
            assert rates.mean() <= FALSE_DISCOVERY_RATE + 2.33 * error
            assert flagged.sum() > 0.3 * possible.sum()
