from pathlib import Path

import pytest

from spam.atomic import replacing, write_text


def test_a_file_is_replaced_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new µ")
    assert path.read_text(encoding="utf-8") == "new µ"
    with pytest.raises(IsADirectoryError), replacing(path) as partial:
        partial.write_bytes(b"half" + tmp_path.read_bytes())  # a folder cannot be read
    assert path.read_text(encoding="utf-8") == "new µ"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
