"""Small cohorts of known structure, written straight into a store: expression follows two hidden features."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from quality_arrays import add_quality, good_measures
from scipy.sparse import csr_matrix

from spam.schemas.store_format import FeatureMeta, SectionMeta, feature_key
from spam.store import create_store, open_store, spots_digest
from spam.store.writing import write_root, write_section

DIMS = {112.0: 11, 224.0: 13}
_SECTIONS = tempfile.TemporaryDirectory(prefix="cohorts-")  # of this process
_written: dict[str, tuple[Path, np.ndarray, object]] = {}


def _write_section(
    store: Path,
    name: str,
    *,
    n_spots: int = 37,
    n_genes: int = 61,
    seed: int = 0,
    donor: str = "d1",
    signal: float = 1.5,
    change_counts: str | None = None,
    order: np.ndarray | None = None,
    encoder: str = "tiny",
    unreadable: tuple[int, ...] | None = None,
    shift: float = 0.0,
    panel: tuple[int, ...] | None = None,
    mpp: float | None = 0.5,
    obs: Mapping[str, np.ndarray] | None = None,
    rename: Callable[[str], str] = str,
    placement_doubt: str | None = None,
) -> np.ndarray:
    """See `add_section`."""
    shared = np.random.default_rng(7)  # the same genes and the same encoder in all sections
    loadings = shared.normal(size=(2, n_genes)) * signal / np.sqrt(2)
    base = shared.normal(3.0, 1.0, n_genes)
    mixing = {um: shared.normal(size=(2, dim)) for um, dim in DIMS.items()}
    rng = np.random.default_rng([seed, 1])
    side = int(np.ceil(np.sqrt(n_spots)))
    grid = np.stack(np.divmod(np.arange(n_spots), side), axis=1)[:, ::-1].astype(float)
    xy_px = grid * 200 + 150 + rng.normal(0, 5, grid.shape)
    hidden = np.stack([np.sin(xy_px[:, 0] / 300 + seed), np.cos(xy_px[:, 1] / 250 - seed)], axis=1)
    hidden += rng.normal(0, 0.3, hidden.shape)
    log_rate = base + hidden @ loadings
    rate = np.exp(log_rate) / np.exp(log_rate).sum(axis=1, keepdims=True) * 1e4
    depth = rng.lognormal(np.log(3000), 0.3, n_spots)
    counts = rng.poisson(rate * depth[:, None] / 1e4)
    features = {
        um: (hidden @ mixing[um] + rng.normal(0, 0.3, (n_spots, dim)) + shift).astype(np.float16)
        for um, dim in DIMS.items()
    }
    if change_counts == "zero":
        counts = np.zeros_like(counts)
    if change_counts == "double":
        counts = 2 * counts
    if change_counts == "shuffle":
        counts = np.random.default_rng(99).permutation(counts)
    order = np.arange(n_spots) if order is None else order
    has_counts = change_counts != "delete"
    measured = list(range(n_genes) if panel is None else panel)
    n_spots = len(order)
    ids = np.array([f"{name}_{i}" for i in order])
    meta = SectionMeta(
        name=name,
        donor=donor,
        n_spots=n_spots,
        n_genes=len(measured) if has_counts else 0,
        has_counts=has_counts,
        mpp=mpp,
        mpp_source=None if mpp is None else "option",
        slide_width_px=3000,
        slide_height_px=3000,
        sources=(),
        software={"spam": "0"},
        spots_sha256=spots_digest(ids, xy_px[order]),
        placement_doubt=placement_doubt,
    )
    folder = create_store(store).folder
    write_section(
        folder,
        meta,
        ids=ids,
        xy_px=xy_px[order],
        xy_um=None if mpp is None else xy_px[order] * mpp,
        counts=csr_matrix(counts[order][:, measured]) if has_counts else None,
        genes=np.array([rename(f"G{i}") for i in measured]) if has_counts else None,
        obs=obs,
        overview=(np.full((30, 30, 3), 200, dtype=np.uint8), 0.01),
    )
    write_root(folder)
    section = open_store(store, is_read_only=False).section(name)
    for um, values in features.items():
        feature_meta = FeatureMeta(
            key=feature_key(encoder, f"{um:g}um"),
            origin="embed",
            encoder={"name": encoder},
            lora_sha256=None,
            sampling=None,
            precision="float32",
            software={},
            weights_sha256="ab" * 32,
            tile={"tile_um": um, "tile_px": None, "out_px": 224},
            dim=values.shape[1],
            dtype="float16",
            chunk_rows=17,
        )
        values = values[order].astype(np.float32)
        values[list(unreadable or ())] = 0
        writer = section.feature_writer(feature_meta)
        for chunk in list(writer.pending):
            writer.write(chunk, values[chunk])
        writer.finish()
        if unreadable is not None:
            add_quality(section, feature_meta.key, good_measures(n_spots, unreadable))
    return rate[order]


def add_section(store: Path, name: str, **options: object) -> np.ndarray:
    """Add one section; return its expected expression per 10k, (n_spots, n_genes).

    `change_counts` is ``zero``, ``double``, ``shuffle`` or ``delete``; `order` permutes the spots, or leaves some out.
    `unreadable` numbers the spots, as they are stored, whose tiles could not be read; None measures no quality. `shift` is
    added to all features, as another stain would. Of a `panel`, no gene but these is measured. `rename` changes names of genes;
    `obs` are columns of the laboratory.
    """
    # Written once in a process, and copied from then on. What has an address as its name (`rename`) is kept alive.
    arrays = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in options.items()}
    key = repr((name, sorted(arrays.items())))
    if key not in _written:
        folder = Path(_SECTIONS.name) / f"{len(_written)}.zarr"
        rate = _write_section(folder, name, **options)  # type: ignore[arg-type]
        _written[key] = folder / name, rate, options
    source, rate, _ = _written[key]
    to = create_store(store).folder
    shutil.rmtree(to / name, ignore_errors=True)
    shutil.copytree(source, to / name)
    write_root(to)
    return rate.copy()


def make_cohort(store: Path, n_sections: int = 4, **options: object) -> Path:
    """Add sections S1, S2, … that differ by their seed; two of a donor."""
    for i in range(n_sections):
        add_section(store, f"S{i + 1}", seed=i, n_spots=37 + 2 * i, donor=f"d{1 + i // 2}", **options)  # type: ignore[arg-type]
    return store
