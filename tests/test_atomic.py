import subprocess
import sys
from pathlib import Path

import pytest

from spam.atomic import claimed, holds_results, new_folder, replacing, staged, write_text
from spam.errors import OutputExistsError

HOLD = """
import sys, time
from pathlib import Path
from spam.atomic import claimed, staged
folder = Path(sys.argv[1])
with claimed(folder, "--out-dir"), staged(folder, last="z.txt") as staging:
    (staging / "z.txt").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_file_is_replaced_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new µ")
    assert path.read_text(encoding="utf-8") == "new µ"
    with pytest.raises(IsADirectoryError), replacing(path) as partial:
        partial.write_bytes(b"half" + tmp_path.read_bytes())  # a folder cannot be read
    assert path.read_text(encoding="utf-8") == "new µ"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Without a lock, each writer uses a separate temporary file, and the last one wins."""
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    with replacing(path, is_locked=True) as again:
        assert again.name == "a.txt.partial"
        again.write_text("again")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A folder whose writer was killed; while it was alive, no other could write."""
    folder = tmp_path / "made" / "out"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            with (
                pytest.raises(OutputExistsError, match=r"out' \(--out-dir\) is being written"),
                claimed(folder, "--out-dir"),
            ):
                pass
            with claimed(folder, "--out-dir", name=".lock-1-of-2"):  # another shard
                pass
        finally:
            process.kill()
    return folder


def test_a_killed_writer_leaves_nothing_that_looks_finished(killed: Path) -> None:
    assert not holds_results(killed)
    with claimed(killed, "--out-dir"), staged(killed, last="z.txt") as staging:
        assert list(staging.iterdir()) == []
        (staging / "z.txt").write_text("whole")
    assert [path.name for path in killed.iterdir()] == ["z.txt"]
    assert holds_results(killed)


def test_a_failure_leaves_no_folder_and_no_change(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), claimed(out, "--out-dir"), staged(out) as staging:
        (staging / "x").write_text(str(1 / len(list(staging.iterdir()))))
    assert list(tmp_path.iterdir()) == []
    out.mkdir(parents=True)
    (out / "x").write_text("old")
    with pytest.raises(ZeroDivisionError), claimed(out, "--out-dir"), staged(out, last="x") as staging:
        (staging / "x").write_text(str(1 / len(list(staging.iterdir()))))
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("x", "old")]


def test_results_replace_those_of_the_same_kind_and_the_mark_comes_last(tmp_path: Path) -> None:
    for name in ("mark", "old.csv", "mine.txt", "plots/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    moves: list[str] = []
    real = Path.replace
    with (
        pytest.MonkeyPatch.context() as patch,
        claimed(tmp_path, "--out-dir"),
        staged(tmp_path, last="mark", obsolete=("old.csv",)) as staging,
    ):
        for name in ("mark", "z.csv", "plots/b.png"):
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_text("new")
        patch.setattr(Path, "replace", lambda a, b: (moves.append(b.name), real(a, b))[1])
    assert moves == ["b.png", "z.csv", "mark"]
    found = {p.relative_to(tmp_path).as_posix(): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {
        "mark": "new",
        "mine.txt": "old",
        "plots/a.png": "old",
        "plots/b.png": "new",
        "z.csv": "new",
    }


def test_a_new_folder_appears_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    left = tmp_path / "out.partial" / "out"  # of a killed process
    left.mkdir(parents=True)
    (left / "old").touch()
    with new_folder(out, "OUT") as folder:
        assert not folder.exists()
        folder.mkdir()
        (folder / "new").touch()
        assert not out.exists()
        with pytest.raises(OutputExistsError, match="another process"), new_folder(out, "OUT"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["new"]
    with pytest.raises(OutputExistsError, match="exists already"), new_folder(out, "OUT"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
