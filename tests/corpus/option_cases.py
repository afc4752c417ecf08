"""Choices and names that no command may accept; recipes in TOML that are not what they should be."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from case_lab import Case, cases

_FINETUNE = ("finetune", "--store", "st.zarr", "--save-dir", "o", "--config", "r.toml")
_EMBED = (*("embed", "--csv", "S1.csv", "--root", "images", "--store", "new.zarr"), "--config", "r.toml")


def toml(content: str | bytes) -> Any:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / "r.toml").write_bytes(data)


RECIPES: dict[str, Any] = {
    "values nested 5,000 deep": toml("epochs = " + "[" * 5000 + "]" * 5000),
    "tables nested 5,000 deep": toml("[" + ".".join("a" * 5000) + "]\nepochs = 3"),
    "inline tables nested 5,000 deep": toml("epochs = " + "{a=" * 5000 + "1" + "}" * 5000),
    "an integer of 5,000 digits": toml("epochs = " + "9" * 5000),
    "a float of 5,000 digits": toml("lr = 0." + "9" * 5000 + "e400"),
    "a list for a choice": (toml('likelihood = ["zinb"]'), "likelihood"),
    "a table for a choice": (toml("likelihood = {zinb = true}"), "likelihood"),
    "a number for a choice": (toml("likelihood = 3"), "likelihood"),
    "an unknown choice": (toml('likelihood = "normal"'), "likelihood"),
    "a choice of 5 MB": (toml(f'likelihood = "{"z" * 5_000_000}"')),
    "an option with - and _": (toml("weight-decay = 0.1\nweight_decay = 0.2"), "weight.decay"),
    "an option twice": toml("epochs = 3\nepochs = 4"),
    "unknown option": (toml("epoch = 3"), "epochs"),
    "unknown option of 5 MB": toml(f"{'k' * 5_000_000} = 3"),
    "1,000 unknown options": toml("".join(f"o{i} = 3\n" for i in range(1000))),
    "an empty key": toml('"" = 3'),
    "a key with control letters": toml('"\\u001b[31mepochs" = 3'),
    "text for a number": (toml('epochs = "3"'), "epochs"),
    "truth for a number": (toml("epochs = true"), "epochs"),
    "a float for a whole number": (toml("epochs = 3.0"), "epochs"),
    "a date for a number": (toml("epochs = 2024-01-01"), "epochs"),
    "a time for a number": (toml("lr = 07:32:00"), "lr"),
    "a list for a number": (toml("epochs = [3]"), "epochs"),
    "a table for a number": (toml("[epochs]\na = 3"), "epochs"),
    "a number for text": (toml("enc_name = 3"), "enc.name"),
    "a number for a list": (toml("sections = 3"), "sections"),
    "numbers in a list of names": (toml("sections = [1, 2]"), "sections"),
    "a list of lists": (toml('sections = [["S1"]]'), "sections"),
    "a number for truth": (toml("dihedral = 1"), "dihedral"),
    "text for truth": (toml('dihedral = "yes"'), "dihedral"),
    "nan": (toml("lr = nan"), "lr"),
    "inf": (toml("weight_decay = inf"), "weight.decay"),
    "minus infinity": (toml("dropout = -inf"), "dropout"),
    "2^63 - 1": (toml(f"epochs = {2**63 - 1}"), "epochs"),
    "2^63": toml(f"epochs = {2**63}"),
    "not TOML": toml("epochs: 3"),
    "JSON": toml('{"epochs": 3}'),
    "UTF-16": toml("epochs = 3".encode("utf-16")),
    "NUL": toml(b"epochs = 3\x00"),
    "noise": toml(bytes(range(256))),
    "an image": lambda f: (f / "r.toml").write_bytes((f / "images" / "S1.png").read_bytes()),
    "a string that is not closed": toml('enc_name = "x'),
    "absent": (lambda f: None, r"r\.toml"),
    "a folder": (lambda f: (f / "r.toml").mkdir(), r"r\.toml"),
    "the store is a number": (toml("store = 3"), "store", {"words": ("finetune", "--save-dir", "o", "--config", "r.toml")}),
    "the store is a list": (toml('store = ["st.zarr"]'), "store", {"words": ("finetune", "--save-dir", "o", "--config", "r.toml")}),
    "config in a config": (toml('config = "r.toml"'), "config"),
    "help in a config": (toml("help = true"), "help"),
    "json in a config": (toml("json = true"), "json"),
}  # fmt: skip
_PLAIN = ("embed", "--h5ad", "S1.h5ad", "--csv", "S1.csv", "--root", "images", "--store", "new.zarr")
NAMES = {
    "zarr.json": "zarr.json",
    "300 letters": "s" * 300,
    "300 letters of two bytes": "ü" * 150,
    "5,000 letters": "s" * 5000,
    "..": "..",
    ".": ".",
    "hidden": ".hidden",
    "locks": ".locks",
    "unfinished": ".unfinished-x",
    "dunder": "__x",
    "slash": "a/b",
    "backslash": "a\\b",
    "absolute": "/tmp/x",
    "line end": "a\nb",
    "tab": "a\tb",
    "escape": "\x1b[31mred",
    "right-to-left mark": "a\u202eb",
    "surrogate": "a\udcffb",
    "zero-width": "\u200b",
    "README.md": "README.md",
}
GIVEN: dict[str, Any] = {
    "--tile-um 112 224 without a comma": (("--tile-um", "16", "32"), ","),
    "--tile-um and --tile-px": (("--tile-um", "16", "--tile-px", "32"), "--tile-px"),
    "--shard 0/3": (("--shard", "0/3"), "--shard"),
    "--shard 4/3": (("--shard", "4/3"), "--shard"),
    "--shard of 10^30": (("--shard", f"1/{10**30}"), "--shard"),
    "--device tpu": (("--device", "tpu"), "--device"),
    "--device cuda:99": (("--device", "cuda:99"), "cuda"),
    "--enc-name of nothing": (("--enc-name", "no_such"), "no_such"),
    "--enc-name of 5,000 letters": (("--enc-name", "e" * 5000), "--enc-name|encoder"),
    "--enc-name empty": (("--enc-name", ""), "--enc-name|encoder"),
    "--enc-name local: nothing": (("--enc-name", "local:/nowhere"), "nowhere"),
    "--enc-name timm: nothing": (("--enc-name", "timm:no_such_model"), "no_such_model"),
    "--enc-name with ..": (("--enc-name", "hf-hub:../../etc"), "etc"),
    "--lora of nothing": (("--lora", "nowhere"), "nowhere"),
    "--lora of a file": (("--lora", "S1.csv"), "S1.csv"),
    "--h5ad is a folder": (("--h5ad", "images"), "images"),
    "--csv is a folder": (("--csv", "images"), "images"),
    "--root is a file": (("--root", "S1.csv"), "--root"),
    "--store is a file": (("--store", "S1.csv"), "S1.csv"),
    "--store below a file": (("--store", "S1.csv/st.zarr"), "S1.csv"),
    "--store is a folder of other things": (("--store", "images"), "images"),
    "--store an address": (("--store", "s3://bucket/x.zarr"), "--store"),
    "--counts-layer empty": (("--counts-layer", "spliced"), "--counts-layer"),
    "--tiles grid and --csv": (("--tiles", "grid"), "--csv"),
    "--stride-um without a grid": (("--stride-um", "30"), "--stride-um"),
    "--coordinates miles": (("--coordinates", "miles"), "--coordinates"),
    "--dtype int8": (("--dtype", "int8"), "--dtype"),
    "--tile-um that is larger than the slide": (("--tile-um", "99999"), "99999|tile"),
    "--tile-um of a hundredth of a pixel": (("--tile-um", "0.005"), "--tile-um|tile"),
    "--mpp 69 for 0.69": (("--mpp", "6900"), "--mpp"),
    "--id-strip-suffix of everything": (("--id-strip-suffix", "S1_3"), "S1"),
    "a flag that is unknown": (("--tile-size", "3"), ""),
}


def recipe_cases() -> Iterator[Case]:
    for case in cases("refused", RECIPES, says=r"r\.toml", words=_FINETUNE):
        yield dataclasses.replace(case, name=f"recipe: {case.name}")


def given_cases() -> Iterator[Case]:
    for name, (words, says) in GIVEN.items():
        if name != "a flag that is unknown":
            yield Case(name=name, change=lambda folder: None, says=says, words=(*_PLAIN, *words))


def name_cases() -> Iterator[Case]:
    """Names of sections that are no names of files, from three places."""
    import anndata

    def in_obs(text: str) -> Any:
        def change(folder: Path) -> None:
            made = anndata.read_h5ad(folder / "S1.h5ad")
            made.obs["section"] = text
            made.write_h5ad(folder / "S1.h5ad")

        return change

    def in_library(text: str) -> Any:
        def change(folder: Path) -> None:
            made = anndata.read_h5ad(folder / "S1.h5ad")
            made.uns["spatial"] = {text: made.uns["spatial"]["S1"]}
            made.write_h5ad(folder / "S1.h5ad")

        return change

    for name, text in NAMES.items():
        yield Case(name=f"--section {name}", change=lambda f: None, says="section", words=("--section", text))
        if "\udcff" in text or "/" in text or "\0" in text:
            continue
        yield Case(name=f"obs section {name}", change=in_obs(text), says="section")
        if text not in (".", ".."):
            yield Case(name=f"library {name}", change=in_library(text), says="section")
