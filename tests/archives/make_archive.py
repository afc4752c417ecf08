"""Writes the archive of the current format version: a small store, packed, and beside it what must be read from it.

``python tests/archives/make_archive.py`` was run once for each version of the format, with the spam of that time, and is
not run again: a store of an old version has to be readable for ever. What is expected is kept as plain NumPy arrays, so
that reader and truth share no code.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from scipy import sparse

from spam.schemas.store_config import PackConfig
from spam.schemas.store_meta import STORE_VERSION, FeatureMeta, GraphMeta, Sampling, SectionMeta, SourceFile
from spam.sharing import pack
from spam.store import Graph, Overview, SectionRecord, create_store, spots_digest

FOLDER = Path(__file__).parent / f"v{STORE_VERSION}"
CARD = {"name": "tiny", "source": "timm:tiny", "licence": "Apache-2.0", "mean": [0.5, 0.5, 0.5], "dim": 7}
SOFTWARE = {"spam": "0.1.0"}


def section_arrays(seed: int, n_spots: int, n_genes: int) -> dict[str, np.ndarray]:
    """Draw all that a section holds."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_spots, 7)).astype(np.float32)
    bits = features.view(np.uint32) & np.uint32(0xFFFF0000)  # exact in bfloat16
    steps = np.arange(1, 4)
    return {
        "ids": np.array([f"µ{seed}-{i}×{i % 3}" for i in range(n_spots)]),
        "genes": np.array([f"GENE{i}" for i in range(n_genes)]),
        "counts": rng.poisson(0.7, (n_spots, n_genes)).astype(np.int32),
        "xy_px": rng.uniform(0, 900, (n_spots, 2)),
        "label": np.array(["tumour", "", "stroma é"])[np.arange(n_spots) % 3],
        "quality": rng.random(n_spots),
        "float16": features.astype(np.float16).astype(np.float32),
        "float32": features,
        "bfloat16": bits.view(np.float32),
        "neighbours": (np.arange(n_spots)[:, None] + steps) % n_spots,
        "distances": np.tile(steps * 1.5, (n_spots, 1)),
        "overview": rng.integers(0, 256, (11, 13, 3), dtype=np.uint8),
    }


def write(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Write a section with features of every number format and a graph."""
    n_spots, n_genes = arrays["counts"].shape
    meta = SectionMeta(
        name=name,
        donor="donor é",
        n_spots=n_spots,
        n_genes=n_genes,
        has_counts=True,
        mpp=0.5,
        mpp_source="option",
        slide_width_px=1009,
        slide_height_px=907,
        sources=(SourceFile(role="slide", name="slide.tif", n_bytes=101, sha256="ab" * 32),),
        software=SOFTWARE,
        spots_sha256=spots_digest(arrays["ids"], arrays["xy_px"]),
        licence="CC-BY-4.0",
    )
    record = SectionRecord(
        meta=meta,
        ids=arrays["ids"],
        xy_px=arrays["xy_px"],
        xy_um=arrays["xy_px"] * 0.5,
        counts=sparse.csr_matrix(arrays["counts"]),
        genes=arrays["genes"],
        obs={"label": arrays["label"], "quality": arrays["quality"]},
        overview=Overview(image=arrays["overview"], scale=0.0123),
    )
    section = create_store(folder).add_section(record)
    for dtype in ("float16", "float32", "bfloat16"):
        features = FeatureMeta(
            key=f"tiny_{dtype}",
            origin="embed",
            encoder=CARD,
            weights_sha256="cd" * 32,
            lora_sha256=None,
            tile={"tile_um": 112.0, "tile_px": None, "out_px": 224},
            sampling=Sampling(mpp=0.5, native_px=224.0, level=0, padding="edge", interpolation="bicubic"),
            precision="float32",
            dim=7,
            dtype=dtype,
            chunk_rows=11,
            software=SOFTWARE,
        )
        writer = section.feature_writer(features)
        for chunk in writer.pending:
            writer.write(chunk, arrays[dtype][chunk])
        writer.finish()
    starts, columns = np.arange(n_spots + 1) * 3, arrays["neighbours"].ravel()
    distances = sparse.csr_matrix((arrays["distances"].ravel(), columns, starts), shape=(n_spots, n_spots))
    weights = sparse.csr_matrix((np.exp(-distances.data), columns, starts), shape=(n_spots, n_spots))
    graph = GraphMeta(kind="spatial", k=3, metric="euclidean", unit="um", sigma=1.5, backend="scipy")
    section.write_graph("spatial", Graph(connectivities=weights, distances=distances, meta=graph))


def main() -> None:
    """Write the store and what is expected of it."""
    FOLDER.mkdir(exist_ok=True)
    expected: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "archive.zarr"
        for seed, (name, n_spots, n_genes) in enumerate((("A", 37, 13), ("B é", 23, 11))):
            arrays = section_arrays(seed, n_spots, n_genes)
            write(store, name, arrays)
            expected |= {f"{name}/{key}": values for key, values in arrays.items()}
        (FOLDER / "archive.zarr.zip").unlink(missing_ok=True)
        pack(PackConfig(store=store, out=FOLDER / "archive.zarr.zip"))
    np.savez_compressed(FOLDER / "expected.npz", **expected)
    (FOLDER / "expected.json").write_text(
        json.dumps({"sections": ["A", "B é"], "card": CARD}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
