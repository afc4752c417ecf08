"""Bad and odd AnnData files: faults of sparse matrices, of the file, of coordinates, scale and features."""

import gzip
import itertools
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from case_lab import COUNTS, GENES, IDS, MPP, N_GENES, N_SPOTS, XY, Case, Change, cases
from scipy import sparse

Edit = Callable[[Any], object]


def h5(edit: Edit) -> Change:
    """Edit the HDF5 file."""

    def change(folder: Path) -> None:
        with h5py.File(folder / "S1.h5ad", "r+") as file:
            edit(file)

    return change


def adata(edit: Edit) -> Change:
    """Edit the AnnData object and write it again."""

    def change(folder: Path) -> None:
        made = anndata.read_h5ad(folder / "S1.h5ad")
        edited = edit(made)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names that are not unique are the point of some cases
            (edited if isinstance(edited, anndata.AnnData) else made).write_h5ad(folder / "S1.h5ad")

    return change


def then(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


def put(place: str, values: Any, **more: Any) -> Edit:
    """Replace a dataset and keep its attributes, or a group by an array."""

    def edit(file: Any) -> None:
        kept = {"encoding-type": "array", "encoding-version": "0.2.0"}
        if isinstance(file.get(place), h5py.Dataset):
            kept = dict(file[place].attrs)
        if place in file:
            del file[place]
        file.create_dataset(place, data=None if "shape" in more else values, **more).attrs.update(kept)

    return edit


def entries(name: str, work: Callable[[np.ndarray], Any]) -> Edit:
    """Replace data, indices or indptr of a sparse matrix by what `work` makes of it."""
    return lambda group: put(name, work(group[name][:]))(group)


def at(position: int, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def work(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.result_type(values.dtype, np.min_scalar_type(value)))
        values[position] = value
        return values

    return work


def attribute(name: str, value: Any) -> Edit:
    def edit(node: Any) -> None:
        del node.attrs[name]
        if value is not None:
            node.attrs[name] = value

    return edit


def drop(name: str) -> Edit:
    return lambda group: group.pop(name, None) if isinstance(group, dict) else group.__delitem__(name)


# Name -> edit of the group. The shape of the unchanged matrix is (16, 13).
SPARSE: dict[str, Edit] = {
    "data shorter": entries("data", lambda v: v[:-7]),
    "data longer": entries("data", lambda v: np.append(v, v[:5])),
    "data empty": entries("data", lambda v: v[:0]),
    "indices shorter": entries("indices", lambda v: v[:-1]),
    "indices longer": entries("indices", lambda v: np.append(v, v[:3])),
    "indptr shorter": entries("indptr", lambda v: v[:-1]),
    "indptr longer": entries("indptr", lambda v: np.append(v, v[-1])),
    "indptr of one entry": entries("indptr", lambda v: v[:1]),
    "indptr empty": entries("indptr", lambda v: v[:0]),
    "index -1": entries("indices", at(3, -1)),
    "index -5": entries("indices", at(0, -5)),
    "index just too large": entries("indices", at(-1, 16)),
    "index 10 million": entries("indices", at(5, 10**7)),
    "index of 64 bits": entries("indices", at(5, 2**40)),
    "indptr[1] = -4": entries("indptr", at(1, -4)),
    "indptr[1] too large": entries("indptr", at(1, 10**6)),
    "indptr falls": entries("indptr", lambda v: v[[0, 2, 1, *range(3, len(v))]]),
    "indptr starts at 1": entries("indptr", at(0, 1)),
    "indptr ends early": entries("indptr", lambda v: np.minimum(v, v[-1] - 4)),
    "indptr ends late": entries("indptr", at(-1, 10**4)),
    "indptr of 64 bits": entries("indptr", at(-2, 2**50)),
    "indices are text": entries("indices", lambda v: v.astype("S")),
    "indices are complex": entries("indices", lambda v: v.astype(complex)),
    "indices with a fraction": entries("indices", lambda v: v + 0.5),
    "indptr with NaN": entries("indptr", lambda v: at(2, np.nan)(v.astype(float))),
    "data are text": entries("data", lambda v: v.astype("S")),
    "data are complex": entries("data", lambda v: v + 1j),
    "data of two axes": entries("data", lambda v: v.reshape(-1, 1)),
    "indices of two axes": entries("indices", lambda v: v.reshape(1, -1)),
    "a single number as data": entries("data", lambda v: v[0]),
    "no data": drop("data"),
    "no indices": drop("indices"),
    "no indptr": drop("indptr"),
    "data is a group": lambda g: (drop("data")(g), g.create_group("data")),
    "no shape": attribute("shape", None),
    "shape of one row more": attribute("shape", [17, 13]),
    "shape of one gene more": attribute("shape", [16, 14]),
    "shape transposed": attribute("shape", [13, 16]),
    "shape negative": attribute("shape", [-16, 13]),
    "shape of three": attribute("shape", [16, 13, 1]),
    "shape is text": attribute("shape", "16 x 13"),
    "shape huge": attribute("shape", [2**40, 2**40]),
    "unknown encoding": attribute("encoding-type", "coo_matrix"),
    "count NaN": entries("data", at(3, np.nan)),
    "count infinite": entries("data", at(3, np.inf)),
    "count negative": entries("data", at(3, -2.0)),
    "count a half": entries("data", at(3, 0.5)),
    "count of 2^31": entries("data", at(3, 2.0**31)),
    "count 1e300": entries("data", lambda v: at(3, 1e300)(v.astype(float))),
}


def _csc(file: Any) -> None:
    matrix = sparse.csc_matrix(COUNTS.astype(np.float32))
    for name in ("data", "indices", "indptr"):
        put(f"X/{name}", getattr(matrix, name))(file)
    file["X"].attrs["encoding-type"] = "csc_matrix"


def _layer(file: Any) -> None:
    """Raw counts in layers['counts'] and their logarithm in X."""
    file.copy("X", file["layers"], name="counts")
    put("X/data", np.log1p(file["X/data"][:]))(file)


def _raw(file: Any) -> None:
    raw = file.create_group("raw")
    raw.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
    for name in ("X", "var"):
        file.copy(name, raw)
    put("X/data", np.log1p(file["X/data"][:]))(file)


def sparse_cases(chosen: slice = slice(None)) -> Iterator[Case]:
    """Every fault of a sparse matrix, for rows and columns, in X, layers and raw."""
    for name, edit in list(SPARSE.items())[chosen]:
        for kind, before, place, words in (
            ("csr", lambda file: None, "X", ()),
            ("csc", _csc, "X", ()),
            ("layer", _layer, "layers/counts", ()),
            ("raw", _raw, "raw/X", ("--counts-layer", "raw")),
        ):
            # The rows of the transposed matrix are the genes; 16 is a legal row there.
            if kind == "csc" and name in ("index just too large", "indptr ends early"):
                continue
            change = h5(lambda file, b=before, p=place, e=edit: (b(file), e(file[p])))
            yield Case(name=f"{kind}: {name}", change=change, says=r"S1\.h5ad", words=words)


def _external(file: Any) -> None:
    """A matrix whose bytes are those of another file."""
    secret = Path(file.filename).with_name("secret.bin")
    secret.write_bytes(bytes(range(256)) * 8)
    del file["X"]
    node = file.create_dataset(
        "X", (N_SPOTS, N_GENES), dtype="u1", external=[(str(secret), 0, N_SPOTS * N_GENES)]
    )
    node.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def _virtual(file: Any) -> None:
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as made:
        made["x"] = COUNTS
    layout = h5py.VirtualLayout((N_SPOTS, N_GENES), dtype="i8")
    layout[:] = h5py.VirtualSource(str(other), "x", shape=(N_SPOTS, N_GENES))
    del file["X"]
    file.create_virtual_dataset("X", layout).attrs.update(
        {"encoding-type": "array", "encoding-version": "0.2.0"}
    )


def _claim(place: str, shape: tuple[int, ...]) -> Edit:
    """A chunked array that claims a size without bytes behind it."""

    def edit(file: Any) -> None:
        if place in file:
            del file[place]
        node = file.create_dataset(
            place, shape, dtype="f4", chunks=tuple(min(n, 1000) for n in shape), fillvalue=1
        )
        node.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

    return edit


def _link(place: str, target: Any) -> Edit:
    def edit(file: Any) -> None:
        if place in file:
            del file[place]
        file[place] = target

    return edit


def _replaced(content: bytes) -> Change:
    return lambda folder: (folder / "S1.h5ad").write_bytes(content)


def _cut(share: float) -> Change:
    def change(folder: Path) -> None:
        content = (folder / "S1.h5ad").read_bytes()
        (folder / "S1.h5ad").write_bytes(content[: int(len(content) * share)])

    return change


def _gzipped(folder: Path) -> None:
    (folder / "S1.h5ad").write_bytes(gzip.compress((folder / "S1.h5ad").read_bytes()))


def _ten_x(folder: Path) -> None:
    matrix = sparse.csc_matrix(COUNTS.T)
    with h5py.File(folder / "S1.h5ad", "w") as file:
        for name in ("data", "indices", "indptr"):
            file[f"matrix/{name}"] = getattr(matrix, name)
        file["matrix/barcodes"], file["matrix/shape"] = np.array(IDS, "S"), matrix.shape
        for name in ("id", "name", "feature_type"):
            file[f"matrix/features/{name}"] = np.array(GENES, "S")


def _ids(work: Callable[[list[str]], list[Any]]) -> Change:
    def edit(made: Any) -> None:
        made.obs_names = pd.Index(work(list(made.obs_names)), dtype=object)

    return adata(edit)


FILE = {
    "empty file": _replaced(b""),
    "text": _replaced(b"barcode,x,y\n" * 40),
    "zeros": _replaced(bytes(4096)),
    "only the signature": _replaced(b"\x89HDF\r\n\x1a\n"),
    "signature and noise": _replaced(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 9),
    "an image": lambda f: shutil.copy(f / "images" / "S1.png", f / "S1.h5ad"),
    "a table": lambda f: shutil.copy(f / "S1.csv", f / "S1.h5ad"),
    "a ZIP": _replaced(b"PK\x03\x04" + bytes(60)),
    "gzipped": (_gzipped, r"gz|gunzip|compress"),
    "10x .h5": (_ten_x, r"10x|Ranger"),
    "first tenth": _cut(0.1),
    "first half": _cut(0.5),
    "all but the last byte": _cut(0.9999),
    "a folder": lambda f: ((f / "S1.h5ad").unlink(), (f / "S1.h5ad").mkdir()),
    "absent": lambda f: (f / "S1.h5ad").unlink(),
    "an empty HDF5": lambda f: h5py.File(f / "S1.h5ad", "w").close(),
    "no obs": h5(drop("obs")),
    "no var": h5(drop("var")),
    "obs is an array": h5(put("obs", np.zeros(3))),
    "obs is text": h5(put("obs", "obs")),
    "obs index names nothing": h5(lambda f: attribute("_index", "barcodes")(f["obs"])),
    "obs index is absent": h5(drop("obs/_index")),
    "obs index is a group": h5(lambda f: (drop("obs/_index")(f), f.create_group("obs/_index"))),
    "obs index too short": h5(put("obs/_index", list(IDS[:-1]))),
    "obs index too long": h5(put("obs/_index", [*IDS, "more"])),
    "obs index of two axes": h5(put("obs/_index", np.array(IDS, "S").reshape(4, 4))),
    "var index too short": h5(put("var/_index", list(GENES[:-1]))),
    "var index too long": h5(put("var/_index", [*GENES, "more"])),
    "no spots": adata(lambda a: a[:0].copy()),
    "ids repeated": (_ids(lambda ids: ["S1_1", *ids[1:]]), "S1_1"),
    "an empty id": _ids(lambda ids: ["", *ids[1:]]),
    "no id in common": (_ids(lambda ids: [f"other{i}" for i in range(len(ids))]), "other0"),
    "an id of 5 MB": (_ids(lambda ids: ["x" * 5_000_000, *ids[1:]]), "xxx"),
    "genes repeated": (h5(put("var/_index", ["GENE1", *GENES[1:]])), "GENE1"),
    "X is text": h5(put("X", "counts")),
    "X of one axis": h5(put("X", COUNTS.ravel())),
    "X of three axes": h5(put("X", COUNTS[None])),
    "X transposed": h5(put("X", COUNTS.T.copy())),
    "X complex": h5(put("X", COUNTS + 1j)),
    "X with NaN": h5(put("X", np.where(COUNTS == 3, np.nan, COUNTS))),
    "X of times": h5(put("X", COUNTS.astype("<i8").view("S8"))),
    "X is a dangling link": h5(_link("X", h5py.SoftLink("/nothing"))),
    "X is a link to itself": h5(_link("X", h5py.SoftLink("/X"))),
    "X in another file": h5(_link("X", h5py.ExternalLink("other.h5", "/X"))),
    "obs in another file": h5(_link("obs", h5py.ExternalLink("/etc/passwd", "/obs"))),
    "X of external bytes": h5(_external),
    "X is virtual": h5(_virtual),
    "X claims 10^14 values": h5(_claim("X", (10**7, 10**7))),
    "X claims a billion rows": h5(_claim("X", (10**9, N_GENES))),
    "ids claim a billion rows": h5(lambda f: put("obs/_index", None, shape=(10**9,), dtype="S4")(f)),
    "log-normalised": (adata(lambda a: setattr(a, "X", np.log1p(COUNTS))), "raw counts"),
    "scaled": (adata(lambda a: setattr(a, "X", COUNTS - COUNTS.mean(axis=0))), "raw counts"),
    "no such layer": (lambda f: None, "--counts-layer", {"words": ("--counts-layer", "spliced")}),
    "obs of another section": (adata(lambda a: a.obs.__setitem__("section", "C7")), "C7", {"words": ("--section", "S1")}),
    "two sections in obs": (adata(lambda a: a.obs.__setitem__("section", ["A", "B"] * 8)), "--section"),
    "two donors": (adata(lambda a: a.obs.__setitem__("donor", ["A", "B"] * 8)), "--donor"),
}  # fmt: skip


def _spatial(values: Any) -> Change:
    return h5(lambda file: put("obsm/spatial", values)(file))


def _library(**entries: Any) -> Change:
    def edit(made: Any) -> None:
        made.uns["spatial"] = {"S1": entries}

    return adata(edit)


def _mpp(value: Any) -> Change:
    return _library(metadata={"mpp": value})


PLACE = {
    "x and y exchanged": (_spatial(XY[:, ::-1].copy()), "--swap-xy"),
    "x and y exchanged, one NaN": (_spatial(np.where(XY[3] == XY, np.nan, XY)[:, ::-1].copy()), "--swap-xy"),
    "x and y exchanged, many NaN": (
        _spatial(np.where(np.arange(16)[:, None] % 3 == 1, np.nan, XY[:, ::-1])),
        "--swap-xy",
    ),
    "in µm": (_spatial(XY / MPP), "--coordinates um"),
    "in µm, one infinite": (_spatial(np.where(XY[5] == XY, np.inf, XY / MPP)), "--coordinates um"),
    "mpp zero": (_mpp(0.0), "mpp"),
    "mpp negative": (_mpp(-0.5), "mpp"),
    "mpp infinite": (_mpp(np.inf), "mpp"),
    "mpp NaN": (_mpp(np.nan), "mpp"),
    "mpp text": (_mpp("a half"), "mpp"),
    "mpp 500": (_mpp(500.0), "mpp"),
    "mpp a list": (_mpp(np.array([0.5, 0.5])), "mpp"),
    "mpp complex": (_mpp(np.complex128(0.5)), "mpp"),
    "no mpp": (_library(images=np.zeros(1)), "--mpp"),
    "hires factor zero": (_library(metadata={"mpp": MPP}, scalefactors={"tissue_hires_scalef": 0.0}), "hires"),
    "hires factor missing": (lambda f: None, "hires", {"words": ("--coordinates", "hires")}),
}  # fmt: skip


def bad_cases() -> Iterator[Case]:
    yield from cases("refused", FILE, says=r"S1\.h5ad|--h5ad")
    yield from cases("refused", PLACE)


def _in_place(*edits: Edit) -> Change:
    return h5(lambda file: [edit(file) for edit in edits])


def _dense(dtype: str) -> Change:
    return h5(put("X", COUNTS.astype(dtype)))


def _data(dtype: str) -> Change:
    return h5(lambda f: entries("data", lambda v: v.astype(dtype))(f["X"]))


def _foreign(path: str, **attributes: Any) -> Change:
    """Add a group that this anndata cannot read."""
    attributes = attributes or {"encoding-type": "from-the-future", "encoding-version": "9.0.0"}
    return h5(lambda file: file.create_group(path).attrs.update(attributes))


def _duplicated(file: Any) -> None:
    """Each count twice, the halves of it in another order: readers must add them."""
    group = file["X"]
    data, indices, indptr = (group[name][:] for name in ("data", "indices", "indptr"))
    rows = [slice(a, b) for a, b in itertools.pairwise(indptr)]
    small = np.minimum(data, 1)
    put("data", np.concatenate([np.r_[small[r], (data - small)[r][::-1]] for r in rows]))(group)
    put("indices", np.concatenate([np.r_[indices[r], indices[r][::-1]] for r in rows]))(group)
    put("indptr", indptr * 2)(group)


def _reversed(file: Any) -> None:
    group, pointers = file["X"], file["X/indptr"][:]
    rows = [slice(a, b) for a, b in itertools.pairwise(pointers)]
    for name in ("data", "indices"):
        entries(name, lambda v: np.concatenate([v[r][::-1] for r in rows]))(group)


def _legacy(file: Any) -> None:
    """A sparse matrix as anndata wrote it before 0.7."""
    group = file["X"]
    for name in list(group.attrs):
        del group.attrs[name]
    group.attrs.update({"h5sparse_format": "csr", "h5sparse_shape": [N_SPOTS, N_GENES]})


def _bytes_attributes(file: Any) -> None:
    def visit(_: str, node: Any) -> None:
        for name, value in list(node.attrs.items()):
            if isinstance(value, str):
                del node.attrs[name]
                node.attrs.create(name, np.bytes_(value))

    visit("", file)
    file.visititems(visit)


def _quiet(*args: Any, **more: Any) -> anndata.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return anndata.AnnData(*args, **more)


def _with_proteins(column: Any, names: Any = tuple(f"CD{j}.1" for j in range(3))) -> Change:
    def edit(made: Any) -> Any:
        wide = sparse.csr_matrix(np.hstack([np.full((N_SPOTS, 3), 977), COUNTS]).astype(np.int32))
        var = pd.DataFrame({"feature_types": column}, index=[*names, *GENES])
        return _quiet(wide, obs=made.obs, var=var, obsm=dict(made.obsm), uns=made.uns)

    return adata(edit)


_TYPES = ["Antibody Capture"] * 3 + ["Gene Expression"] * N_GENES


def _ids_of(values: Any, **more: Any) -> Change:
    return h5(put("obs/_index", values, **more))


def _csv_ids(ids: list[str]) -> Change:
    def change(folder: Path) -> None:
        table = pd.read_csv(folder / "S1.csv", dtype=str)
        table["spot_id"] = ids
        table.to_csv(folder / "S1.csv", index=False)

    return change


def _both_ids(ids: list[str]) -> Change:
    return then(_ids(lambda _: list(ids)), _csv_ids(list(ids)))


def _renamed(ids: list[str]) -> dict[str, Any]:
    return {"truth": {"ids": ids}}


_INT8, _BIG = np.minimum(COUNTS, 127), ">i4"
_NUMBERS = [str(1000 + i) for i in range(N_SPOTS)]
_WORDS = [
    "NA",
    "nan",
    "None",
    "TRUE",
    "1.0",
    "007",
    "1e5",
    "-1",
    "inf",
    "#N/A",
    "ü",
    "名",
    "a b",
    "'",
    'q"q',
    "x,y",
]

READ: dict[str, Any] = {
    **{f"dense {dtype}": _dense(dtype) for dtype in ("u1", "i2", "u8", "f2", "f4", "f8", ">i4", ">f8")},
    **{f"sparse {dtype}": _data(dtype) for dtype in ("i1", "u2", "i8", "u8", "f2", "f8", ">f4")},
    "columns": h5(_csc),
    "layer of counts": (h5(_layer), "", {"truth": {"place": "layers/counts"}}),
    "counts in raw": (h5(_raw), "", {"words": ("--counts-layer", "raw"), "truth": {"place": "raw/X"}}),
    "X asked for": (
        adata(lambda a: a.layers.__setitem__("counts", COUNTS / 7)),
        "",
        {"words": ("--counts-layer", "X")},
    ),
    "64-bit indices": h5(lambda f: [entries(n, lambda v: v.astype("i8"))(f["X"]) for n in ("indices", "indptr")]),
    "unsigned indices": h5(lambda f: [entries(n, lambda v: v.astype("u4"))(f["X"]) for n in ("indices", "indptr")]),
    "big-endian indices": h5(lambda f: [entries(n, lambda v: v.astype(">i4"))(f["X"]) for n in ("indices", "indptr")]),
    "16-bit indices": h5(lambda f: entries("indices", lambda v: v.astype("i2"))(f["X"])),
    "entries repeated": h5(_duplicated),
    "indices in falling order": h5(_reversed),
    "explicit zeros": (h5(lambda f: entries("data", at(4, 0.0))(f["X"])), "", {"truth": {"place": "X"}}),
    "a negative zero": (h5(lambda f: entries("data", at(4, -0.0))(f["X"])), "", {"truth": {"place": "X"}}),
    "compressed by gzip": h5(lambda f: put("X/data", f["X/data"][:], compression="gzip", chunks=(7,))(f["X"].file)),
    "compressed by lzf": h5(put("X", COUNTS, compression="lzf", shuffle=True, chunks=(3, 5))),
    "checksums": h5(put("X", COUNTS, fletcher32=True, chunks=(16, 1))),
    "dense by columns": h5(put("X", np.asfortranarray(COUNTS))),
    "a sparse matrix as before anndata 0.7": h5(_legacy),
    "attributes of fixed length": h5(_bytes_attributes),
    "unknown encoding in uns": _foreign("uns/later"),
    "unknown encoding in uns['spatial']": _foreign("uns/spatial/S1/later"),
    "unknown encoding in obsm": _foreign("obsm/later"),
    "unknown encoding in obsp": _foreign("obsp/later"),
    "unknown encoding in varm": _foreign("varm/later"),
    "unknown encoding in varp": _foreign("varp/later"),
    "unknown encoding in another layer": _foreign("layers/later"),
    "unknown encoding at the top": _foreign("later"),
    "unknown version in uns": _foreign("uns/later", **{"encoding-type": "dict", "encoding-version": "0.9.9"}),
    "awkward array in obsm": _foreign("obsm/awkward", **{"encoding-type": "awkward-array", "encoding-version": "0.1.0"}),
    "the file is of a later version": h5(lambda f: f.attrs.update({"encoding-version": "0.2.0"})),
    "obsm claims 14 x 80 million": h5(_claim("obsm/unused", (14, 80_000_000))),
    "uns claims 10^14 values": h5(_claim("uns/unused", (10**7, 10**7))),
    "a layer claims 10^14 values": h5(_claim("layers/unused", (10**7, 10**7))),
    "obsp claims 10^12 values": h5(_claim("obsp/unused", (10**6, 10**6))),
    "a link loop in uns": h5(_link("uns/loop", h5py.SoftLink("/uns"))),
    "a link to itself in uns": h5(_link("uns/loop", h5py.SoftLink("/uns/loop"))),
    "a dangling link in uns": h5(_link("uns/loop", h5py.SoftLink("/nowhere"))),
    "a link into another file in uns": h5(_link("uns/loop", h5py.ExternalLink("/etc/passwd", "/x"))),
    "a hard link from uns to the root": h5(lambda f: f["uns"].__setitem__("root", f["/"])),
    "deep uns": h5(lambda f: f.create_group("uns/" + "a/" * 300)),
    "no uns": h5(drop("uns"), ),
    "no obsp, varm, varp, layers": h5(lambda f: [drop(n)(f) for n in ("obsp", "varm", "varp", "layers")]),
    "uns is an array": (h5(put("uns", np.zeros(3))), "", {"words": ("--mpp", "0.5")}),
    "spatial in µm-free uns": (adata(lambda a: a.uns.pop("spatial") and None), "", {"words": ("--mpp", "0.5")}),
    "spatial of three columns": _spatial(np.c_[XY, np.full(16, 7.0)]),
    "spatial of whole numbers": _spatial(XY.astype("i4")),
    "spatial in single precision": _spatial(XY.astype("f4")),
    "spatial in half precision": _spatial(XY.astype("f2")),
    "spatial big-endian": _spatial(XY.astype(">f8")),
    "one NaN in spatial": _spatial(np.where(XY[3] == XY, np.nan, XY)),
    "all NaN in spatial": _spatial(np.full((16, 2), np.nan)),
    "no spatial": h5(drop("obsm/spatial")),
    "no obsm": h5(drop("obsm")),
    "spatial is a data frame": adata(
        lambda a: a.obsm.__setitem__("spatial", pd.DataFrame(XY, columns=["x", "y"], index=a.obs_names))
    ),
    "spatial is sparse": adata(lambda a: a.obsm.__setitem__("spatial", sparse.csr_matrix(XY))),
    "is_single beside the library": adata(lambda a: a.uns["spatial"].__setitem__("is_single", True)),
    "is_single first": adata(
        lambda a: a.uns.__setitem__("spatial", {"is_single": np.bool_(True), **a.uns["spatial"]})
    ),
    "a library of another name": (
        adata(lambda a: a.uns.__setitem__("spatial", {"V1_lib": a.uns["spatial"]["S1"]})),
        "",
        {"words": ("--section", "S1")},
    ),
    "mpp as an array of one": _mpp(np.array([MPP])),
    "mpp as text of a number": _mpp("0.5"),
    "mpp in single precision": _mpp(np.float32(MPP)),
    "antibodies in front": _with_proteins(_TYPES),
    "antibodies, categories": _with_proteins(pd.Categorical(_TYPES)),
    "antibodies named as genes": _with_proteins(_TYPES, ("GENE1", "GENE2", "GENE3")),
    "CRISPR guides and custom features": _with_proteins(["CRISPR Guide Capture", "Custom", "Peaks", *_TYPES[3:]]),
    "all features are genes": adata(lambda a: a.var.__setitem__("feature_types", "Gene Expression")),
    "ids as bytes": _ids_of(np.array(IDS, "S")),
    "ids as bytes of one length": _ids_of(np.array(IDS, "S40")),
    "ids as numbers": (then(_ids_of(np.arange(1000, 1016)), _csv_ids(_NUMBERS)), "", _renamed(_NUMBERS)),
    "ids that look like other things": (_both_ids(_WORDS), "", _renamed(_WORDS)),
    "ids of 300 letters": (_both_ids([f"{i:03}" * 100 for i in range(16)]), "", _renamed([f"{i:03}" * 100 for i in range(16)])),
    "obs without columns": adata(lambda a: setattr(a, "obs", a.obs[[]])),
    "an obs column of unknown encoding": h5(
        lambda f: f.create_group("obs/later").attrs.update(
            {"encoding-type": "from-the-future", "encoding-version": "9.0.0"}
        )
    ),
    "obs columns of odd names": adata(lambda a: [a.obs.__setitem__(n, 1.5) for n in ("..", ".x", "a\\b", "ü", "x", "spot_id")] and None),
    "an empty spot": (adata(lambda a: setattr(a, "X", COUNTS * (np.arange(16) != 3)[:, None])), "", {"truth": {"place": "X"}}),
    "large counts": (adata(lambda a: setattr(a, "X", COUNTS * 100_000_000)), "", {"truth": {"place": "X"}}),
    "one gene": (adata(lambda a: a[:, [3]].copy()), "", {"truth": {"genes": GENES[3:4], "counts": COUNTS[:, 3:4]}}),
    "genes of odd names": (
        h5(put("var/_index", [f"ü {j}/λ" for j in range(N_GENES)])),
        "",
        {"truth": {"genes": [f"ü {j}/λ" for j in range(N_GENES)]}},
    ),
    "no genes": (adata(lambda a: a[:, :0].copy()), "", {"truth": {"counts": None}}),
    "another order of the spots": (
        adata(lambda a: a[::-1].copy()), "", {"truth": {"ids": IDS[::-1], "counts": COUNTS[::-1], "xy": XY[::-1]}},
    ),
    "a view of some spots": (
        adata(lambda a: a[[2, 5, 11]].copy()), "",
        {"truth": {"ids": [IDS[i] for i in (2, 5, 11)], "counts": COUNTS[[2, 5, 11]], "xy": XY[[2, 5, 11]]}},
    ),
}  # fmt: skip
# Without a scale in the file, it is given.
READ["no uns"] = (READ["no uns"], "", {"words": ("--mpp", "0.5")})

EITHER: dict[str, Any] = {
    "obs without index attribute": h5(lambda f: attribute("_index", None)(f["obs"])),
    "obs index is a number": h5(lambda f: attribute("_index", 7)(f["obs"])),
    "spatial of one row less": (_spatial(XY[:-1]), "spatial"),
    "spatial of one column": (_spatial(XY[:, :1]), "spatial"),
    "spatial of one axis": (_spatial(XY[:, 0].copy()), "spatial"),
    "spatial complex": (_spatial(XY + 1j), "spatial"),
    "spatial is a group": (
        h5(lambda f: (drop("obsm/spatial")(f), f.create_group("obsm/spatial"))),
        "spatial",
    ),
    "spatial claims 14 x 80 million": (h5(_claim("obsm/spatial", (14, 80_000_000))), "spatial"),
    "spatial claims 10^12 rows": (h5(_claim("obsm/spatial", (10**12, 2))), "spatial"),
    "--mpp ten times too large": (_mpp(0.05), "--mpp", {"words": ("--mpp", "50"), "truth": {"mpp": 50.0}}),
    "boolean counts": (_dense("?"), r"S1\.h5ad", {"truth": {"place": "X"}}),
    "whole numbers as indices, floats": h5(lambda f: entries("indices", lambda v: v.astype(float))(f["X"])),
    "half-precision counts": _data("f2"),
    "long double counts": h5(put("X", COUNTS.astype("f8"))),
    "unknown version of X": h5(lambda f: attribute("encoding-version", "9.0.0")(f["X"])),
    "unknown version of obs": h5(lambda f: attribute("encoding-version", "9.0.0")(f["obs"])),
    "no encoding of X": h5(lambda f: attribute("encoding-type", None)(f["X"])),
    "spatial of text that are numbers": _spatial(XY.astype("S")),
    "spatial of text": _spatial(np.array([["pxl_col", "pxl_row"]] * 16, "S")),
    "spatial infinite": _spatial(np.full((16, 2), np.inf)),
    "spatial with a huge number": _spatial(np.where(XY[3] == XY, 1e300, XY)),
    "spatial of no columns": _spatial(np.zeros((16, 0))),
    "library is text": (adata(lambda a: a.uns.__setitem__("spatial", "S1")), "", {"words": ("--mpp", "0.5")}),
    "metadata is text": (_library(metadata="mpp"), "", {"words": ("--mpp", "0.5")}),
    "two libraries": (adata(lambda a: a.uns["spatial"].__setitem__("S2", {"metadata": {"mpp": 9.0}})), "mpp"),
    "obs column too short": h5(put("obs/batch", np.arange(3))),
    "obs column of two axes": h5(
        lambda f: (put("obs/wide", np.zeros((16, 2)))(f), f["obs"].attrs.update({"column-order": ["wide"]}))
    ),
    "no feature is a gene": adata(lambda a: a.var.__setitem__("feature_types", "Antibody Capture")),
    "feature types with gaps": _with_proteins([None, *_TYPES[1:]]),
    "X missing": (h5(drop("X")), "", {"truth": {"counts": None}}),
    "the index is categorical": h5(lambda f: (drop("obs/_index")(f), f.copy("obs/batch", "obs/_index"))),
    "column order names nothing": h5(lambda f: attribute("column-order", ["nothing"])(f["obs"])),
    "column order is missing": h5(lambda f: attribute("column-order", None)(f["obs"])),
    "codes beyond the categories": h5(put("obs/batch/codes", np.full(16, 100, "i1"))),
    "negative codes": h5(put("obs/batch/codes", np.full(16, -7, "i1"))),
}  # fmt: skip


def odd_cases() -> Iterator[Case]:
    yield from cases("read", READ)
    yield from cases("either", EITHER, says=r"S1\.h5ad|spatial|mpp|--")
