"""Plain values fit the fields they are meant for, and no others."""

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spam.schemas.values import describe_kind, fit_value

Mode = Literal["joint", "img-gene", "img-coord"]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (0.5, float, 0.5),
        (True, bool, True),
        ("x", str, "x"),
        ("a/b", Path, Path("a/b")),
        (Path("a"), Path | None, Path("a")),
        (None, Path | None, None),
        ("x", str | None, "x"),
        ("joint", Mode, "joint"),
        ([112, 224.5], tuple[float, ...], (112.0, 224.5)),
        ((), tuple[str, ...], ()),
        (["csv"], tuple[Literal["csv", "parquet"], ...], ("csv",)),
    ],
)
def test_fits(value: Any, kind: Any, expected: Any) -> None:
    fitted = fit_value(value, kind)
    assert fitted == expected
    assert type(fitted) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ("3", int, "a whole number"),
        (3.0, int, "a whole number"),
        (True, int, "a whole number"),
        (True, float, "a number"),
        ("0.5", float, "a number"),
        (1, bool, "true or false"),
        (3, str, "text"),
        (None, str, "text"),
        (3, Path | None, "a path"),
        ("gene", Mode, "joint, img-gene or img-coord"),
        ("C2,C3", tuple[str, ...], "a list, each text"),
        ([112, "x"], tuple[float, ...], "a list, each a number"),
        (["xlsx"], tuple[Literal["csv", "parquet"], ...], "a list, each csv or parquet"),
    ],
)
def test_refuses(value: Any, kind: Any, words: str) -> None:
    with pytest.raises(TypeError):
        fit_value(value, kind)
    assert describe_kind(kind) == words


@given(st.lists(st.integers() | st.floats(allow_nan=False)))
def test_lists_keep_their_numbers(values: list[float]) -> None:
    small = [value for value in values if abs(value) < 1e300]
    assert fit_value(small, tuple[float, ...]) == tuple(float(value) for value in small)
