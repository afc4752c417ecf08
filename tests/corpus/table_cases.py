"""Bad and odd tables and manifests: the bytes of a CSV, its columns, cells, ids and coordinates."""

import csv
import gzip
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from case_lab import COUNTS, IDS, MPP, N_SPOTS, XY, Case, Change, cases

Rows = list[list[str]]
FILE = "S1.csv"


def raw(edit: Callable[[bytes], bytes], name: str = FILE) -> Change:
    """Edit the bytes of the table."""
    return lambda folder: (folder / name).write_bytes(edit((folder / name).read_bytes()))


def rows(edit: Callable[[Rows], Rows | None], name: str = FILE) -> Change:
    """Edit the rows of the table, the header first."""

    def change(folder: Path) -> None:
        with (folder / name).open(newline="") as file:
            found = list(csv.reader(file))
        found = edit(found) or found
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(found)

    return change


def cell(row: int, column: str, text: str) -> Change:
    """Replace one cell; rows count from 1 after the header."""
    return rows(lambda found: found[row].__setitem__(found[0].index(column), text))


def column(name: str, values: Any) -> Change:
    """Replace or add a column: one text, or one per row."""

    def edit(found: Rows) -> None:
        cells = [values] * (len(found) - 1) if isinstance(values, str) else [str(value) for value in values]
        if name not in found[0]:
            for row, text in zip(found, [name, *cells], strict=True):
                row.append(text)
        at = found[0].index(name)
        for row, text in zip(found[1:], cells, strict=True):
            row[at] = text

    return rows(edit)


def without(*names: str) -> Change:
    def edit(found: Rows) -> Rows:
        kept = [i for i, name in enumerate(found[0]) if name not in names]
        return [[row[i] for i in kept] for row in found]

    return rows(edit)


def renamed(old: str, new: str) -> Change:
    return rows(lambda found: found[0].__setitem__(found[0].index(old), new))


def then(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def no_h5ad(words: tuple[object, ...] = ()) -> dict[str, Any]:
    """Run without an h5ad."""
    return {"words": ("--h5ad", "", *words)}


BYTES: dict[str, Any] = {
    "empty": raw(lambda b: b""),
    "one line end": raw(lambda b: b"\n"),
    "only the header": raw(lambda b: b[: b.index(b"\n") + 1]),
    "no header": raw(lambda b: b[b.index(b"\n") + 1 :]),
    "semicolons": raw(lambda b: b.replace(b",", b";")),
    "tabs": raw(lambda b: b.replace(b",", b"\t")),
    "pipes": raw(lambda b: b.replace(b",", b"|")),
    "UTF-16": raw(lambda b: b.decode().encode("utf-16")),
    "UTF-32": raw(lambda b: b.decode().encode("utf-32")),
    "Latin-1": raw(lambda b: b.replace(b"S1_3", "Gröse".encode("latin-1"))),
    "NUL bytes": raw(lambda b: b.replace(b"S1_3", b"S1\x003")),
    "all NUL": raw(lambda b: bytes(len(b))),
    "noise": raw(lambda b: bytes(range(256)) * 20),
    "a quote that is not closed": raw(lambda b: b.replace(b"S1_3", b'"S1_3')),
    "an image": lambda f: shutil.copy(f / "images" / "S1.png", f / FILE),
    "an h5ad": lambda f: shutil.copy(f / "S1.h5ad", f / FILE),
    "gzipped bytes": raw(gzip.compress),
    "an Excel file": raw(lambda b: b"PK\x03\x04" + b"[Content_Types].xml" + bytes(200)),
    "HTML": raw(lambda b: b"<!DOCTYPE html><html><body>404</body></html>\n" * 3),
    "JSON": raw(lambda b: b'{"x": [1, 2], "y": [3, 4]}\n'),
    "a folder": lambda f: ((f / FILE).unlink(), (f / FILE).mkdir()),
    "absent": lambda f: (f / FILE).unlink(),
    "cut within a row": raw(lambda b: b[: len(b) // 2]),
    "a row with more cells": rows(lambda r: r[3].append("more")),
    "all rows with more cells": rows(lambda r: [r[0], *[[*row, "more"] for row in r[1:]]]),
    "a row with fewer cells": rows(lambda r: r[3].pop()),
    "300,000 columns": raw(
        lambda b: b"\n".join(
            line + b"," + tail * 300_000
            for line, tail in zip(b.split(b"\n"), [b"c,", *[b"0,"] * 16], strict=False)
        )
    ),
    "a cell of 5 MB": cell(3, "spot_id", "y" * 5_000_000),
    "a header of 5 MB": renamed("x", "z" * 5_000_000),
}
COLUMNS: dict[str, Any] = {
    "no id": (without("spot_id"), "spot_id"),
    "no image": (without("source_image"), "source_image"),
    "no x": (without("x"), "x, y"),
    "no coordinates": (without("x", "y"), "x, y"),
    "x twice": (rows(lambda r: [[*row, row[1]] for row in r]), "'x'"),
    "x twice, another value": (rows(lambda r: [[*row, "7" if i else "x"] for i, row in enumerate(r)]), "'x'"),
    "id twice": (rows(lambda r: [[row[0], *row] for row in r]), "spot_id"),
    "two columns without a name": rows(lambda r: [["", "", *row] if i else ["x", "x", *row] for i, row in enumerate(r)]),
    "x is text": (cell(3, "x", "left"), "S1_2"),
    "x is empty": (cell(3, "x", ""), "S1_2"),
    "x is NaN": (cell(3, "x", "nan"), "S1_2"),
    "x is infinite": (cell(3, "x", "inf"), "S1_2"),
    "x overflows": (cell(3, "x", "1e400"), "S1_2"),
    "x is huge": (cell(3, "x", "1e308"), "S1_2|outside"),
    "x has a comma": (cell(3, "x", "1,5"), "S1_2"),
    "x has thousands": (cell(3, "x", "1,234.5"), "S1_2"),
    "x is hexadecimal": (cell(3, "x", "0x1F"), "S1_2"),
    "x is a date": (cell(3, "x", "2024-01-01"), "S1_2"),
    "x is a formula": (cell(3, "x", "=A1+3"), "S1_2"),
    "x is boolean": (cell(3, "x", "True"), "S1_2"),
    "x is complex": (cell(3, "x", "3+4j"), "S1_2"),
    "x is a cell of 5 MB": (cell(3, "x", "9" * 5_000_000), "S1_2"),
    "x outside": (cell(3, "x", "9999"), "S1_2|outside"),
    "x negative": (cell(3, "x", "-80"), "S1_2|outside"),
    "all outside": (column("y", ["5000"] * N_SPOTS), "outside"),
    "an id twice": (cell(3, "spot_id", "S1_7"), "S1_7"),
    "an id empty": (cell(3, "spot_id", ""), "empty"),
    "an id missing": (rows(lambda r: r.pop(4) and None), "S1_3"),
    "ids off by one": (
        then(column("spot_id", range(1, 17)), lambda f: _h5ad_ids(f, [str(i) for i in range(16)])),
        "--id-offset",
    ),
    "ids with .0": (
        then(column("spot_id", [f"{i}.0" for i in range(16)]), lambda f: _h5ad_ids(f, [str(i) for i in range(16)])),
        "--id-strip-suffix",
    ),
    "ids with a suffix of concat": (
        lambda f: _h5ad_ids(f, [f"{name}-1-0" for name in IDS]),
        "-1-0",
    ),
    "ids with the section in front": (lambda f: _h5ad_ids(f, [f"A_{name}" for name in IDS]), "A_"),
    "ids in another case": (lambda f: _h5ad_ids(f, [name.lower() for name in IDS]), "S1_0|s1_0"),
    "no id in common": (column("spot_id", [f"q{i}" for i in range(16)]), "q0"),
    "most ids differ": (column("spot_id", [*IDS[:3], *[f"q{i}" for i in range(13)]]), "q0"),
    "inside_he unclear": (column("inside_he", ["maybe"] * N_SPOTS), "inside_he"),
    "all outside the image": (column("inside_he", ["0"] * N_SPOTS), "inside_he"),
    "tile of 0 px": (column("patch_size_px", ["0"] * N_SPOTS), "patch_size_px"),
    "tile of -5 px": (column("patch_size_px", ["-5"] * N_SPOTS), "patch_size_px"),
    "tile of nan px": (column("patch_size_px", ["nan"] * N_SPOTS), "patch_size_px"),
    "tile of some px": (column("patch_size_px", ["some"] * N_SPOTS), "patch_size_px"),
    "an image empty": (cell(3, "source_image", ""), "source_image"),
    "an image that is absent": (column("source_image", ["S9.png"] * N_SPOTS), "S9.png"),
    "an image that is a folder": (then(lambda f: (f / "images" / "sub").mkdir(), column("source_image", ["sub"] * N_SPOTS)), "sub"),
    "two images": (cell(3, "source_image", "S2.png"), "source_image"),
    "an image name of 5 MB": (column("source_image", ["a" * 5_000_000] * 2 + ["S1.png"] * 14), "aaa"),
    "an image name with NUL": (raw(lambda b: b.replace(b"S1.png", b"S1\x00.png")), ""),
    "an image name of 300 letters": (column("source_image", ["a" * 300] * N_SPOTS), "aaa"),
    "another section": (column("section", ["C7"] * N_SPOTS), "C7"),
    "two donors": (column("donor", ["A"] * 8 + ["B"] * 8), "--donor"),
    "another donor than the h5ad": (
        then(column("donor", ["A"] * N_SPOTS), lambda f: _h5ad_obs(f, "patient", "B")),
        "--donor",
    ),
    "um with --coordinates hires": (
        then(renamed("x", "x_um"), renamed("y", "y_um")),
        "hires",
        {"words": ("--coordinates", "hires")},
    ),
    "--id-offset of ids that are text": (lambda f: None, "--id-offset", {"words": ("--id-offset", "1")}),
    "exchanged": (
        rows(lambda r: [[row[0], row[2] if i else row[1], row[1] if i else row[2], *row[3:]] for i, row in enumerate(r)]),
        "--swap-xy",
    ),
    "no h5ad and no --mpp": (lambda f: (f / "S1.h5ad").unlink(), r"S1\.h5ad"),
}  # fmt: skip


def _h5ad_ids(folder: Path, ids: list[str]) -> None:
    made = anndata.read_h5ad(folder / "S1.h5ad")
    made.obs_names = ids
    made.write_h5ad(folder / "S1.h5ad")


def _h5ad_obs(folder: Path, name: str, value: Any) -> None:
    made = anndata.read_h5ad(folder / "S1.h5ad")
    made.obs[name] = value
    made.write_h5ad(folder / "S1.h5ad")


def _crlf(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _box(found: Rows) -> Rows:
    corners = ["x0_he_px", "y0_he_px", "x1_he_px", "y1_he_px"]
    boxes = [
        [row[0], *(str(float(v) - 16) for v in row[1:3]), *(str(float(v) + 16) for v in row[1:3]), row[3]]
        for row in found[1:]
    ]
    return [["spot_id", *corners, "source_image"], *boxes]


READ: dict[str, Any] = {
    "a byte order mark": raw(lambda b: b"\xef\xbb\xbf" + b),
    "Windows line ends": raw(_crlf),
    "old Mac line ends": raw(lambda b: _crlf(b).replace(b"\r\n", b"\r")),
    "no last line end": raw(lambda b: b.rstrip()),
    "empty lines": raw(lambda b: b.replace(b"\n", b"\n\n")),
    "everything quoted": rows(lambda r: None),
    "rows in another order": rows(lambda r: [r[0], *r[:0:-1]]),
    "columns in another order": rows(lambda r: [row[::-1] for row in r]),
    "more columns": column("note", ["a, b", 'c "d"', "e\nf", ""] * 4),
    "exponents": column("x", [f"{x / 1000:.6f}e3" for x in XY[:, 0]]),
    "signs": column("x", [f"+{x}" for x in XY[:, 0]]),
    "many digits": column("x", [f"{x:.40f}" for x in XY[:, 0]]),
    "blanks around numbers": column("x", [f"  {x} " for x in XY[:, 0]]),
    "whole numbers": column("x", [str(int(x)) for x in XY[:, 0]]),
    "another id column beside": column("barcode", [f"AAAC-{i}" for i in range(N_SPOTS)]),
    "ids under cell_id": renamed("spot_id", "cell_id"),
    "rows of other sections": (
        then(column("section", ["S1"] * N_SPOTS), rows(lambda r: r.append(["S1_0", "1", "2", "other.png", "S2"]))),
        "",
        {"words": ("--section", "S1")},
    ),
    "rows outside the image": (
        then(rows(lambda r: r.append(["far", "9999", "9999", "S1.png"])), column("inside_he", ["True"] * N_SPOTS + ["False"])),
        "",
    ),
    "rows without a spot": rows(lambda r: r.append(["more", "80", "80", "S1.png"])),
    "spots without a row": (
        rows(lambda r: r.pop(4) and None),
        "",
        {
            "words": ("--allow-missing-tiles",),
            "truth": {"ids": IDS[:3] + IDS[4:], "counts": np.delete(COUNTS, 3, 0), "xy": np.delete(XY, 3, 0)},
        },
    ),
    "boxes": rows(_box),
    "exchanged, with --swap-xy": (
        rows(lambda r: [[row[0], row[2] if i else row[1], row[1] if i else row[2], *row[3:]] for i, row in enumerate(r)]),
        "",
        {"words": ("--swap-xy",)},
    ),
    "µm, with --coordinates um": (
        then(column("x", XY[:, 0] * MPP), column("y", XY[:, 1] * MPP)),
        "",
        {"words": ("--coordinates", "um")},
    ),
    "columns in µm": then(
        column("x", XY[:, 0] * MPP), column("y", XY[:, 1] * MPP), renamed("x", "x_um"), renamed("y", "y_um")
    ),
    "ids with a suffix, stripped": (
        column("spot_id", [f"{name}-1" for name in IDS]),
        "",
        {"words": ("--id-strip-suffix=-1",)},
    ),
    "an image found by ..": column("source_image", ["../images/S1.png"] * N_SPOTS),
    "tile size stated": column("patch_size_px", ["32"] * N_SPOTS),
    "1e3 rows more": rows(lambda r: r.extend([f"m{i}", "80", "80", "S1.png"] for i in range(1000))),
    "a comma in an id": (then(cell(3, "spot_id", "a,b"), lambda f: _h5ad_ids(f, ["S1_0", "S1_1", "a,b", *IDS[3:]])), "", {"truth": {"ids": ["S1_0", "S1_1", "a,b", *IDS[3:]]}}),
}  # fmt: skip
EITHER: dict[str, Any] = {
    "a row of one cell": rows(lambda r: r.insert(4, ["comment"])),
    "the ids in the second id column": (then(column("barcode", IDS), column("spot_id", range(N_SPOTS))), "barcode"),
    "numbers with underscores": cell(3, "x", "1_60"),
    "Arabic digits": cell(3, "x", "١٦٠"),
    "a minus sign of typography": cell(3, "x", "\u2212160"),
    "a no-break space": cell(3, "x", "160\u00a0"),
    "header with blanks": rows(lambda r: r.__setitem__(0, [f" {name}" for name in r[0]])),
    "header in capitals": rows(lambda r: r.__setitem__(0, [name.upper() for name in r[0]])),
    "ids with blanks": cell(3, "spot_id", " S1_2 "),
    "only some inside_he": column("inside_he", ["True"] * 15 + [""]),
    "a column without a name": rows(lambda r: [["" if not i else str(i), *row] for i, row in enumerate(r)]),
    "a comment in front": raw(lambda b: b"# made by hand\n" + b),
    "sep= of Excel": raw(lambda b: b"sep=,\n" + b),
    "an absolute image path": lambda f: column("source_image", [str(f / "images" / "S1.png")] * N_SPOTS)(f),
    "empty cells at the end": raw(lambda b: b.replace(b"\n", b",\n")),
}  # fmt: skip

_MANIFEST = ("embed", "--manifest", "m.csv", "--root", "images", "--store", "st.zarr")


def manifest(text: str | bytes) -> Change:
    content = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / "m.csv").write_bytes(content)


_ROW = "S1,P1,S1.h5ad,S1.csv,images\n"
_HEAD = "section,donor,h5ad,csv,root\n"
MANIFEST: dict[str, Any] = {
    "empty": manifest(""),
    "only the header": manifest(_HEAD),
    "no csv column": (manifest("section,h5ad\nS1,S1.h5ad\n"), "csv"),
    "unknown column": (manifest("section,csv,slide\nS1,S1.csv,x\n"), "slide"),
    "unknown columns of 5 MB": (manifest(f"section,csv,{'w' * 5_000_000}\nS1,S1.csv,x\n"), "www"),
    "no table in a row": (manifest("section,csv\nS1,\n"), "row 1"),
    "section twice": (manifest(_HEAD + _ROW * 2), "S1"),
    "file absent": (manifest(_HEAD + _ROW.replace("S1.h5ad", "S9.h5ad")), "S9.h5ad"),
    "folder absent": (manifest(_HEAD + _ROW.replace("images", "pictures")), "pictures"),
    "h5ad is a folder": (manifest(_HEAD + _ROW.replace("S1.h5ad", "images")), "images"),
    "semicolons": manifest((_HEAD + _ROW).replace(",", ";")),
    "UTF-16": manifest((_HEAD + _ROW).encode("utf-16")),
    "NUL": manifest((_HEAD + _ROW).replace("S1.csv", "S1\0.csv")),
    "more cells": manifest(_HEAD + _ROW.replace("\n", ",more,more\n")),
    "an image": lambda f: shutil.copy(f / "images" / "S1.png", f / "m.csv"),
    "itself as the table": manifest(_HEAD + "S1,P1,S1.h5ad,m.csv,images\n"),
    "column twice": manifest("section,csv,csv\nS1,S1.csv,S1.csv\n"),
    "a path of 5 MB": (manifest(_HEAD + _ROW.replace("S1.csv", "v" * 5_000_000)), "vvv"),
    "a path of 300 letters": (manifest(_HEAD + _ROW.replace("S1.csv", "v" * 300)), "vvv"),
    "a home folder": manifest(_HEAD + _ROW.replace("S1.csv", "~/S1.csv")),
    "an address": manifest(_HEAD + _ROW.replace("S1.h5ad", "s3://bucket/S1.h5ad")),
    "300 rows that are absent": (
        manifest(_HEAD + "".join(f"T{i},P1,T{i}.h5ad,T{i}.csv,images\n" for i in range(300))),
        "T0",
    ),
    "section zarr.json": (manifest(_HEAD + _ROW.replace("S1,", "zarr.json,", 1)), "zarr.json"),
    "section of 300 letters": (manifest(_HEAD + _ROW.replace("S1,", "u" * 300 + ",", 1)), "uuu"),
    "section ..": (manifest(_HEAD + _ROW.replace("S1,", "..,", 1)), r"\.\."),
    "section with a slash": (manifest(_HEAD + _ROW.replace("S1,", "a/b,", 1)), "a/b"),
    "absent": (lambda f: None, "m.csv"),
    "a folder": lambda f: (f / "m.csv").mkdir(),
    "together with --h5ad": (manifest(_HEAD + _ROW), "--h5ad", {"words": (*_MANIFEST, "--h5ad", "S1.h5ad")}),
}


def bad_cases() -> Iterator[Case]:
    yield from cases("refused", BYTES, says=r"S1\.csv|--csv")
    yield from cases("refused", COLUMNS, says=r"S1\.csv|--")
    for case in cases("refused", MANIFEST, says=r"m\.csv|S1\.csv|--manifest", words=_MANIFEST):
        yield Case(name=f"manifest: {case.name}", change=case.change, says=case.says, words=case.words)


def odd_cases() -> Iterator[Case]:
    yield from cases("read", READ)
    yield from cases("either", EITHER, says=r"S1\.csv|--")
