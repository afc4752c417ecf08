"""Properties of all readers of foreign files: a right file gives exactly its numbers, any other a `SpamError`.

h5ad and sparse structure, table, manifest, checkpoint metadata, and files of coordinates. fuzz_readers.py attacks the same
readers for hours.
"""

import csv
import dataclasses
import io
import itertools
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from case_lab import COUNTS, GENES, IDS, N_GENES, N_SPOTS, XY, write_lab
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from spam.errors import SpamError
from spam.models.checkpoint import read_checkpoint_meta, write_checkpoint
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.embed_config import InputConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.sections import Section, read_manifest, read_measured_part, read_section
from spam.store.foreign_files import read_foreign_features

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Text of one line as a spreadsheet holds it.
LINE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text
)
COORDINATE = st.floats(1, 290, allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    write_lab(folder)
    return folder


@pytest.fixture
def here(lab: Path, tmp_path: Path) -> Path:
    shutil.copytree(lab, tmp_path, dirs_exist_ok=True)
    return tmp_path


def refused(error: SpamError, name: str = "") -> None:
    """The message of a reader is short and names the file."""
    assert name in str(error)
    assert len(str(error)) < 1000


def read(folder: Path, **options: Any) -> Section:
    paths = {"h5ad": folder / "S1.h5ad", "csv": folder / "S1.csv", "root": folder / "images"}
    return read_section(InputConfig(**{**paths, "mpp": 0.5, **options}))


def _is_matrix(data: Any, indices: Any, indptr: Any) -> bool:
    """Whether three arrays are 16 compressed rows of 13 columns, by the definition."""
    return (
        len(data) == len(indices)
        and len(indptr) == N_SPOTS + 1
        and indptr[0] == 0
        and indptr[-1] == len(data)
        and all(a <= b for a, b in itertools.pairwise(indptr))
        and all(0 <= i < N_GENES for i in indices)
    )


POINTERS = st.lists(st.integers(0, 40), min_size=16, max_size=16).map(sorted)


@quick
@given(
    st.lists(st.integers(0, 9), max_size=41),
    st.lists(st.integers(-2, 14) | st.integers(0, 12), max_size=41),
    st.tuples(st.integers(0, 1), POINTERS, st.integers(0, 41)) | st.none(),
    st.booleans(),
)
def test_the_structure_of_a_sparse_matrix_is_checked_completely(
    here: Path, data: list[int], indices: list[int], pointers: Any, is_repaired: bool
) -> None:
    """Arrays that are a matrix give what a loop over their entries gives; all others an error."""
    if is_repaired:  # otherwise hardly any draw is a matrix
        n = min(len(data), len(indices))
        data, indices = data[:n], [abs(i) % N_GENES for i in indices[:n]]
        inner = [min(p, n) for p in (pointers or (0, [0] * 16, 0))[1]]
        indptr = [0, *inner[1:], n]
    else:
        first, inner, last = pointers or (0, [0] * 15, 0)
        indptr = [first, *inner[1:], last]
    with h5py.File(here / "S1.h5ad", "r+") as file:
        for name, values in (("data", data), ("indices", indices), ("indptr", indptr)):
            del file["X"][name]
            file["X"][name] = np.array(values, dtype=np.float32 if name == "data" else np.int32)
    if not _is_matrix(data, indices, indptr):
        with pytest.raises(SpamError, match=r"S1\.h5ad"):
            read(here)
        with pytest.raises(SpamError, match=r"S1\.h5ad"):
            read_measured_part(here / "S1.h5ad", section="S1", ids=np.array(IDS))
        return
    expected = np.zeros((N_SPOTS, N_GENES))
    for row in range(N_SPOTS):
        for entry in range(indptr[row], indptr[row + 1]):
            expected[row, indices[entry]] += data[entry]
    for counts in (
        read(here).counts,
        read_measured_part(here / "S1.h5ad", section="S1", ids=np.array(IDS)).counts,
    ):
        assert counts is not None
        np.testing.assert_array_equal(counts.toarray(), expected)


DTYPES = ("u1", "i2", "<i4", ">i4", "i8", "u8", "f2", "<f4", ">f4", "f8")


@quick
@given(
    st.sampled_from(DTYPES),
    st.sampled_from([None, "gzip", "lzf"]),
    st.booleans(),
    st.tuples(st.integers(1, 16), st.integers(1, 13)),
    st.lists(LINE, min_size=N_GENES, max_size=N_GENES, unique=True),
)
def test_an_h5ad_gives_its_numbers_in_every_encoding(
    here: Path, dtype: str, compression: str | None, is_wide: bool, chunks: tuple[int, int], genes: list[str]
) -> None:
    """Type of numbers, compression, chunks and lengths of strings are details of the file."""
    with h5py.File(here / "S1.h5ad", "r+") as file:
        del file["X"], file["var"]["_index"]
        file.create_dataset("X", data=COUNTS.astype(dtype), chunks=chunks, compression=compression)
        file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        texts = np.array([gene.encode() for gene in genes]) if is_wide else genes
        file["var"].create_dataset("_index", data=texts)
        file["var"]["_index"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    section = read(here)
    assert section.counts is not None
    assert section.genes is not None
    np.testing.assert_array_equal(section.counts.toarray(), COUNTS)
    assert section.genes.tolist() == genes
    np.testing.assert_array_equal(section.xy_px, XY)


@quick
@given(st.data())
def test_any_damage_of_an_h5ad_is_an_error_or_leaves_counts(
    lab: Path, here: Path, data: st.DataObject
) -> None:
    """Flipped bytes outside of the numbers: HDF5 has no checksum of them, so only the structure can be checked."""
    content = bytearray((lab / "S1.h5ad").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (here / "S1.h5ad").write_bytes(content)
    try:
        section = read(here)
    except SpamError as error:
        refused(error)
    else:
        assert section.n_spots <= N_SPOTS
        assert section.counts is None or (section.counts.data >= 0).all()


@quick
@given(
    st.lists(LINE, min_size=1, max_size=7, unique=True),
    st.data(),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.booleans(),
)
def test_a_table_gives_its_cells(
    here: Path, ids: list[str], data: st.DataObject, end: str, quoting: Any, has_mark: bool
) -> None:
    """Ids and coordinates come back as written, whatever the order of columns, line ends and quotes."""
    xy = [(data.draw(COORDINATE), data.draw(COORDINATE)) for _ in ids]
    cells = [
        {"x": x, "y": y, "source_image": "S1.png", "spot_id": name, "note": data.draw(LINE)}
        for name, (x, y) in zip(ids, xy, strict=True)
    ]
    text = io.StringIO(newline="")
    names = data.draw(st.permutations(list(cells[0])))
    writer = csv.DictWriter(text, names, lineterminator=end, quoting=quoting)
    writer.writeheader()
    writer.writerows(cells)
    encoding = "utf-8-sig" if has_mark else "utf-8"
    (here / "S1.csv").write_bytes(text.getvalue().encode(encoding))
    section = read(here, h5ad=None)
    assert section.ids.tolist() == ids
    np.testing.assert_array_equal(section.xy_px, np.array(xy))


@quick
@given(st.data())
def test_any_bytes_of_a_table_are_read_or_refused(lab: Path, here: Path, data: st.DataObject) -> None:
    content = (lab / "S1.csv").read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(len(content), start + 30)))
        content = content[:start] + data.draw(st.binary(max_size=9)) + content[stop:]
    (here / "S1.csv").write_bytes(content)
    try:
        section = read(here, h5ad=None)
    except SpamError as error:
        refused(error)
    else:
        assert np.isfinite(section.xy_px).all()
        assert len(set(section.ids.tolist())) == section.n_spots


@quick
@given(st.lists(st.tuples(LINE, LINE | st.just("")), min_size=1, max_size=5, unique_by=lambda row: row[0]))
def test_a_manifest_gives_its_rows(here: Path, rows: list[tuple[str, str]]) -> None:
    with (here / "m.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["section", "donor", "h5ad", "csv", "root"])
        writer.writerows([section, donor, "S1.h5ad", "S1.csv", "images"] for section, donor in rows)
    try:
        found = read_manifest(here / "m.csv", root=None)
    except SpamError as error:  # a name that no folder can have
        refused(error, "section")
    else:
        assert [(config.section, config.donor or "") for config in found] == rows
        assert {config.h5ad for config in found} == {here / "S1.h5ad"}


TEXTS = dict.fromkeys(("config_digest", "data_digest"), "x")
MAPS: dict[str, Any] = {name: {} for name in ("gene_sets", "metrics", "best", "software")}
CONFIGS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
_SIZES = {"image_dim": 3, "n_genes": 2, "proj_dim": 5, "dropout": 0.5}
SETTINGS: dict[str, dict[str, Any]] = {
    "pretrain": {**_SIZES, "mode": "joint"},
    "finetune": {
        **_SIZES, "members": 1, "fuse_dim": 8, "heads": 2, "merge": "gated-sum", "likelihood": "nb", "branches": [],
    },
}  # fmt: skip
META = CheckpointMeta(
    stage="finetune",
    epoch=3,
    genes=("A", "B"),
    feature_keys=("k",),
    feature_dims=(3,),
    encoders=({"name": "x", "weights_sha256": "x"},),
    tiles=({"tile_um": 112.0, "tile_px": None, "out_px": 224},),
    train_sections=("S1",),
    val_sections=("S2",),
    history=[{"loss": 0.5}],
    depth=2999.5,
    donors={"S1": 0, "S2": None},
    config=FinetuneConfig(store="s", save_dir="o").to_record(),
    settings=SETTINGS["finetune"],
    **TEXTS,
    **MAPS,
)


@quick
@given(
    st.lists(LINE, min_size=1, max_size=5, unique=True).map(tuple),
    st.floats(1e-3, 1e9),
    st.dictionaries(LINE, st.integers(0, 9) | st.none(), max_size=3),
    st.sampled_from(["pretrain", "finetune"]),
)
def test_metadata_of_a_checkpoint_come_back(
    tmp_path: Path, genes: tuple[str, ...], depth: float, donors: dict[str, int | None], stage: Any
) -> None:
    sizes = {**SETTINGS[stage], "n_genes": len(genes)}
    config = CONFIGS[stage](store="s", save_dir="o").to_record()
    known = {**META.donors, **donors}
    meta = dataclasses.replace(
        META, genes=genes, depth=depth, donors=known, stage=stage, settings=sizes, config=config
    )
    write_checkpoint(tmp_path / "c.safetensors", meta, {"a": np.ones((2, 3), np.float32)})
    assert read_checkpoint_meta(tmp_path / "c.safetensors") == meta


@quick
@given(st.sampled_from([field.name for field in dataclasses.fields(CheckpointMeta)]), JSON)
def test_any_json_in_the_metadata_is_read_or_refused(tmp_path: Path, field: str, value: Any) -> None:
    values = {**META.to_mapping(), field: value}
    text = json.dumps({"__metadata__": {"spam": json.dumps(values)}}).encode()
    text += b" " * (-len(text) % 8)
    (tmp_path / "c.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    try:
        found = read_checkpoint_meta(tmp_path / "c.safetensors")
    except SpamError as error:
        refused(error, "c.safetensors")
    else:
        kept = found.to_mapping()[field]
        assert kept == value or json.dumps(kept) == json.dumps(value)  # NaN is unlike itself


@quick
@given(st.data())
def test_any_bytes_of_a_checkpoint_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, META, {"a": np.ones((2, 3), np.float32)})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_checkpoint_meta(path)
    except SpamError as error:
        refused(error, "c.safetensors")


FEATURES = npst.arrays(
    st.sampled_from(["<f4", ">f4", "<f8", "<f2"]),
    st.tuples(st.integers(1, 9), st.integers(1, 5)),
    elements=st.floats(-8, 8, width=16),
)


@quick
@given(FEATURES, st.booleans(), st.data())
def test_features_and_coordinates_come_back(
    tmp_path: Path, features: np.ndarray, is_by_columns: bool, data: st.DataObject
) -> None:
    """A NumPy array, with ids and centres in a CSV in any order of columns."""
    n = len(features)
    ids = data.draw(st.lists(LINE, min_size=n, max_size=n, unique=True))
    xy = data.draw(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=n, max_size=n, unique=True))
    np.save(tmp_path / "f.npy", np.asfortranarray(features) if is_by_columns else features)
    names = data.draw(st.permutations(["spot_id", "x", "y"]))
    with (tmp_path / "ids.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        rows = zip(ids, xy, strict=True)
        writer.writerows({"spot_id": name, "x": x, "y": y} for name, (x, y) in rows)
    found = read_foreign_features(tmp_path / "f.npy", coordinates=tmp_path / "ids.csv")
    np.testing.assert_array_equal(found.features, features.astype(np.float32))
    assert found.ids is not None
    assert found.ids.tolist() == ids
    np.testing.assert_allclose(found.xy_px, np.array(xy), rtol=4e-16)  # pandas rounds the last bit


@quick
@given(st.sampled_from(["npy", "npz", "h5", "csv"]), st.data())
def test_any_bytes_of_foreign_files_are_read_or_refused(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    rng = np.random.default_rng(0)
    features, xy = rng.normal(size=(7, 3)).astype(np.float32), np.arange(14).reshape(7, 2) * 50
    np.save(tmp_path / "f.npy", features)
    np.savez(tmp_path / "f.npz", x=xy[:, 0], y=xy[:, 1])
    (tmp_path / "f.meta.json").write_text(json.dumps({"tiling": {"tile_size_lv0": 50}}))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["features"], file["coords"] = features, xy
        file["coords"].attrs.update(patch_size=50, patch_level=0)
    (tmp_path / "f.csv").write_text(
        "spot_id,x,y\n" + "".join(f"s{i},{x},{y}\n" for i, (x, y) in enumerate(xy))
    )
    path = tmp_path / f"f.{kind}"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    at = None if kind == "h5" else tmp_path / ("f.csv" if kind == "npy" else path.name)
    try:
        found = read_foreign_features(path if kind == "h5" else tmp_path / "f.npy", coordinates=at)
    except SpamError as error:
        refused(error, "f.")
    else:
        assert np.isfinite(found.features).all()


def test_the_sizes_are_those_of_the_section() -> None:
    assert COUNTS.shape == (len(IDS), len(GENES)) == (N_SPOTS, N_GENES)
