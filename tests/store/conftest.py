"""Small sections, features and graphs of known content."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from spam.schemas.store_format import FeatureMeta, GraphMeta, Sampling, SectionMeta, SourceFile
from spam.store import FeatureWriter, Graph, Store, StoredSection, create_store
from spam.store.section_index import sealed
from spam.store.writing import locked, write_root, write_section
from spam.typing import Array

N_SPOTS, N_GENES = 13, 7


@pytest.fixture(scope="session")
def make_meta() -> Callable[..., SectionMeta]:
    def make(**changes: Any) -> SectionMeta:
        values: dict[str, Any] = {
            "name": "C2",
            "donor": "patient µ",
            "n_spots": N_SPOTS,
            "n_genes": N_GENES,
            "has_counts": True,
            "mpp": 0.69,
            "mpp_source": "h5ad",
            "slide_width_px": 1009,
            "slide_height_px": 907,
            "sources": (SourceFile(role="h5ad", name="C2.h5ad", n_bytes=101, sha256="ab" * 32),),
            "software": {"spam": "0.1.0", "numpy": "2"},
            "spots_sha256": "ef" * 32,
            "licence": "CC-BY-4.0",
        }
        return SectionMeta(**(values | changes))

    return make


@pytest.fixture(scope="session")
def make_tables() -> Callable[[SectionMeta], dict[str, Any]]:
    """Build what `write_section` takes beside a meta."""

    def make(meta: SectionMeta) -> dict[str, Any]:
        rng = np.random.default_rng(5)
        n = meta.n_spots
        xy_px = rng.uniform(0, 900, (n, 2))
        counts = sparse.csr_matrix(rng.poisson(0.8, (n, meta.n_genes)))
        return {
            "ids": np.array([f"spot-{i}×{i % 3}" for i in range(n)]),
            "xy_px": xy_px,
            "xy_um": None if meta.mpp is None else xy_px * meta.mpp,
            "counts": counts if meta.has_counts else None,
            "genes": np.array([f"GENE{i}" for i in range(meta.n_genes)], dtype=str)
            if meta.has_counts
            else None,
            "obs": {
                "label": np.array(["tumour", "", "stroma é"], dtype=object)[np.arange(n) % 3],
                "array_row": np.arange(n, dtype=np.int64) - 2,
                "quality": np.where(np.arange(n) == 1, np.nan, rng.random(n)),
                "in_tissue": np.arange(n) % 2 == 0,
                "nothing": np.zeros(n, dtype=bool),
            },
            "overview": (rng.integers(0, 256, (17, 19, 3), dtype=np.uint8), 0.0187),
        }

    return make


@pytest.fixture(scope="session")
def add(
    make_meta: Callable[..., SectionMeta], make_tables: Callable[[SectionMeta], dict[str, Any]]
) -> Callable[..., StoredSection]:
    """Write a section; keywords that are fields of the meta change the meta, others the tables."""

    def write(store: Store, **changes: Any) -> StoredSection:
        names = SectionMeta.__dataclass_fields__
        meta = make_meta(**{key: value for key, value in changes.items() if key in names})
        tables = make_tables(meta) | {key: value for key, value in changes.items() if key not in names}
        with locked(store.folder, meta.name):
            write_section(store.folder, meta, **tables)
        write_root(store.folder)
        return store.section(meta.name)

    return write


@pytest.fixture(scope="session")
def make_feature_meta() -> Callable[..., FeatureMeta]:
    def make(**changes: Any) -> FeatureMeta:
        values: dict[str, Any] = {
            "key": "tiny_112um",
            "origin": "embed",
            "encoder": {"name": "tiny", "revision": None, "mean": [0.5, 0.5, 0.5]},
            "weights_sha256": "cd" * 32,
            "lora_sha256": None,
            "tile": {"tile_um": 112.0, "tile_px": None, "out_px": 224},
            "sampling": Sampling(mpp=0.69, native_px=162.3, level=0, padding="edge", interpolation="bicubic"),
            "precision": "float32",
            "dim": 5,
            "dtype": "float16",
            "chunk_rows": 3,
            "software": {"spam": "0.1.0", "torch": "2"},
        }
        return FeatureMeta(**(values | changes))

    return make


@pytest.fixture(scope="session")
def make_graph() -> Callable[..., Graph]:
    def make(n: int = N_SPOTS, k: int = 3, **changes: Any) -> Graph:
        """Give spot i the neighbours i+1 .. i+k on a ring, the first of them at distance zero."""
        columns = (np.arange(n)[:, None] + np.arange(1, k + 1)) % n
        starts = np.arange(n + 1) * k
        distances = np.tile(np.arange(k, dtype=np.float64), n)
        weights = np.exp(-distances).astype(np.float32)
        meta: dict[str, Any] = {
            "kind": "spatial",
            "k": k,
            "metric": "euclidean",
            "unit": "um",
            "sigma": 1.5,
            "backend": "scipy",
        }
        return Graph(
            connectivities=sparse.csr_matrix((weights, columns.ravel(), starts), shape=(n, n)),
            distances=sparse.csr_matrix((distances, columns.ravel(), starts), shape=(n, n)),
            meta=GraphMeta(**(meta | changes)),
        )

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "cohort.zarr")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, add: Callable[..., StoredSection]) -> Path:
    """A store of one section; do not change it."""
    folder = tmp_path_factory.mktemp("pristine") / "cohort.zarr"
    add(create_store(folder))
    return folder


@pytest.fixture
def section(store: Store, pristine: Path) -> StoredSection:
    """A copy of the section of `pristine` that a test may change."""
    shutil.copytree(pristine, store.folder, dirs_exist_ok=True)
    return store.section("C2")


@pytest.fixture(scope="session")
def fill() -> Callable[[FeatureWriter, Array], None]:
    """Write what is pending and finish."""

    def write(writer: FeatureWriter, rows: Array) -> None:
        for chunk in writer.pending:
            writer.write(chunk, rows[chunk])
        writer.finish()

    return write


@pytest.fixture(scope="session")
def reseal() -> Callable[..., None]:
    """Change an index and give it a digest that fits, as an attacker with spam's source would."""

    def change(index: Path, edit: Callable[[dict[str, Any]], object]) -> None:
        document = json.loads(index.read_bytes())
        edit(document)
        index.write_bytes(sealed(document))

    return change


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder with its bytes, without lock files, so that whole stores are compared."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts)
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read
