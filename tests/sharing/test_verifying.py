"""Every byte of a store: what `verify` finds, what it says, and that no reader takes a changed byte for data."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spam.errors import StoreError
from spam.schemas.store_config import PackConfig, VerifyConfig
from spam.sharing.packing import pack
from spam.sharing.verifying import VerifyReport, verify
from spam.sharing.zip_frame import frame_faults
from spam.store import create_store, open_store
from spam.store.feature_format import cut
from spam.store.index import read_index


def verified(store: Path, *sections: str) -> VerifyReport:
    return verify(VerifyConfig(store=str(store), sections=sections))


def flip(data: bytes, rng: np.random.Generator, *, within: range | None = None) -> bytes:
    """Change one random bit."""
    at = int(rng.choice(within if within is not None else len(data)))
    changed = bytearray(data)
    changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


class Bar:
    """A `Progress` that counts the steps of its one task."""

    def __init__(self) -> None:
        self.total, self.done = 0, 0

    def task(self, description: str, total: int) -> "Bar":
        self.total = total
        return self

    def __enter__(self) -> Callable[..., None]:
        def advance(steps: int = 1, *, note: str = "") -> None:
            self.done += steps

        return advance

    def __exit__(self, *_: object) -> None: ...


def test_a_whole_store_has_no_faults_and_the_report_counts_it(pristine_store, tree):
    files = tree(pristine_store)
    report = verified(pristine_store)
    assert report.faults == ()
    assert report.is_intact
    assert (report.n_files, report.n_bytes) == (len(files), sum(map(len, files.values())))
    seals = {
        name: json.loads(files[f"{name}/zarr.json"])["attributes"]["spam"]["digest"] for name in ("C2", "C3")
    }
    assert report.sections == seals
    assert json.loads(json.dumps(report.to_mapping()))["sections"] == seals
    assert "2 sections" in report.summary()
    assert "every byte is what was written" in report.summary()
    assert f"C2: content {seals['C2'][:12]}" in report.summary()


def test_progress_counts_the_bytes_of_the_files(pristine_store, tree):
    bar = Bar()
    verify(VerifyConfig(store=str(pristine_store)), progress=bar)
    indices = ("zarr.json", "C2/zarr.json", "C3/zarr.json")
    expected = sum(len(data) for path, data in tree(pristine_store).items() if path not in indices)
    assert bar.done == bar.total == expected


def test_big_files_are_read_in_blocks(monkeypatch, pristine_store):
    monkeypatch.setattr("spam.sharing.verifying._BLOCK", 13)
    assert verified(pristine_store).is_intact


def test_a_packed_store_is_the_same_store(pristine_store, tmp_path):
    packed = tmp_path / "c.zip"
    pack(PackConfig(store=pristine_store, out=packed))
    assert verified(packed).faults == ()
    assert verified(packed).sections == verified(pristine_store).sections
    assert verified(packed).n_bytes == verified(pristine_store).n_bytes


def test_every_flipped_byte_of_every_file_is_found_and_named(store_path, tree):
    """In each round one bit of every file that an index names is flipped, and one call must name just these files."""
    whole = tree(store_path)
    named = [path for path in whole if path not in ("zarr.json", "C2/zarr.json", "C3/zarr.json")]
    rng = np.random.default_rng(17)
    n_rounds = 11
    for _ in range(n_rounds):
        for path in named:
            (store_path / path).write_bytes(flip(whole[path], rng))
        assert {fault.path for fault in verified(store_path).faults} == set(named)
    assert n_rounds * len(named) > 3000
    for path in named:
        (store_path / path).write_bytes(whole[path])
    assert verified(store_path).is_intact


def test_every_flipped_byte_of_an_index_is_found(store_path, tree):
    whole, rng = tree(store_path), np.random.default_rng(19)
    for name in ("C2", "C3"):
        for _ in range(70):
            with pytest.raises(StoreError, match=rf"damaged.*at here/{name}"):
                read_index(flip(whole[f"{name}/zarr.json"], rng), f"here/{name}")
    for path in ("zarr.json", "C2/zarr.json", "C3/zarr.json"):
        for _ in range(6):
            (store_path / path).write_bytes(flip(whole[path], rng))
            report = verified(store_path)
            assert {fault.path for fault in report.faults} == {path}
            others = {"C2", "C3"} - {path.removesuffix("/zarr.json")}
            assert all(report.sections[name] for name in others)
        (store_path / path).write_bytes(whole[path])


def test_every_byte_of_a_root_counts(store_path):
    whole = (store_path / "zarr.json").read_bytes()
    for at in range(len(whole)):
        (store_path / "zarr.json").write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        with pytest.raises(StoreError):
            open_store(store_path)


@pytest.fixture
def small_packed(store_path, tmp_path, make_record) -> Path:
    """A packed store with one bare section."""
    folder = tmp_path / "small.zarr"
    create_store(folder).add_section(make_record("C5", n_spots=3, n_genes=2, overview=None, obs={}))
    packed = tmp_path / "small.zip"
    pack(PackConfig(store=folder, out=packed))
    return packed


def data_ranges(packed: Path) -> dict[str, range]:
    """Where the bytes of each file lie, read by hand from the headers (APPNOTE 6.3, 4.3.7)."""
    whole, ranges = packed.read_bytes(), {}
    with zipfile.ZipFile(packed) as archive:
        for info in archive.infolist():
            lengths = whole[info.header_offset + 26 : info.header_offset + 30]
            start = info.header_offset + 30 + sum(np.frombuffer(lengths, "<u2").tolist())
            ranges[info.filename] = range(start, start + info.file_size)
    return ranges


def found_in(packed: Path) -> set[str]:
    """Paths of the faults; the file itself where it is refused as a whole."""
    try:
        return {fault.path for fault in verified(packed).faults}
    except StoreError as error:
        return {packed.name} if packed.name in str(error) else set()


def test_every_flipped_byte_of_a_packed_store_is_found(small_packed):
    whole, rng = small_packed.read_bytes(), np.random.default_rng(23)
    ranges = data_ranges(small_packed)
    for _ in range(60):
        small_packed.write_bytes(flip(whole, rng))
        assert found_in(small_packed)
    for _ in range(9):  # one bit in each file at once: all are named
        changed = whole
        for path, within in ranges.items():
            if path not in ("zarr.json", "C5/zarr.json"):
                changed = flip(changed, rng, within=within)
        small_packed.write_bytes(changed)
        assert found_in(small_packed) == ranges.keys() - {"zarr.json", "C5/zarr.json"}


def test_every_flipped_byte_around_the_files_of_a_packed_store_is_found(small_packed):
    whole, rng = small_packed.read_bytes(), np.random.default_rng(29)
    ranges = data_ranges(small_packed)
    around = np.setdiff1d(np.arange(len(whole)), np.concatenate([np.array(r) for r in ranges.values()]))
    assert around.size > 100 * len(ranges)
    for at in rng.permutation(around)[:120].tolist():
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        small_packed.write_bytes(changed)
        assert found_in(small_packed), at
    small_packed.write_bytes(whole)
    assert found_in(small_packed) == set()


@pytest.mark.parametrize(
    "change", [lambda data: data + b"\0", lambda data: b"MZ" + data], ids=["behind", "before"]
)
def test_bytes_around_a_packed_store_are_found(small_packed, change):
    small_packed.write_bytes(change(small_packed.read_bytes()))
    assert found_in(small_packed)


def test_a_packed_store_that_another_program_wrote_is_named_as_such(store_path, tmp_path, tree):
    packed = tmp_path / "other.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path, data in tree(store_path).items():
            archive.writestr(zipfile.ZipInfo(path, date_time=(2026, 1, 2, 3, 4, 6)), data)
    faults = verified(packed).faults
    assert faults
    assert all(fault.path == "" for fault in faults)
    assert "the header of 'C2/" in str(faults[0])
    assert "the ZIP file: bytes " in str(faults[0])


def test_a_hand_packed_store_passes(store_path, tmp_path, pack_by_hand):
    assert frame_faults(pack_by_hand(store_path, tmp_path / "c.zip")) == []


def shard_chunks(store: Path, key: str) -> list[tuple[str, int, range, range]]:
    """File, chunk, rows and place in the file of every chunk of C2's features, worked out by hand."""
    n_spots, dim, rows, per_shard = {"tiny_112um": (29, 5, 6, 2), "tiny_224um": (29, 3, 10, 2)}[key]
    n_bytes, found = rows * dim * 2, []
    for number in range(-(-n_spots // rows)):
        start = (number % per_shard) * (n_bytes + 4)
        place = range(start, start + n_bytes + 4)
        found.append(
            (
                f"C2/obsm/{key}/c/{number // per_shard}/0",
                number,
                range(number * rows, min((number + 1) * rows, n_spots)),
                place,
            )
        )
    return found


@pytest.mark.parametrize("key", ["tiny_112um", "tiny_224um"])
def test_of_features_the_chunk_and_its_rows_are_named(store_path, tree, key):
    whole = tree(store_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spam.store.feature_format._SHARD_BYTES", 150)
        sizes = {"tiny_112um": (5, "float16", 7), "tiny_224um": (3, "bfloat16", 11)}[key]
        assert len(cut(29, *sizes[:2], chunk_rows=sizes[2]).chunks) == len(shard_chunks(store_path, key))
    for path, number, rows, place in shard_chunks(store_path, key):
        for at in (place[0], place[-1], place[len(place) // 2]):
            changed = bytearray(whole[path])
            changed[at] ^= 0x10
            (store_path / path).write_bytes(changed)
            (fault,) = verified(store_path, "C2").faults
            assert fault.path == path
            assert fault.place is not None
            assert (fault.place.array, fault.place.chunk, fault.place.rows) == (
                f"obsm/{key}",
                str(number),
                (rows.start, rows.stop),
            )
            assert f"obsm/{key}, chunk {number}, rows {rows.start}:{rows.stop}" in str(fault)
        (store_path / path).write_bytes(whole[path])


def test_shards_that_changed_places_are_named(store_path):
    """Their checksums fit, so that readers take the rows for their own (docs/format.md, clause 10)."""
    folder = store_path / "C2/obsm/tiny_112um/c"
    (folder / "0").rename(folder / "x")
    (folder / "1").rename(folder / "0")
    (folder / "x").rename(folder / "1")
    assert {fault.path for fault in verified(store_path).faults} == {
        "C2/obsm/tiny_112um/c/0/0",
        "C2/obsm/tiny_112um/c/1/0",
    }


def test_all_damaged_chunks_of_a_shard_are_named(store_path):
    chunks = [chunk for chunk in shard_chunks(store_path, "tiny_112um") if chunk[0].endswith("c/0/0")]
    path = store_path / chunks[0][0]
    data = bytearray(path.read_bytes())
    for _, _, _, place in chunks:
        data[place[1]] ^= 1
    path.write_bytes(data)
    places = [fault.place for fault in verified(store_path).faults]
    assert [place.chunk for place in places if place] == ["0", "1"]


def test_a_damaged_list_of_chunks_names_all_rows_of_the_file(store_path):
    path = store_path / "C2/obsm/tiny_112um/c/1/0"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    (fault,) = verified(store_path).faults
    assert str(fault) == (
        "C2/obsm/tiny_112um/c/1/0: its bytes are not what was written "
        "(obsm/tiny_112um, the list of its chunks, rows 12:24)"
    )


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("C2/X/data/c/3", "X/data, chunk 3, entries 93:"),
        ("C2/X/indptr/c/0", "X/indptr, chunk 0, rows 0:8"),
        ("C2/obs/_index/c/0", "obs/_index, chunk 0, rows 0:29"),
        ("C2/obsm/spatial/c/0/0", "obsm/spatial, chunk 0/0, rows 0:29"),
        ("C2/obsp/spatial_distances/indices/c/1", "obsp/spatial_distances/indices, chunk 1, entries 31:62"),
        ("C2/uns/spatial/C2/images/hires/c/0/0/0", "hires, chunk 0/0/0, rows 0:17"),
        ("C2/uns/spatial_neighbors/params/sigma/c", "sigma, chunk 0)"),
    ],
)
def test_of_tables_the_chunk_and_its_rows_are_named(store_path, path, words):
    data = bytearray((store_path / path).read_bytes())
    data[-1] ^= 0x80
    (store_path / path).write_bytes(data)
    (fault,) = verified(store_path).faults
    assert fault.path == path
    assert words in str(fault)


def test_missing_short_long_and_linked_files_are_named(store_path):
    shard, short, long = "C2/obsm/tiny_112um/c/2/0", "C2/X/data/c/0", "C3/obsm/spatial/c/0/0"
    linked = "C2/var/_index/c/0"
    (store_path / shard).unlink()
    (store_path / short).write_bytes((store_path / short).read_bytes()[:-1])
    (store_path / long).write_bytes((store_path / long).read_bytes() + b"\0")
    elsewhere = store_path.parent / "elsewhere"
    (store_path / linked).rename(elsewhere)
    (store_path / linked).symlink_to(elsewhere)
    faults = verified(store_path).faults
    found = {fault.path: str(fault) for fault in faults}
    assert len(found) == len(faults)
    assert "is not there" in found[shard]
    assert "rows 24:29" in found[shard]
    assert "bytes, expected" in found[short]
    assert "bytes, expected" in found[long]
    assert "link" in found[linked]
    assert found.keys() == {shard, short, long, linked}


def test_files_that_should_not_be_there_are_named(store_path):
    (store_path / "README.md").write_text("what this is")
    (store_path / ".unfinished").mkdir()
    (store_path / ".unfinished" / "anything").write_text("")
    assert verified(store_path).is_intact
    strange = ["notes.txt", "C2/README.md", "C2/X/data/c/4", "C9/zarr.json", "C3/obsm/extra/c/0/0"]
    for path in strange:
        (store_path / path).parent.mkdir(parents=True, exist_ok=True)
        (store_path / path).write_text("{}")
    (store_path / "C2" / "door").symlink_to("/")
    found = {fault.path: str(fault) for fault in verified(store_path).faults}
    assert found.keys() == {*strange, "C2/door"}
    assert all("no index names it" in found[path] for path in strange if path != "C9/zarr.json")
    assert "it is a link" in found["C2/door"]
    assert {fault.path for fault in verified(store_path, "C3").faults} == {"C3/obsm/extra/c/0/0"}


@pytest.mark.parametrize("name", [".unfinished", ".unfinished/C2", ".unfinished/C2/obsm"])
def test_a_linked_staging_folder_is_named_and_not_looked_into(store_path, tmp_path, name):
    waiting = tmp_path / "C2/obsm/tiny_7um"
    waiting.mkdir(parents=True)
    (waiting / "features.json").write_text("{}")
    (waiting / f"00000000-{'0' * 64}.rows").write_text("of another store")
    place = store_path / name
    place.parent.mkdir(exist_ok=True, parents=True)
    place.symlink_to(tmp_path / name.removeprefix(".unfinished").lstrip("/"))
    assert [(fault.path, fault.fault) for fault in verified(store_path).faults] == [
        (name, "it is a link, which a store does not hold")
    ]


def test_a_section_that_is_gone_is_named(store_path):
    (store_path / "C3" / "zarr.json").unlink()
    report = verified(store_path)
    (fault,) = report.faults
    assert fault.path == "C3/zarr.json"
    assert "index of section 'C3' is not there" in str(fault)
    assert report.sections["C3"] is None


def test_all_faults_of_all_sections_are_told_at_once(store_path, tree):
    """The root, one index, and a file of the other section: each is named, none hides another."""
    whole, rng = tree(store_path), np.random.default_rng(31)
    paths = ["zarr.json", "C3/zarr.json", "C2/X/data/c/1"]
    for path in paths:
        (store_path / path).write_bytes(flip(whole[path], rng))
    report = verified(store_path)
    assert {fault.path for fault in report.faults} == set(paths)
    assert report.sections.keys() == {"C2", "C3"}
    assert "3 faults" in report.summary()
    assert "spam embed --overwrite" in report.summary()
    assert report.to_mapping()["is_intact"] is False


def test_chunks_that_wait_are_compared_too(store_path, add_features):
    section = open_store(store_path, is_read_only=False).section("C2")
    add_features(section, "tiny_56um", n_chunks=3)
    assert verified(store_path).is_intact
    n_files = verified(store_path).n_files
    chunk = sorted((store_path / ".unfinished/C2/obsm/tiny_56um").glob("*.rows"))[1]
    data = chunk.read_bytes()
    chunk.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    report = verified(store_path)
    (fault,) = report.faults
    assert fault.path == chunk.relative_to(store_path).as_posix()
    assert "unfinished chunk" in str(fault)
    assert report.n_files == n_files
    assert verified(store_path, "C3").is_intact


def test_a_file_that_cannot_be_read_is_named(store_path, monkeypatch):
    real = Path.open

    def refusing(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.as_posix().endswith("C2/X/data/c/2"):
            raise OSError(5, os.strerror(5), str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    (fault,) = verified(store_path).faults
    assert "cannot be read (Input/output error)" in str(fault)
    assert "entries 62:93" in str(fault)


def test_what_cannot_be_verified_at_all_is_an_error(tmp_path, store_path):
    with pytest.raises(StoreError, match="there is no store at"):
        verified(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="is no store"):
        verified(tmp_path / "empty")
    with pytest.raises(StoreError, match=r"is no store: it has no 'zarr\.json'"):
        verified(tmp_path)  # a folder of anything, with a group of Zarr in it
    (tmp_path / "text").write_text("no ZIP")
    with pytest.raises(StoreError, match="no readable ZIP file"):
        verified(tmp_path / "text")
    with pytest.raises(StoreError, match=r"no section 'C9' \(it has: 'C2', 'C3'\).*--sections"):
        verified(store_path, "C2", "C9")


def test_an_index_that_names_files_outside_reads_none_of_them(store_path, reseal):
    secret = store_path.parent / "secret"
    secret.write_bytes(b"mine")
    entry = {"n_bytes": 4, "sha256": hashlib.sha256(b"mine").hexdigest()}
    reseal(
        store_path / "C2",
        lambda document: document["attributes"]["spam"]["files"].update({"../../secret": entry}),
    )
    (fault,) = verified(store_path).faults
    assert fault.path == "C2/../../secret"
    assert "is not there" in str(fault)
