"""Small whole stores of known content: counts, coordinates, features of two keys, graphs, an overview.

`store_path` is a copy that a test may change or damage; `pristine_store` is the one that all copies are made from.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer
from pointing import forget_connections, point_at_hub, point_at_s3, started
from s3_server import S3Server
from scipy import sparse

from spam.schemas.store_format import FeatureMeta, GraphMeta, Sampling, SectionMeta, SourceFile
from spam.store import Graph, Overview, SectionRecord, StoredSection, create_store, spots_digest
from spam.store.sealing import write_sealed

SEEDS = {"C2": 2, "C3": 3}
CARD = {
    "name": "tiny",
    "source": "hub",
    "revision": "0123456789abcdef",
    "architecture": "vit_tiny",
    "kwargs": {},
    "dim": 5,
    "input_px": 224,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "pooling": "cls",
    "licence": "Apache-2.0",
}


@pytest.fixture(autouse=True, scope="module")
def no_power_cut() -> Iterator[None]:
    """Nobody cuts the power in a test, and waiting for the disk takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def make_meta() -> Callable[..., SectionMeta]:
    """Describe a section of which nobody stated the licence."""

    def make(**changes: Any) -> SectionMeta:
        values: dict[str, Any] = {
            "name": "C2",
            "donor": "patient µ",
            "n_spots": 13,
            "n_genes": 7,
            "has_counts": True,
            "mpp": 0.69,
            "mpp_source": "h5ad",
            "slide_width_px": 1009,
            "slide_height_px": 907,
            "sources": (SourceFile(role="h5ad", name="C2.h5ad", n_bytes=101, sha256="ab" * 32),),
            "software": {"spam": "0.1.0", "numpy": "2"},
        }
        return SectionMeta(**(values | changes))

    return make


@pytest.fixture(scope="session")
def make_record() -> Callable[..., SectionRecord]:
    """Build the tables of a section; keywords that are fields of the meta change the meta, others the record.

    The content follows from the name; `seed` gives other content under the same name.
    """

    def make(name: str = "C2", *, seed: int | None = None, **changes: Any) -> SectionRecord:
        rng = np.random.default_rng(SEEDS.get(name, 5) if seed is None else seed)
        fields = SectionMeta.__dataclass_fields__
        n, n_genes = changes.get("n_spots", 29), changes.get("n_genes", 7)
        has_counts = changes.get("has_counts", True)
        ids = np.array([f"{name}-{i}×{i % 3}" for i in range(n)])
        xy_px = rng.uniform(0, 900, (n, 2))
        meta = {
            "name": name,
            "donor": "patient µ",
            "n_spots": n,
            "n_genes": n_genes if has_counts else 0,
            "has_counts": has_counts,
            "mpp": 0.69,
            "mpp_source": "h5ad",
            "slide_width_px": 1009,
            "slide_height_px": 907,
            "sources": (
                SourceFile(role="h5ad", name=f"{name}.h5ad", n_bytes=101, sha256="ab" * 32),
                SourceFile(
                    role="slide", name=f"{name}.tif", n_bytes=103, sha256=f"{rng.integers(16):x}" * 64
                ),
            ),
            "software": {"spam": "0.1.0", "numpy": "2"},
            "spots_sha256": spots_digest(ids, xy_px),
            "licence": "CC-BY-4.0",
        }
        meta |= {key: value for key, value in changes.items() if key in fields}
        values: dict[str, Any] = {
            "meta": SectionMeta(**meta),
            "ids": ids,
            "xy_px": xy_px,
            "xy_um": None if meta["mpp"] is None else xy_px * meta["mpp"],
            "counts": sparse.csr_matrix(rng.poisson(0.8, (n, n_genes))) if has_counts else None,
            "genes": np.array([f"GENE{i}" for i in range(n_genes)], dtype=str) if has_counts else None,
            "obs": {
                "label": np.array(["tumour", "", "stroma é"], dtype=object)[np.arange(n) % 3],
                "array_row": np.arange(n, dtype=np.int64) - 2,
                "quality": np.where(np.arange(n) == 1, np.nan, rng.random(n)),
                "in_tissue": np.arange(n) % 2 == 0,
            },
            "overview": Overview(image=rng.integers(0, 256, (17, 19, 3), dtype=np.uint8), scale=0.0187),
        }
        return SectionRecord(**(values | {key: value for key, value in changes.items() if key not in fields}))

    return make


@pytest.fixture(scope="session")
def make_feature_meta() -> Callable[..., FeatureMeta]:
    def make(key: str = "tiny_112um", **changes: Any) -> FeatureMeta:
        tile_um = float(key.rpartition("_")[2].removesuffix("um"))
        values: dict[str, Any] = {
            "key": key,
            "origin": "embed",
            "encoder": CARD,
            "weights_sha256": "cd" * 32,
            "lora_sha256": None,
            "tile": {"tile_um": tile_um, "tile_px": None, "out_px": 224},
            "sampling": Sampling(mpp=0.69, native_px=162.3, level=0, padding="edge", interpolation="bicubic"),
            "precision": "float32",
            "dim": 5,
            "dtype": "float16",
            "chunk_rows": 7,
            "software": {"spam": "0.1.0", "torch": "2"},
        }
        return FeatureMeta(**(values | changes))

    return make


@pytest.fixture(scope="session")
def add_features(make_feature_meta: Callable[..., FeatureMeta]) -> Callable[..., np.ndarray]:
    """Write features of a section, rows that follow from `seed`; give the rows as float32.

    `n_chunks` writes only the first chunks and leaves the features unfinished.
    """

    def add(
        section: StoredSection,
        key: str = "tiny_112um",
        *,
        seed: int = 0,
        n_chunks: int | None = None,
        is_overwrite: bool = False,
        **changes: Any,
    ) -> np.ndarray:
        meta = make_feature_meta(key, **changes)
        rows = np.random.default_rng([seed, meta.dim]).normal(size=(section.n_spots, meta.dim))
        writer = section.feature_writer(meta, is_overwrite=is_overwrite)
        for chunk in writer.chunks[:n_chunks]:
            writer.write(chunk, rows[chunk].astype(np.float32))
        if n_chunks is None:
            writer.finish()
        return rows.astype(np.float32)

    return add


@pytest.fixture(scope="session")
def make_graph() -> Callable[..., Graph]:
    def make(n: int, k: int = 3, **changes: Any) -> Graph:
        """Give spot i the neighbours i+1 .. i+k on a ring, the first of them at distance zero."""
        columns = (np.arange(n)[:, None] + np.arange(1, k + 1)) % n
        starts = np.arange(n + 1) * k
        distances = np.tile(np.arange(k, dtype=np.float64), n)
        weights = np.exp(-distances).astype(np.float32)
        values = {
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
            meta=GraphMeta(**(values | changes)),  # type: ignore[arg-type]
        )

    return make


@pytest.fixture(scope="session")
def add_graphs(make_graph: Callable[..., Graph]) -> Callable[..., None]:
    """Write a spatial graph, and one over each feature array."""

    def add(section: StoredSection) -> None:
        section.write_graph("spatial", make_graph(section.n_spots))
        for key in section.feature_keys:
            identity = section.feature_identity(key)
            graph = make_graph(
                section.n_spots, kind="features", unit="cosine", metric="cosine", features_key=key,
                features_identity=identity,
            )  # fmt: skip
            section.write_graph(f"features_{key}", graph)

    return add


@pytest.fixture(scope="session")
def pristine_store(
    tmp_path_factory: pytest.TempPathFactory,
    make_record: Callable[..., SectionRecord],
    add_features: Callable[..., np.ndarray],
    add_graphs: Callable[..., None],
) -> Path:
    """Sections C2, with everything, and C3, without counts, donor, µm and overview; do not change it.

    Shards hold two chunks and sparse matrices are cut every 31 entries, so that small arrays have several files.
    """
    path = tmp_path_factory.mktemp("pristine") / "cohort.zarr"
    bare = {"has_counts": False, "donor": None, "mpp": None, "mpp_source": None, "overview": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spam.store.feature_format._SHARD_BYTES", 150)
        patch.setattr("spam.store.elements._CHUNK_ENTRIES", 31)
        store = create_store(path)
        for record in (make_record("C2"), make_record("C3", n_spots=23, **bare)):
            section = store.add_section(record)
            add_features(section, "tiny_112um")
            add_features(section, "tiny_224um", dim=3, dtype="bfloat16", chunk_rows=11)
            add_graphs(section)
    return path


@pytest.fixture
def store_path(pristine_store: Path, tmp_path: Path) -> Path:
    """A copy of `pristine_store`, to be changed."""
    return Path(shutil.copytree(pristine_store, tmp_path / "cohort.zarr"))


@pytest.fixture(scope="session")
def pack_by_hand() -> Callable[[Path, Path], Path]:
    """Pack a folder as docs/format.md says, with nothing but ``zipfile``."""

    def pack(folder: Path, out: Path) -> Path:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        with zipfile.ZipFile(out, "w") as archive:
            for name in names:
                info = zipfile.ZipInfo(name)  # dated 1980-01-01, stored
                info.create_system, info.external_attr = 3, 0o100644 << 16
                archive.writestr(info, (folder / name).read_bytes())
        return out

    return pack


@pytest.fixture(scope="session")
def reseal() -> Callable[..., None]:
    """Change the index of a section (or the root), and seal it again as somebody who knows how would."""

    def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
        document = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
        edit(document)
        write_sealed(folder / "zarr.json", document)

    return change


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder with its bytes, so that whole stores are compared."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read


@pytest.fixture(scope="session")
def few_files(
    tmp_path_factory: pytest.TempPathFactory,
    make_record: Callable[..., SectionRecord],
    add_features: Callable[..., np.ndarray],
) -> Path:
    """One section of few files, features in two shards among them, where many would only take time; do not change it."""
    path = tmp_path_factory.mktemp("few") / "small.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spam.store.feature_format._SHARD_BYTES", 150)
        add_features(create_store(path).add_section(make_record("C2", obs={}, overview=None)))
    return path


@pytest.fixture
def small_path(few_files: Path, tmp_path: Path) -> Path:
    """A copy of `few_files`, to be changed."""
    return Path(shutil.copytree(few_files, tmp_path / "small.zarr"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of this test for what is fetched; nothing of its connections stays."""
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spam.store.remote._WAIT_S", 0.0)
    yield tmp_path / "cache"
    forget_connections()


@pytest.fixture
def bucket(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server that ``s3://cohorts`` is on."""
    with S3Server() as server:
        point_at_s3(server, monkeypatch)
        yield server


@pytest.fixture
def hub(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server that ``hf://`` is on."""
    with HubServer(tmp_path / "hub", page_size=7) as server:
        point_at_hub(server, monkeypatch)
        yield server


@pytest.fixture
def serve(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, Path], Any]]:
    """Put a store on a server (``http``, ``s3``, ``hub``); give the server, whose record is empty, and its address."""
    with ExitStack() as stack:
        yield lambda kind, store: started(kind, store, tmp_path / "hub", stack, monkeypatch)
