"""What `spam store info` and `spam store ls` say of stores of known content."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spam.errors import StoreError
from spam.schemas.store_config import InfoConfig
from spam.sharing.describing import InfoReport, UnfinishedInfo, describe
from spam.store import create_store, open_store


def described(store: Path) -> InfoReport:
    return describe(InfoConfig(store=str(store)))


def test_a_store_is_described_by_what_it_holds(pristine_store, tree):
    report = described(pristine_store)
    files, section = tree(pristine_store), open_store(pristine_store).section("C2")
    assert (report.n_files, report.n_bytes) == (len(files), sum(map(len, files.values())))
    first, second = report.sections
    assert (first.name, first.donor, first.n_spots, first.n_genes) == ("C2", "patient µ", 29, 7)
    assert (first.mpp, first.licence, first.redacted) == (0.69, "CC-BY-4.0", ())
    assert (first.has_counts, first.has_coordinates) == (True, True)
    assert first.content == section.index.digest[:12]
    assert first.graphs == ("features_tiny_112um", "features_tiny_224um", "spatial")
    assert (first.unfinished, first.writing) == ((), ())
    assert first.n_files == sum(path.startswith("C2/") for path in files)
    assert first.n_bytes == sum(len(data) for path, data in files.items() if path.startswith("C2/"))
    small, large = first.features
    assert (small.key, small.dim, small.dtype) == ("tiny_112um", 5, "float16")
    assert (large.key, large.dim, large.dtype) == ("tiny_224um", 3, "bfloat16")
    assert (small.encoder, small.revision, small.licence) == ("tiny", "0123456789abcdef", "Apache-2.0")
    assert small.identity == section.feature_identity("tiny_112um")[:12]
    assert small.content == section.content_digest("obsm/tiny_112um")[:12]
    assert small.n_bytes == sum(
        len(data) for path, data in files.items() if path.startswith("C2/obsm/tiny_112um/")
    )
    assert (second.donor, second.mpp, second.has_counts) == (None, None, False)
    assert json.loads(json.dumps(report.to_mapping()))["sections"][0]["features"][1]["key"] == "tiny_224um"


def test_the_texts_say_it_in_words(pristine_store):
    report = described(pristine_store)
    head, *lines = report.summary().splitlines()
    assert head == f"{pristine_store}: 2 sections, {report.n_files} files, {report.n_bytes / 1e6:.1f} MB"
    content = [section.content for section in report.sections]
    assert lines[0] == (
        f"C2: donor patient µ, 29 spots, 7 genes, 0.69 µm/px, licence CC-BY-4.0, content {content[0]}"
    )
    assert lines[1].startswith("    tiny_112um: 5 x float16, ")
    assert "tiny at 0123456789ab, licence Apache-2.0, identity " in lines[1]
    assert lines[3] == "    graphs: features_tiny_112um, features_tiny_224um, spatial"
    assert lines[4].startswith("C3: donor unknown, 23 spots, no counts, µm/px unknown")
    assert report.names_only().splitlines()[1:] == [
        "C2: 29 spots, 7 genes, tiny_112um, tiny_224um",
        "C3: 23 spots, no counts, tiny_112um, tiny_224um",
    ]


def test_a_packed_store_is_described_alike(pristine_store, tmp_path, pack_by_hand):
    packed = described(pack_by_hand(pristine_store, tmp_path / "c.zip"))
    assert packed.sections == described(pristine_store).sections


def test_an_empty_store_and_a_bare_section_are_described(tmp_path, make_record):
    store = create_store(tmp_path / "c.zarr")
    assert described(store.folder).summary().startswith(f"{store.folder}: 0 sections, 1 files")
    bare = {"xy_px": None, "xy_um": None, "has_coordinates": False, "redacted": ("coordinates", "ids")}
    store.add_section(make_record("C9", n_spots=1, **bare))
    report = described(store.folder)
    assert "no coordinates" in report.summary()
    assert "coordinates, ids" in report.summary()
    assert report.names_only().endswith("C9: 1 spots, 7 genes, no features")


def test_unfinished_features_are_counted_in_chunks(store_path, add_features):
    section = open_store(store_path, is_read_only=False).section("C2")
    add_features(section, "tiny_56um", n_chunks=3)
    first, _ = described(store_path).sections
    # 29 rows in chunks of at most 7 are five chunks.
    assert first.unfinished == (UnfinishedInfo(key="tiny_56um", n_done=3, n_chunks=5),)
    assert "tiny_56um: unfinished, 3 of 5 chunks are done" in described(store_path).summary()
    assert "tiny_56um (unfinished)" in described(store_path).names_only()
    (begun,) = (store_path / ".unfinished/C2/obsm").glob("tiny_56um*/features.json")
    begun.write_text("{")
    first, _ = described(store_path).sections
    assert first.unfinished == (UnfinishedInfo(key="tiny_56um", n_done=3, n_chunks=None),)
    assert "tiny_56um: unfinished, 3 chunks are done" in described(store_path).summary()


HOLD_A_LOCK = """
import sys
from spam.store import open_store

with open_store(sys.argv[1], is_read_only=False).section("C2").lock("tiny_56um"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_what_another_process_writes_is_told(store_path):
    command = [sys.executable, "-P", "-c", HOLD_A_LOCK, str(store_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "held\n"
        first, second = described(store_path).sections
        summary = described(store_path).summary()
        writer.communicate("go on\n")
    assert writer.returncode == 0
    assert (first.writing, second.writing) == (("C2/obsm/tiny_56um",), ())
    assert "C2/obsm/tiny_56um: being written by another process" in summary
    assert described(store_path).sections[0].writing == ()


def test_metadata_that_are_not_as_the_format_says_are_an_error(store_path, reseal):
    """Where types are checked at run time the index itself is refused."""
    reseal(store_path / "C2", lambda document: document["attributes"]["spam"]["meta"].update(mpp="0.69"))
    with pytest.raises(
        StoreError, match=r"(?s)C2'? .*(mpp must be .*not '0.69'.*spam store validate|format version 1)"
    ):
        described(store_path)
    reseal(store_path / "C2", lambda document: document["attributes"]["spam"]["meta"].update(mpp=0.69))
    node = "obsm/tiny_112um"
    reseal(
        store_path / "C2",
        lambda document: document["consolidated_metadata"]["metadata"][node]["attributes"]["spam"][
            "meta"
        ].update(encoder=7),
    )
    with pytest.raises(StoreError, match=r"(?s)C2.*(encoder must be a mapping|format version 1)"):
        described(store_path)


def test_what_is_no_store_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="there is no store at"):
        described(tmp_path / "missing")
