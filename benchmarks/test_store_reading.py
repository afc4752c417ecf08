"""Reading features from a store, against what a user would pick instead: ratios within one run, medians.

``pytest benchmarks/test_store_reading.py --benchmark-enable -n 0`` makes 200 000 x 1536 float16 features (0.6 GB) in
pytest's temporary folder as a store, as raw rows, and as TRIDENT keeps them (h5py, one row a chunk), reads each whole
into memory, gathers random rows, and prints the ratios. All files are in the page cache: what is measured is the work of
the reader, not of the disk.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from medians import medians

from spam.schemas.store_format import FeatureMeta, SectionMeta
from spam.schemas.tile_spec import TileSpec
from spam.store import StoredSection, create_store, default_chunk_rows, open_store
from spam.store.writing import write_section

N_SPOTS, DIM, N_GATHERED = 200_000, 1536, 4096
KEY = "uni2_112um"


def features_of(n: int) -> np.ndarray:
    """Make features of realistic spread; repeated blocks do, since nothing is compressed."""
    block = np.random.default_rng(0).standard_normal((1000, DIM)).astype(np.float16)
    return np.tile(block, (-(-n // 1000), 1))[:n]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    is_timed = request.config.getoption("--benchmark-enable")
    n_spots = N_SPOTS if is_timed else 3001
    folder = tmp_path_factory.mktemp("features")
    features = features_of(n_spots)
    features.tofile(folder / "raw.bin")
    with h5py.File(folder / "trident.h5", "w") as file:
        file.create_dataset("features", data=features.astype(np.float32), chunks=(1, DIM))
    meta = SectionMeta(
        name="S1",
        donor=None,
        n_spots=n_spots,
        n_genes=0,
        has_counts=False,
        mpp=None,
        mpp_source=None,
        slide_width_px=None,
        slide_height_px=None,
        sources=(),
        software={},
    )
    store = create_store(folder / "store.zarr")
    xy_px = np.random.default_rng(1).random((n_spots, 2))
    write_section(store.folder, meta, ids=np.arange(n_spots).astype(str), xy_px=xy_px)
    section = store.section("S1")
    feature_meta = FeatureMeta(
        key=KEY,
        origin="embed",
        encoder={"name": "uni2"},
        weights_sha256="",
        lora_sha256=None,
        tile=TileSpec(tile_um=112.0).to_mapping(),
        sampling=None,
        precision="float32",
        dim=DIM,
        dtype="float16",
        chunk_rows=default_chunk_rows(DIM, "float16"),
        software={},
    )
    writer = section.feature_writer(feature_meta)
    for chunk in writer.pending:
        writer.write(chunk, features[chunk].astype(np.float32))
    writer.finish()
    return folder


@pytest.fixture(scope="module")
def section(folder: Path) -> StoredSection:
    return open_store(folder / "store.zarr").section("S1")


@pytest.fixture(scope="module")
def rows(section: StoredSection) -> np.ndarray:
    return np.random.default_rng(2).integers(0, section.n_spots, min(N_GATHERED, section.n_spots))


def memmap(folder: Path) -> np.memmap:
    return np.memmap(folder / "raw.bin", dtype=np.float16, mode="r").reshape(-1, DIM)


def read_h5(folder: Path) -> np.ndarray:
    with h5py.File(folder / "trident.h5") as file:
        return np.asarray(file["features"][:])


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], None]]:
    def write(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return write


def test_read_whole(benchmark, folder, section, show):
    expected = np.array(memmap(folder))
    np.testing.assert_array_equal(section.stored_features(KEY), expected)
    benchmark(section.stored_features, KEY)
    if benchmark.enabled:
        plain = zarr.open_array(folder / "store.zarr" / "S1" / "obsm" / KEY, mode="r")
        found = medians(
            {
                "store": lambda: section.stored_features(KEY),
                "store, as float32": lambda: section.features(KEY),
                "zarr-python": lambda: np.asarray(plain[...]),
                "memmap": lambda: np.array(memmap(folder)),
                "TRIDENT": lambda: read_h5(folder),
            }
        )
        rivals = ("memmap", "zarr-python", "TRIDENT")
        ratios = {name: round(found[name] / found["store"], 2) for name in rivals}
        show(f"whole array, seconds: {found}; times as fast as: {ratios}")
        assert ratios["memmap"] >= 0.7
        assert ratios["TRIDENT"] >= 5


def test_gather_rows(benchmark, folder, section, rows, show):
    resident = section.stored_features(KEY)
    np.testing.assert_array_equal(resident[rows], memmap(folder)[rows])
    benchmark(lambda: resident[rows])
    if benchmark.enabled:
        order = np.unique(rows)

        def from_h5() -> np.ndarray:
            with h5py.File(folder / "trident.h5") as file:
                return np.stack([file["features"][row] for row in order])

        readers = {
            "store, read once": lambda: resident[rows],
            "memmap": lambda: memmap(folder)[rows],
            "TRIDENT, row by row": from_h5,
        }
        found = medians(readers)
        ratios = {name: round(seconds / found["store, read once"], 2) for name, seconds in found.items()}
        show(f"{len(rows)} random rows, seconds: {found}; times as long: {ratios}")


def test_files_and_size(benchmark, folder, show):
    files = [path for path in (folder / "store.zarr").rglob("*") if path.is_file()]
    n_bytes = sum(path.stat().st_size for path in files)
    features = [path for path in files if KEY in path.parts]
    raw = (folder / "raw.bin").stat().st_size
    benchmark(lambda: open_store(folder / "store.zarr").section("S1"))
    if benchmark.enabled:
        share = sum(path.stat().st_size for path in features) / raw
        trident = (folder / "trident.h5").stat().st_size / raw
        show(
            f"{len(files)} files, {len(features)} of them features; store {n_bytes / 1e6:.1f} MB, features {share:.4f} of "
            f"the raw rows, TRIDENT {trident:.2f}"
        )
        assert len(files) < 200
        assert share < 1.01
