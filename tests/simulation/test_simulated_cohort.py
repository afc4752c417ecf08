"""Expression and counts of a simulated section, its files, and the cohort in a folder."""

import dataclasses
import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from spam.errors import ConfigError, OutputExistsError
from spam.schemas.simulate_config import SimulateConfig
from spam.simulation import SimulatedSection, simulate, simulate_section, simulated_cohort
from spam.simulation.simulated_cohort import draw_counts, draw_gene_table, expression_rates, write_section
from spam.simulation.simulated_tissue import KINDS, SmoothFields, share_moments


def config(out_dir: Path = Path("unused"), **values: object) -> SimulateConfig:
    defaults = {"n_donors": 2, "n_sections": 1, "n_spots": 13, "n_genes": 7, "mpp": 2.0}
    return SimulateConfig(out_dir=out_dir, **{**defaults, **values})


def loadings_of(genes: pd.DataFrame) -> np.ndarray:
    return genes[[name for name in genes if name.startswith("loading_")]].to_numpy()


@pytest.mark.parametrize(("n_programmes", "signal"), [(1, 1.0), (3, 0.5), (len(KINDS), 1.0)])
def test_morphology_changes_log_rates_by_the_signal(n_programmes: int, signal: float) -> None:
    rng = np.random.default_rng(11)
    shares = np.concatenate([SmoothFields.draw(rng).shares(np.zeros((1, 2))) for _ in range(1511)])
    genes = draw_gene_table(config(n_programmes=n_programmes, signal=signal))
    spread = (shares[:, :n_programmes] @ loadings_of(genes).T).std(axis=0)
    np.testing.assert_allclose(spread, signal, rtol=0.12)  # shares have heavy tails: 4 standard errors


def test_rates_are_the_softmax_of_the_log_rates() -> None:
    genes = draw_gene_table(config(n_genes=5, n_programmes=2, seed=3))
    genes["donor_effect"], genes["section_effect"] = np.linspace(-0.3, 0.4, 5), 0.1
    shares = np.random.default_rng(0).dirichlet(np.ones(len(KINDS)), 7)
    rates = expression_rates(genes, shares)
    mean, _ = share_moments()
    loadings = loadings_of(genes)
    for spot in range(7):
        score = [
            np.exp(
                genes["base_log_rate"].iloc[g]
                + genes["donor_effect"].iloc[g]
                + sum(loadings[g, j] * (shares[spot, j] - mean[j]) for j in (0, 1))
            )
            for g in range(5)
        ]
        np.testing.assert_allclose(rates[spot], np.array(score) / sum(score), rtol=1e-10)


def test_null_genes_keep_their_part_of_the_library_everywhere() -> None:
    genes = draw_gene_table(config(n_genes=11, n_programmes=3, null_share=0.45, signal=1.3))
    null = genes["is_null"].to_numpy()
    assert null.sum() == 5
    assert (loadings_of(genes)[null] == 0).all()
    plain = draw_gene_table(config(n_genes=11, n_programmes=3, signal=1.3))
    np.testing.assert_array_equal(loadings_of(genes)[~null], loadings_of(plain)[~null])
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(len(KINDS)), 7)
    rates = expression_rates(genes, shares)
    level = np.exp(genes["base_log_rate"].to_numpy())
    level /= level.sum()
    np.testing.assert_allclose(rates[:, null], np.tile(level[null], (7, 1)), rtol=1e-12)
    np.testing.assert_allclose(rates.sum(axis=1), 1.0)
    # Hidden patterns change them, but each part of the library stays as large.
    hidden = expression_rates(genes, shares, rng.normal(size=(7, 11)))
    assert (hidden[:, null].std(axis=0) > 0).all()
    np.testing.assert_allclose(hidden[:, null].sum(axis=1), level[null].sum(), rtol=1e-10)
    assert draw_gene_table(config(null_share=1.0))["is_null"].all()


def test_counts_pass_a_chi_square_test_against_scipy() -> None:
    rates = np.ones((100_003, 1))
    depths, counts = draw_counts(rates, depth=6.0, theta=2.0, rng=np.random.default_rng(2))
    expected = np.array([stats.nbinom.pmf(value, 2.0, 2.0 / (2.0 + depths)).sum() for value in range(25)])
    expected = np.append(expected, len(depths) - expected.sum())
    observed = np.bincount(np.minimum(counts[:, 0], 25), minlength=26)
    assert stats.chisquare(observed, expected).pvalue > 1e-4
    assert counts.dtype == np.int32
    assert depths.mean() == pytest.approx(6.0, abs=4 * depths.std() / np.sqrt(len(depths)))
    assert np.log(depths).std() == pytest.approx(0.35, rel=0.01)


def test_a_section(tmp_path: Path) -> None:
    section = simulate_section(config(n_programmes=3, n_spots=151, n_genes=53), donor=1, section=1)
    assert (section.name, section.donor) == ("D2S2", "D2")
    assert section.counts.shape == section.rates.shape == (151, 53)
    row, column = section.row_col[5]
    assert section.ids[5] == f"D2S2_{column}x{row}"
    assert (section.xy_px > 0).all()
    assert (section.xy_px < section.image.shape[1::-1]).all()
    np.testing.assert_allclose(section.rates.sum(axis=1), 1.0)
    # Neighbours in a row lie one pitch apart: 100 µm are 50 px, or two columns.
    is_same_row = section.row_col[:-1, 0] == section.row_col[1:, 0]
    steps = np.diff(section.xy_px, axis=0)[is_same_row]
    columns = np.diff(section.row_col, axis=0)[is_same_row, 1]
    np.testing.assert_allclose(steps, np.stack([25.0 * columns, 0 * columns], axis=1), atol=0.011)
    mean = section.depths[:, None] * section.rates
    assert abs((section.counts - mean).sum() / np.sqrt((mean + mean**2 / 5.0).sum())) < 4


def test_hidden_patterns_are_not_in_the_image() -> None:
    small = {"n_spots": 31, "n_genes": 97, "signal": 0.0}
    plain, hidden = simulate_section(config(**small)), simulate_section(config(**small, hidden=0.6))
    np.testing.assert_array_equal(plain.image, hidden.image)
    np.testing.assert_array_equal(plain.programmes, hidden.programmes)
    # Log rates change by the stated spread, up to the normalisation of the library.
    change = np.log(hidden.rates) - np.log(plain.rates)
    change -= change.mean(axis=1, keepdims=True)
    assert change.std() == pytest.approx(0.6, rel=0.1)


def test_effects_have_their_spread_and_belong_to_donor_and_section() -> None:
    small = config(n_spots=2, n_genes=5003, donor_effect=0.4, section_effect=0.15, signal=0.0)
    first, second, other = (
        simulate_section(small, donor=donor, section=number).gene_table
        for donor, number in ((0, 0), (0, 1), (1, 0))
    )
    np.testing.assert_array_equal(first["donor_effect"], second["donor_effect"])
    error = 4 / np.sqrt(2 * 5003)
    assert first["donor_effect"].std() == pytest.approx(0.4, rel=error)
    assert first["section_effect"].std() == pytest.approx(0.15, rel=error)
    for a, b in [
        (first["donor_effect"], other["donor_effect"]),
        (first["section_effect"], second["section_effect"]),
        (first["section_effect"], other["section_effect"]),
        (first["donor_effect"], first["section_effect"]),
        (first["base_log_rate"], first["donor_effect"]),
    ]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(5003)


def same(a: SimulatedSection, b: SimulatedSection) -> bool:
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a)
    )


def test_a_seed_fixes_the_section_for_any_size_of_the_cohort() -> None:
    section = simulate_section(config(), donor=1)
    assert same(section, simulate_section(config(n_donors=17, n_sections=5), donor=1))
    assert not same(section, simulate_section(config(seed=1), donor=1))
    assert not same(section, simulate_section(config(), donor=0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("signal", 0.3), ("donor_effect", 0.9), ("section_effect", 0.9), ("depth", 9.0), ("theta", 0.5)),
        *(("null_share", 0.5), ("hidden", 0.5), ("n_programmes", 2), ("n_genes", 11), ("seed", 5)),
        *(("pitch_um", 61.0), ("n_spots", 17)),
    ],
)
def test_every_option_changes_the_counts(name: str, value: float) -> None:
    plain, changed = simulate_section(config()), simulate_section(config(**{name: value}))
    assert not np.array_equal(plain.counts, changed.counts)


def test_limits_of_the_options() -> None:
    section = simulate_section(config(n_spots=1, n_genes=1))
    np.testing.assert_array_equal(section.rates, [[1.0]])
    with pytest.raises(ConfigError, match=f"--n-programmes must be at most {len(KINDS)}, not 7"):
        simulate_section(config(n_programmes=7))


def test_files_of_a_section(tmp_path: Path) -> None:
    section = simulate_section(config(), donor=1, section=2)
    write_section(section, tmp_path)
    adata = anndata.read_h5ad(tmp_path / "D2S3.h5ad")
    assert (adata.X.format, adata.X.dtype) == ("csr", np.int32)
    np.testing.assert_array_equal(adata.X.toarray(), section.counts)
    assert (tuple(adata.obs_names), tuple(adata.var_names)) == (section.ids, section.genes)
    np.testing.assert_array_equal(adata.obsm["spatial"], section.xy_px)
    np.testing.assert_array_equal(adata.obs[["array_row", "array_col"]], section.row_col)
    assert (set(adata.obs["section"]), set(adata.obs["patient"])) == ({"D2S3"}, {"D2"})
    np.testing.assert_allclose(adata.layers["true_rate"], 1e4 * section.rates, rtol=1e-6)
    np.testing.assert_array_equal(adata.obsm["true_programmes"], section.programmes)
    assert list(adata.uns["true_programmes"]) == ["tumour", "stroma", "immune", "fat"]
    np.testing.assert_array_equal(adata.obs["true_depth"], section.depths)
    pd.testing.assert_frame_equal(adata.var, section.gene_table, check_index_type=False)
    spatial = adata.uns["spatial"]["D2S3"]
    assert (spatial["metadata"]["mpp"], spatial["metadata"]["spot_diameter_um"]) == (2.0, 55.0)
    assert spatial["scalefactors"]["spot_diameter_fullres"] == 27.5
    table = pd.read_csv(tmp_path / "D2S3.csv")
    assert table.columns.tolist() == ["x", "y", "source_image", "spot_id", "section", "patient"]
    np.testing.assert_array_equal(table[["x", "y"]], section.xy_px)
    with Image.open(tmp_path / "images" / "D2S3.jpg") as opened:
        pixels = np.asarray(opened)
    assert np.abs(pixels.astype(int) - section.image).mean() < 5  # JPEG


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of all files but the h5ad, whose container may hold times."""
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".h5ad"}


def test_a_cohort(tmp_path: Path) -> None:
    out_dir = tmp_path / "new" / "cohort"
    report = simulate(config(out_dir))
    files = sorted(path.relative_to(out_dir).as_posix() for path in out_dir.rglob("*") if path.is_file())
    assert files == [
        *("D1S1.csv", "D1S1.h5ad", "D2S1.csv", "D2S1.h5ad"),
        *("images/D1S1.jpg", "images/D2S1.jpg", "sections.csv", "simulation.json"),
    ]
    assert (report.sections, report.donors) == (("D1S1", "D2S1"), ("D1", "D2"))
    assert (report.n_spots, report.n_genes) == (26, 7)
    assert report.to_mapping()["manifest"] == str(out_dir / "sections.csv")
    manifest = pd.read_csv(report.manifest)
    assert manifest.columns.tolist() == ["section", "donor", "h5ad", "csv", "root"]
    assert manifest.iloc[1].tolist() == ["D2S1", "D2", "D2S1.h5ad", "D2S1.csv", "images"]
    record = json.loads((out_dir / "simulation.json").read_text())
    assert record["options"]["n_spots"] == 13
    assert str(tmp_path) not in json.dumps(record)
    simulate(config(tmp_path / "again"))
    assert contents(tmp_path / "again") == contents(out_dir)
    first, second = (anndata.read_h5ad(folder / "D2S1.h5ad") for folder in (out_dir, tmp_path / "again"))
    np.testing.assert_array_equal(first.X.toarray(), second.X.toarray())


def test_a_folder_with_content_needs_overwrite(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"--out-dir.*--overwrite"):
        simulate(config(tmp_path))
    with pytest.raises(OutputExistsError, match="--out-dir"):
        simulate(config(tmp_path / "notes.txt", overwrite=True))
    simulate(config(tmp_path, seed=1, n_donors=1, overwrite=True))
    with pytest.raises(ConfigError, match="--n-programmes"):  # does not damage the cohort
        simulate(config(tmp_path, n_programmes=9, overwrite=True))
    assert pd.read_csv(tmp_path / "sections.csv")["section"].tolist() == ["D1S1"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_interrupted_run_leaves_the_old_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(config(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    real = simulated_cohort.simulate_section

    def stop_at_second(options: SimulateConfig, *, donor: int, section: int) -> object:
        if donor == 1:
            raise KeyboardInterrupt
        return real(options, donor=donor, section=section)

    monkeypatch.setattr(simulated_cohort, "simulate_section", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        simulate(config(tmp_path, seed=3, overwrite=True))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.rglob("*.partial"))
