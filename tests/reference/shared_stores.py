"""Small stores with features, graphs and tile quality for the tests of copying, packing and sharing."""

from pathlib import Path

import numpy as np
from cohorts import add_section

from spam.graphs import build_graphs
from spam.schemas.graph_config import GraphConfig
from spam.store import open_store


def make_store(path: Path, *names: str, encoder: str = "tiny", has_graphs: bool = True) -> Path:
    """Write sections with two feature arrays; the first has tile quality and graphs too. Equal names, equal sections."""
    for name in names:
        unreadable = (2, 5) if name == names[0] else None
        add_section(
            path, name, seed=ord(name[-1]), n_spots=23, n_genes=17, encoder=encoder, unreadable=unreadable
        )
    if has_graphs:
        build_graphs(GraphConfig(store=path, sections=names[:1], k_spatial=3, k_features=3))
    return path


def change_feature(store: Path, section: str, key: str) -> None:
    """Replace features by others of the same description."""
    writable = open_store(store, is_read_only=False).section(section)
    meta = writable.feature_meta(key)
    writer = writable.feature_writer(meta, is_overwrite=True)
    for chunk in writer.pending:
        writer.write(chunk, np.ones((chunk.stop - chunk.start, meta.dim), np.float32))
    writer.finish()


def tree(folder: Path) -> dict[str, bytes]:
    """Bytes of every file of a store, without locks and README."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if not name.startswith(".locks/") and name != "README.md"
    }
