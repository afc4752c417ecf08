"""Bad and odd stores, checkpoints, adapters, foreign features with their coordinates, and measured parts of a section."""

import hashlib
import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from case_lab import Case, Change, cases

DEEP = 3000
N_TILES, DIM = 37, 8  # section S1 of the cohort
_PREDICT = ("predict", "--store", "st.zarr", "--section", "S3", "--ckpt", "tuned.safetensors")
PREDICT = (*_PREDICT, "--out-dir", "o", "--no-plots", "--device", "cpu")
_EMBED = ("embed", "--csv", "A.csv", "--root", "images", "--mpp", "0.5")
EMBED = (*_EMBED, "--tile-um", "16", "--store", "new.zarr")

Values = dict[str, Any]


def split(content: bytes) -> tuple[Values, bytes]:
    """Header and tensors of a safetensors file."""
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def join(header: Values | bytes, tensors: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + tensors


def header(edit: Callable[[Values], Any], name: str = "tuned.safetensors") -> Change:
    def change(folder: Path) -> None:
        found, tensors = split((folder / name).read_bytes())
        edit(found)
        (folder / name).write_bytes(join(found, tensors))

    return change


def meta(edit: Callable[[Values], Any], name: str = "tuned.safetensors") -> Change:
    """Edit SPAM's metadata of a checkpoint."""

    def change(found: Values) -> None:
        values = json.loads(found["__metadata__"]["spam"])
        edit(values)
        found["__metadata__"]["spam"] = json.dumps(values)

    return header(change, name)


def content(work: Callable[[bytes], bytes], name: str = "tuned.safetensors") -> Change:
    return lambda folder: (folder / name).write_bytes(work((folder / name).read_bytes()))


def setting(key: str, value: Any) -> Callable[[Values], None]:
    return lambda values: values.__setitem__(key, value)


def of_encoder(key: str, value: Any) -> Callable[[Values], None]:
    return lambda values: values["encoders"][0].__setitem__(key, value)


def _nested(depth: int = DEEP) -> Any:
    made: Any = 1
    for _ in range(depth):
        made = [made]
    return made


def _pickled(_: bytes) -> bytes:
    return pickle.dumps({"state_dict": [1, 2, 3]})


def _zipped(_: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    return buffer.getvalue()


def _each_tensor(work: Callable[[str, Values], Any]) -> Callable[[Values], None]:
    def edit(found: Values) -> None:
        for name in [key for key in found if key != "__metadata__"]:
            work(name, found)

    return edit


CHECKPOINT: dict[str, Any] = {
    "empty": content(lambda b: b""),
    "7 bytes": content(lambda b: b[:7]),
    "half": content(lambda b: b[: len(b) // 2]),
    "all but the last byte": content(lambda b: b[:-1]),
    "more bytes": content(lambda b: b + bytes(9)),
    "text": content(lambda b: b"checkpoint\n"),
    "zeros": content(lambda b: bytes(len(b))),
    "a pickle": content(_pickled),
    "a .pt": content(_zipped),
    "header of 2^63 bytes": content(lambda b: struct.pack("<Q", 2**63) + b[8:]),
    "header of 0 bytes": content(lambda b: struct.pack("<Q", 0) + b[8:]),
    "header that is not JSON": content(lambda b: join(b"{" * 64, split(b)[1])),
    "header of a deep list": content(lambda b: join(b"[" * 100_000, b"")),
    "no metadata": header(lambda h: h.pop("__metadata__")),
    "metadata of another program": header(lambda h: h.__setitem__("__metadata__", {"format": "pt"})),
    "metadata not JSON": header(lambda h: h["__metadata__"].__setitem__("spam", "{")),
    "metadata is a list": header(lambda h: h["__metadata__"].__setitem__("spam", "[]")),
    "metadata is a number": header(lambda h: h["__metadata__"].__setitem__("spam", "3")),
    "metadata is null": header(lambda h: h["__metadata__"].__setitem__("spam", "null")),
    "metadata is text": header(lambda h: h["__metadata__"].__setitem__("spam", '"spam-checkpoint"')),
    "metadata deep": header(lambda h: h["__metadata__"].__setitem__("spam", "[" * 100_000 + "]" * 100_000)),
    "metadata of 10^5000": header(lambda h: h["__metadata__"].__setitem__("spam", '{"version": 1' + "0" * 5000 + "}")),
    "metadata with a key more": meta(setting("more", 3)),
    "a deep field": meta(setting("settings", _nested(900))),
    "version 4": meta(setting("version", 4)),
    "version 999": meta(setting("version", 999)),
    "version 5.0": (meta(setting("version", 5.5)), ""),
    "version of 5 MB": meta(setting("version", "v" * 5_000_000)),
    "stage unknown": meta(setting("stage", "inference")),
    "stage pretrain": meta(setting("stage", "pretrain")),
    "stage of 5 MB": meta(setting("stage", "s" * 5_000_000)),
    "depth NaN": meta(setting("depth", float("nan"))),
    "depth infinite": meta(setting("depth", float("inf"))),
    "depth 0": meta(setting("depth", 0.0)),
    "depth -3": meta(setting("depth", -3.0)),
    "epoch -1": meta(setting("epoch", -1)),
    "no genes": meta(setting("genes", [])),
    "a gene less": meta(lambda v: v["genes"].pop()),
    "a gene more": meta(lambda v: v["genes"].append("MORE")),
    "a gene twice": meta(lambda v: v["genes"].__setitem__(0, v["genes"][1])),
    "genes are numbers": meta(lambda v: v.__setitem__("genes", list(range(len(v["genes"]))))),
    "a gene null": meta(lambda v: v["genes"].__setitem__(0, None)),
    "genes that no section has": (meta(lambda v: v.__setitem__("genes", [f"Q{i}" for i in range(len(v["genes"]))])), "", {"outcome": "either"}),
    "no feature keys": meta(setting("feature_keys", [])),
    "no features": meta(lambda v: v.update({key: [] for key in ("feature_keys", "tiles", "feature_dims", "encoders")})),
    "an encoder without a name": meta(of_encoder("name", None)),
    "another feature key": (meta(lambda v: v["feature_keys"].__setitem__(0, "other_112um|digest")), "other_112um|digest"),
    "no feature dims": meta(setting("feature_dims", [])),
    "negative feature dims": meta(lambda v: v.__setitem__("feature_dims", [-n for n in v["feature_dims"]])),
    "huge feature dims": meta(lambda v: v.__setitem__("feature_dims", [10**9 for n in v["feature_dims"]])),
    "feature dims of another encoder": meta(lambda v: v.__setitem__("feature_dims", [n + 1 for n in v["feature_dims"]])),
    "no tiles": meta(setting("tiles", [])),
    "tiles null": meta(setting("tiles", [None, None])),
    "tiles empty": meta(setting("tiles", [{}, {}])),
    "no settings": meta(setting("settings", {})),
    "another encoder": (meta(of_encoder("name", "virchow2|digest")), "virchow2|digest"),
    "other weights": meta(of_encoder("weights_sha256", "cd" * 32)),
    "no tensors": header(_each_tensor(lambda name, h: h.pop(name))),
    "half of the tensors": header(_each_tensor(lambda name, h: h.pop(name) if hash(name[-3:] + name[:5]) % 1 == 0 and len(name) % 2 else None)),
    "tensors of another name": header(_each_tensor(lambda name, h: h.__setitem__("x." + name, h.pop(name)))),
    "tensors of another type": header(_each_tensor(lambda name, h: h[name].__setitem__("dtype", "I32") if h[name]["dtype"] == "F32" else None)),
    "tensors of one axis": header(_each_tensor(lambda name, h: h[name].__setitem__("shape", [int(np.prod(h[name]["shape"]))]))),
    "tensors transposed": header(_each_tensor(lambda name, h: h[name]["shape"].reverse())),
    "tensors that overlap": header(_each_tensor(lambda name, h: h[name].__setitem__("data_offsets", [0, h[name]["data_offsets"][1] - h[name]["data_offsets"][0]]))),
    "tensors beyond the end": header(_each_tensor(lambda name, h: h[name].__setitem__("data_offsets", [n + 10**9 for n in h[name]["data_offsets"]]))),
    "tensors of NaN": content(lambda b: join(split(b)[0], b"\x00\x00\xc0\x7f" * (len(split(b)[1]) // 4) + split(b)[1][len(split(b)[1]) // 4 * 4 :])),
    "tensors of type BF16": header(_each_tensor(lambda name, h: h[name].update(dtype="BF16", shape=[2 * int(np.prod(h[name]["shape"]))]) if h[name]["dtype"] == "F32" else None)),
    "the other stage": lambda f: shutil.copy(f / "aligned.safetensors", f / "tuned.safetensors"),
    "a folder": lambda f: ((f / "tuned.safetensors").unlink(), (f / "tuned.safetensors").mkdir()),
    "absent": lambda f: (f / "tuned.safetensors").unlink(),
    "a link to itself": lambda f: ((f / "tuned.safetensors").unlink(), (f / "tuned.safetensors").symlink_to("tuned.safetensors")),
    "the h5ad": lambda f: shutil.copy(f / "panel.h5ad", f / "tuned.safetensors"),
}  # fmt: skip


def checkpoint_cases() -> Iterator[Case]:
    yield from _prefixed(
        "checkpoint", cases("refused", CHECKPOINT, says=r"tuned\.safetensors|--ckpt", words=PREDICT)
    )


def _prefixed(prefix: str, found: Any) -> Iterator[Case]:
    import dataclasses

    for case in found:
        yield dataclasses.replace(case, name=f"{prefix}: {case.name}")


def edited_json(name: str, edit: Callable[[Values], Any]) -> Change:
    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        edit(values)
        (folder / name).write_text(json.dumps(values))

    return change


def _digest_again(folder: Path) -> None:
    """Compute the digest of an edited adapter, as documented, so that it is not the digest that refuses it."""
    left_out = {
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version"),
        *("revision", "task_type"),
    }
    config = json.loads((folder / "lora/adapter_config.json").read_text())
    digest = hashlib.sha256((folder / "lora/adapter_model.safetensors").read_bytes())
    if isinstance(config, dict):
        kept = {key: value for key, value in config.items() if key not in left_out}
        digest.update(json.dumps(kept, sort_keys=True).encode())
    card = json.loads((folder / "lora/spam_adapter.json").read_text())
    card["adapter_sha256"] = digest.hexdigest()
    (folder / "lora/spam_adapter.json").write_text(json.dumps(card))


def _forged(change: Change) -> Change:
    return lambda folder: (change(folder), _digest_again(folder))


CARD, CONFIG, WEIGHTS = (
    f"lora/{n}" for n in ("spam_adapter.json", "adapter_config.json", "adapter_model.safetensors")
)
ADAPTER: dict[str, Any] = {
    **{f"no {name[5:]}": lambda f, n=name: (f / n).unlink() for name in (CARD, CONFIG, WEIGHTS)},
    **{
        f"{name[5:]} {words}": content(work, name)
        for name in (CARD, CONFIG, WEIGHTS)
        for words, work in {
            "empty": lambda b: b"",
            "cut": lambda b: b[: len(b) // 2],
            "noise": lambda b: bytes(range(256)),
            "deep": lambda b: b"[" * 100_000 + b"]" * 100_000,
            "a list": lambda b: b"[]",
            "null": lambda b: b"null",
        }.items()
    },
    "a byte of the weights flipped": content(lambda b: b[:-5] + bytes([b[-5] ^ 1]) + b[-4:], WEIGHTS),
    "a file as the folder": lambda f: (shutil.rmtree(f / "lora"), (f / "lora").write_text("x")),
    "an empty folder": lambda f: (shutil.rmtree(f / "lora"), (f / "lora").mkdir()),
    **{
        f"config: {key} = {value!r}": _forged(
            edited_json(CONFIG, lambda v, k=key, x=value: v.__setitem__(k, x))
        )
        for key, value in (
            ("r", -1), ("r", 0), ("r", 10**9), ("r", "eight"), ("r", None), ("lora_alpha", "x"), ("lora_alpha", None),
            ("target_modules", []), ("target_modules", "nothing"), ("target_modules", "("), ("target_modules", 3),
            ("peft_type", "NONSENSE"), ("peft_type", None), ("use_dora", True), ("layers_to_transform", [99]),
            ("rank_pattern", {".*": 3}), ("rank_pattern", 3), ("more", 1), ("modules_to_save", ["head"]),
            ("auto_mapping", {"base_model_class": "os.system"}), ("init_lora_weights", "pissa"), ("fan_in_fan_out", "x"),
        )
    },
    "weights without tensors": _forged(header(_each_tensor(lambda name, h: h.pop(name)), WEIGHTS)),
    "weights of other names": _forged(header(_each_tensor(lambda name, h: h.__setitem__("x" + name, h.pop(name))), WEIGHTS)),
    "weights transposed": _forged(header(_each_tensor(lambda name, h: h[name]["shape"].reverse()), WEIGHTS)),
    "weights of NaN": _forged(content(lambda b: join(split(b)[0], b"\x00\x00\xc0\x7f" * (len(split(b)[1]) // 4)), WEIGHTS)),
}  # fmt: skip


def adapter_cases() -> Iterator[Case]:
    import dataclasses

    words = (*EMBED, "--lora", "lora")
    for case in cases("refused", ADAPTER, says="lora", words=words):
        may = any(
            part in case.name for part in ("more", "use_dora", "layers_to", "rank_pattern", "auto_mapping")
        )
        may = may or any(
            part in case.name for part in ("init_lora", "fan_in", "modules_to_save", "peft_type")
        )
        yield dataclasses.replace(case, name=f"adapter: {case.name}", outcome="either" if may else "refused")


def _root(edit: Callable[[Values], Any]) -> Change:
    return edited_json("st.zarr/zarr.json", edit)


def _index(edit: Callable[[Values], Any]) -> Change:
    return edited_json("st.zarr/S1/zarr.json", edit)


def _packed(make: Callable[[zipfile.ZipFile, Path], Any]) -> Change:
    def change(folder: Path) -> None:
        with zipfile.ZipFile(folder / "st.zip", "w") as archive:
            make(archive, folder / "st.zarr")
        shutil.rmtree(folder / "st.zarr")
        (folder / "st.zip").rename(folder / "st.zarr")

    return change


def _add_all(archive: zipfile.ZipFile, store: Path, **more: Any) -> None:
    for path in sorted(store.rglob("*")):
        if path.is_file() and ".locks" not in path.parts:
            archive.write(path, path.relative_to(store).as_posix(), **more)


INFO = ("store", "info", "st.zarr")
STORE: dict[str, Any] = {
    "root empty": content(lambda b: b"", "st.zarr/zarr.json"),
    "root cut": content(lambda b: b[: len(b) // 2], "st.zarr/zarr.json"),
    "root noise": content(lambda b: bytes(range(256)), "st.zarr/zarr.json"),
    "root UTF-16": content(lambda b: b.decode().encode("utf-16"), "st.zarr/zarr.json"),
    "root is a list": content(lambda b: b"[]", "st.zarr/zarr.json"),
    "root is null": content(lambda b: b"null", "st.zarr/zarr.json"),
    "root is {}": content(lambda b: b"{}", "st.zarr/zarr.json"),
    "root deep": content(lambda b: b"[" * 100_000 + b"]" * 100_000, "st.zarr/zarr.json"),
    "root with an integer of 5,000 digits": content(lambda b: b'{"zarr_format": 1' + b"0" * 5000 + b"}", "st.zarr/zarr.json"),
    "root without attributes": _root(lambda v: v.pop("attributes")),
    "root attributes null": _root(setting("attributes", None)),
    "root attributes a list": _root(setting("attributes", [])),
    "root zarr_format 2": _root(setting("zarr_format", 2)),
    "root an array": _root(setting("node_type", "array")),
    **{
        f"root {key} = {str(value)[:12]!r}": _root(lambda v, k=key, x=value: v["attributes"].__setitem__(k, x))
        for key, value in (
            ("spam_format", None), ("spam_format", "other"), ("spam_format", 3), ("spam_version", None),
            ("spam_version", 1), ("spam_version", 999), ("spam_version", "2"), ("spam_version", [2]),
            ("spam_version", 10**30), ("spam", None), ("spam", []), ("spam", {}), ("spam", {"sections": "S1"}),
            ("spam", {"sections": [None]}), ("spam", {"sections": ["../x"]}), ("spam", {"digest": 3}),
        )
    },
    "section empty": content(lambda b: b"", "st.zarr/S1/zarr.json"),
    "section cut": content(lambda b: b[: len(b) // 2], "st.zarr/S1/zarr.json"),
    "section noise": content(lambda b: bytes(range(256)), "st.zarr/S1/zarr.json"),
    "section is a list": content(lambda b: b"[]", "st.zarr/S1/zarr.json"),
    "section deep": content(lambda b: b"[" * 100_000 + b"]" * 100_000, "st.zarr/S1/zarr.json"),
    "section with a flipped byte": content(lambda b: b.replace(b'"n_spots": 37', b'"n_spots": 36').replace(b'"n_spots":37', b'"n_spots":36'), "st.zarr/S1/zarr.json"),
    "section attributes null": _index(setting("attributes", None)),
    "section spam null": _index(lambda v: v["attributes"].__setitem__("spam", None)),
    "section meta null": _index(lambda v: v["attributes"]["spam"].__setitem__("meta", None)),
    "section files null": _index(lambda v: v["attributes"]["spam"].__setitem__("files", None)),
    "section digest null": _index(lambda v: v["attributes"]["spam"].__setitem__("digest", None)),
    "a file": lambda f: (shutil.rmtree(f / "st.zarr"), (f / "st.zarr").write_bytes(b"x")),
    "an empty file": lambda f: (shutil.rmtree(f / "st.zarr"), (f / "st.zarr").touch()),
    "an empty folder": lambda f: (shutil.rmtree(f / "st.zarr"), (f / "st.zarr").mkdir()),
    "absent": lambda f: shutil.rmtree(f / "st.zarr"),
    "a link to itself": lambda f: (shutil.rmtree(f / "st.zarr"), (f / "st.zarr").symlink_to("st.zarr")),
    "packed, cut": lambda f: (_packed(_add_all)(f), content(lambda b: b[: len(b) // 2], "st.zarr")(f)),
    "packed, the end cut": lambda f: (_packed(_add_all)(f), content(lambda b: b[:-10], "st.zarr")(f)),
    "packed, nothing in it": _packed(lambda archive, store: None),
    "packed, without the root": _packed(lambda archive, store: archive.write(store / "S1" / "zarr.json", "S1/zarr.json")),
    "packed, in a folder": _packed(lambda archive, store: [archive.write(p, f"st.zarr/{p.relative_to(store)}") for p in store.rglob("zarr.json")]),
    "packed, with ..": _packed(lambda archive, store: (_add_all(archive, store), archive.writestr("../../evil", "x"))),
    "packed, compressed": _packed(lambda archive, store: _add_all(archive, store, compress_type=zipfile.ZIP_DEFLATED)),
    "packed, the root a bomb": _packed(lambda archive, store: archive.writestr("zarr.json", b" " * 500_000_000, zipfile.ZIP_DEFLATED)),
}  # fmt: skip


def store_cases() -> Iterator[Case]:
    import dataclasses

    for case in cases("refused", STORE, says=r"st\.zarr|S1", words=INFO):
        may = any(part in case.name for part in ("with ..", "compressed"))
        yield dataclasses.replace(case, name=f"store: {case.name}", outcome="either" if may else "refused")


IMPORT = ("store", "import", "st.zarr")
_OPTIONS = ("--section", "S1", "--enc-name", "mine", "--tile-um", "112")
_NPY = (*IMPORT, "f.npy", "--coordinates", "ids.csv", *_OPTIONS)
FEATURES = np.random.default_rng(3).normal(size=(N_TILES, DIM)).astype(np.float32)
FEATURE_IDS = [f"S1_{i}" for i in range(N_TILES)]


def npy(
    values: Any = FEATURES, edit: Callable[[bytes], bytes] = lambda b: b, ids: Any = FEATURE_IDS
) -> Change:
    def change(folder: Path) -> None:
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=True)
        (folder / "f.npy").write_bytes(edit(buffer.getvalue()))
        text = ids if isinstance(ids, str) else "spot_id\n" + "".join(f"{x}\n" for x in ids)
        (folder / "ids.csv").write_text(text)

    return change


def _npy_header(text: str, rest: bytes = b"") -> Change:
    body = text.encode().ljust(117) + b"\n"
    return npy(edit=lambda b: b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body + (rest or b[128:]))


NPY: dict[str, Any] = {
    "empty": npy(edit=lambda b: b""),
    "cut": npy(edit=lambda b: b[:-3]),
    "half": npy(edit=lambda b: b[: len(b) // 2]),
    "noise": npy(edit=lambda b: b[:8] + bytes(range(256))),
    "objects": npy(np.array([{"a": 1}] * N_TILES, dtype=object)),
    "text": npy(np.array(["x"] * N_TILES)),
    "whole numbers": npy(FEATURES.astype(int)),
    "complex": npy(FEATURES + 1j),
    "records": npy(np.zeros(N_TILES, dtype=[("a", "f4"), ("b", "f4")])),
    "one axis": npy(FEATURES[:, 0]),
    "three axes": npy(FEATURES.reshape(N_TILES, 2, 4)),
    "no columns": npy(FEATURES[:, :0]),
    "no rows": npy(FEATURES[:0]),
    "a number": npy(np.float32(3)),
    "NaN": npy(np.where(FEATURES > 2, np.nan, FEATURES)),
    "infinite": npy(np.where(FEATURES > 2, np.inf, FEATURES)),
    "infinite in float32": npy(FEATURES.astype("f8") * 1e300),
    "a row less": npy(FEATURES[:-1]),
    "a row more": npy(np.vstack([FEATURES, FEATURES[:1]])),
    "a claim of 10^14": _npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000, 10000000), }"),
    "a negative shape": _npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-37, -8), }"),
    "a header of code": _npy_header("__import__('os').system('true')"),
    "a header of deep brackets": _npy_header("(" * 100),
    "a header of an object": _npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (37, 8), }"),
    "version 9": npy(edit=lambda b: b[:6] + b"\x09\x00" + b[8:]),
    "ids twice": npy(ids=["S1_0", *FEATURE_IDS[:-1]]),
    "ids empty": npy(ids=["", *FEATURE_IDS[1:]]),
    "ids of others": npy(ids=[f"q{i}" for i in range(N_TILES)]),
    "one id of others": npy(ids=["q", *FEATURE_IDS[1:]]),
    "ids too few": npy(ids=FEATURE_IDS[:-1]),
    "ids of 5 MB": npy(ids=["w" * 5_000_000, *FEATURE_IDS[1:]]),
    "no column of ids": npy(ids="name\n" + "x\n" * N_TILES),
    "coordinates empty": npy(ids=""),
    "coordinates of text": npy(ids="x,y\n" + "a,b\n" * N_TILES),
    "coordinates far away": npy(ids="x,y\n" + "".join(f"{i},99999\n" for i in range(N_TILES))),
    "coordinates equal": npy(ids="x,y\n" + "5,5\n" * N_TILES),
    "coordinates infinite": npy(ids="x,y\n" + "inf,5\n" * N_TILES),
    "coordinates are the features": (npy(), "f.npy", {"words": (*IMPORT, "f.npy", "--coordinates", "f.npy", *_OPTIONS)}),
    "no coordinates": (npy(), "--coordinates", {"words": (*IMPORT, "f.npy", *_OPTIONS)}),
    "--key of an array": (npy(), "--key", {"words": (*_NPY, "--key", "x")}),
    "another section": (npy(), "S9", {"words": (*IMPORT, "f.npy", "--coordinates", "ids.csv", "--section", "S9", "--enc-name", "m")}),
    "no tile size": (npy(), "--tile-um", {"words": (*IMPORT, "f.npy", "--coordinates", "ids.csv", "--section", "S1", "--enc-name", "m")}),
    "no encoder": (npy(), "--enc-name", {"words": (*IMPORT, "f.npy", "--coordinates", "ids.csv", "--section", "S1", "--tile-um", "112")}),
}  # fmt: skip
NPY_READ: dict[str, Any] = {
    "plain": npy(),
    "by columns": npy(np.asfortranarray(FEATURES)),
    "big-endian": npy(FEATURES.astype(">f4")),
    "double": npy(FEATURES.astype("f8")),
    "half": npy(FEATURES.astype("f2")),
    "rows in another order": npy(FEATURES[::-1], ids=FEATURE_IDS[::-1]),
}


def hdf5(edit: Callable[[Any], Any], ids: Any = None) -> Change:
    """CLAM's layout: features and corners."""

    def change(folder: Path) -> None:
        xy = np.load(folder / "xy.npy")
        with h5py.File(folder / "f.h5", "w") as file:
            file["features"] = FEATURES
            file["coords"] = np.rint(xy - 112).astype(np.int64)
            file["coords"].attrs.update(patch_size=224, patch_level=0)
            edit(file)

    return change


def _put(name: str, values: Any) -> Callable[[Any], Any]:
    def edit(file: Any) -> None:
        kept = dict(file[name].attrs)
        del file[name]
        file[name] = values(FEATURES) if callable(values) else values
        file[name].attrs.update(kept)

    return edit


def _attr(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda file: file["coords"].attrs.__setitem__(name, value)


def _huge(name: str) -> Callable[[Any], Any]:
    def edit(file: Any) -> None:
        del file[name]
        file.create_dataset(name, (10**9, 10**4), "f4", chunks=(10, 10))

    return edit


HDF5: dict[str, Any] = {
    "no features": hdf5(lambda f: f.__delitem__("features")),
    "no coordinates": hdf5(lambda f: f.__delitem__("coords")),
    "features a group": hdf5(lambda f: (f.__delitem__("features"), f.create_group("features"))),
    "features text": hdf5(_put("features", "text")),
    "features claim 10^13": hdf5(_huge("features")),
    "coordinates claim 10^13": hdf5(_huge("coords")),
    "a row less": hdf5(_put("features", lambda v: v[:-1])),
    "coordinates of one column": hdf5(_put("coords", np.zeros((N_TILES, 1)))),
    "coordinates of three columns": hdf5(_put("coords", np.zeros((N_TILES, 3)))),
    "coordinates equal": hdf5(_put("coords", np.zeros((N_TILES, 2), int))),
    "coordinates NaN": hdf5(_put("coords", np.full((N_TILES, 2), np.nan))),
    "coordinates moved": hdf5(lambda f: f["coords"].__setitem__((...,), f["coords"][...] + 5000)),
    "tile size 0": hdf5(_attr("patch_size", 0)),
    "tile size -224": hdf5(_attr("patch_size", -224)),
    "tile size NaN": hdf5(_attr("patch_size", np.nan)),
    "tile size infinite": hdf5(_attr("patch_size", np.inf)),
    "features a link to another file": hdf5(
        lambda f: (f.__delitem__("features"), f.__setitem__("features", h5py.ExternalLink("x.h5", "/x")))
    ),
    "features a link to themselves": hdf5(
        lambda f: (f.__delitem__("features"), f.__setitem__("features", h5py.SoftLink("/features")))
    ),
    "cut": lambda f: (hdf5(lambda x: None)(f), content(lambda b: b[: len(b) // 2], "f.h5")(f)),
}


def feature_cases() -> Iterator[Case]:
    yield from _prefixed("npy", cases("refused", NPY, says=r"f\.npy|ids\.csv", words=_NPY))
    yield from _prefixed("hdf5", cases("refused", HDF5, says=r"f\.h5", words=(*IMPORT, "f.h5", *_OPTIONS)))
