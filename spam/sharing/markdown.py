"""Markdown from words that are not ours: whatever they hold, they show as they are."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["inline", "one_line", "table"]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Draw a table of GitHub's Markdown; cells are escaped, None shows as a dash, no row at all as ``None.``."""
    cells = [[inline("–" if cell is None else cell) for cell in row] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if cells else "None."


def inline(value: object) -> str:
    r"""Escape a value for running text and table cells, on one line.

    A backslash makes a punctuation mark plain; the one in ``https\://`` keeps an address from becoming a link. A
    value must not begin a line: marks that mean something there alone, such as ``-`` and ``1.``, are left as they are.
    """
    return re.sub(r"([\\`*_\[\]<>|~&$#]|:(?=//))", r"\\\1", one_line(value))


def one_line(value: object) -> str:
    """Give a value on one line: white space as single spaces, characters that no one can see as a mark."""
    line = " ".join(str(value).split())
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c)[0] == "C" else c for c in line)
