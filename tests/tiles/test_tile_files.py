"""What folders of tile files must have in common, and what is said of those that cannot be read."""

import numpy as np
import pytest
from PIL import Image

from spam.errors import MissingInputError, SlideError, TileError
from spam.tiles import common_side_px
from spam.tiles.tile_files import side_px


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"t{i}.png" for i in range(11)]
    for path in paths:
        Image.new("RGB", (61, 61)).save(path)
    return paths


def test_the_side_is_read_from_headers_alone(files, tmp_path):
    assert side_px(files[0]) == common_side_px(files) == 61
    data = files[3].read_bytes()
    files[3].write_bytes(data[:50])
    assert common_side_px(files) == 61
    assert common_side_px([files[0]] * 5) == 61


def test_unlike_and_oblong_files(files):
    Image.new("RGB", (61, 59)).save(files[4])
    with pytest.raises(TileError, match=r"10 of 11 are 61 x 61 px, but 't4\.png' is 61 x 59 px"):
        common_side_px(files)
    with pytest.raises(TileError, match=r"must be square, but 't4\.png' is 61 x 59"):
        side_px(files[4])


def test_unreadable_files_are_counted_named_and_can_be_skipped(files):
    files[2].write_bytes(b"")
    files[7].write_text("text")
    Image.fromarray(np.zeros((61, 61, 3), dtype=np.uint8)).convert("CMYK").save(files[8], format="JPEG")
    words = r"3 of 11 tile files cannot be read: 't2\.png', 't7\.png', 't8\.png', the first because .*t2\.png.*0 bytes"
    with pytest.raises(SlideError, match=words + r".*--skip-bad-tiles"):
        common_side_px(files)
    assert common_side_px(files, is_forgiving=True) == 61
    with pytest.raises(SlideError, match=r"2 of 2 tile files cannot be read: 't2\.png', 't7"):
        common_side_px([files[2], files[7], files[2]], is_forgiving=True)
    with pytest.raises(SlideError, match=r"^slide .*t2\.png.*0 bytes"):
        side_px(files[2])
    files[5].unlink()
    with pytest.raises(MissingInputError, match=r"t5\.png"):
        common_side_px(files, is_forgiving=True)
