"""Copies of slides on a local disk: every file of the slide, while it is needed and no longer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from spam.errors import SlideError
from spam.tiles import local_copy, open_slide

SIZE = (97, 131)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


def test_the_copy_has_the_pixels_and_goes_away(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "far.tif", pixels, tile=(64, 80), photometric="rgb")
    cache = tmp_path / "scratch" / "cache"
    with local_copy(tmp_path / "far.tif", cache) as path:
        assert cache in path.parents
        (tmp_path / "far.tif").unlink()
        with open_slide(path) as slide:
            np.testing.assert_array_equal(slide.read(0, 0, SIZE[1], SIZE[0]), pixels)
    assert not cache.exists()
    assert not cache.parent.exists()


def test_a_slide_of_several_files_is_copied_with_all_of_them(tmp_path):
    folder = tmp_path / "far" / "slide.zarr"
    names = ["zarr.json", "0/zarr.json", "0/c/0/0/0", "1/c/0/0/0"]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes([number]) * 7)
    (tmp_path / "far" / "other.tif").write_bytes(b"not of this slide")
    with local_copy(folder, tmp_path / "cache") as path:
        found = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        copied = list((tmp_path / "cache").rglob("*.tif"))
    assert found == {name: bytes([number]) * 7 for number, name in enumerate(names)}
    assert copied == []


def test_a_folder_without_room_is_refused(tmp_path, monkeypatch):
    with (tmp_path / "large.tif").open("wb") as file:
        file.truncate(2**50)  # a file of holes: 1,126 TB by its size
    words = r"'large.tif' needs 1125899.9 GB.*cache \(--local-cache\)"
    with pytest.raises(SlideError, match=words), local_copy(tmp_path / "large.tif", tmp_path / "cache"):
        pass
    assert not (tmp_path / "cache").exists()


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_stays(tmp_path):
    slide, cache = tmp_path / "far.tif", tmp_path / "cache"
    slide.write_bytes(b"pixels")
    hold = (
        "import sys; from pathlib import Path; from spam.tiles import local_copy\n"
        f"with local_copy(Path({str(slide)!r}), Path({str(cache)!r})) as path:\n"
        "    print(path, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-P", "-c", hold]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    killed, used = (Path(process.stdout.readline().strip()) for process in running)
    running[0].kill()
    running[0].communicate()
    for place in cache.iterdir():
        os.utime(place, (time.time() - 3600,) * 2)
    with local_copy(slide, cache):
        assert not killed.exists()
        assert used.read_bytes() == b"pixels"
    running[1].communicate(timeout=60)
    assert not list(tmp_path.glob("cache/*"))
