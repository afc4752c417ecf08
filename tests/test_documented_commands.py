"""Runs the commands of the README, of the pages in `docs/` and of the help, in their order, on small pieces of real tissue.

The cells of the tutorials are executed when CI builds the documentation. Every other command either runs here or is
listed in `NOT_RUN` with the reason; `test_readme.py` checks the options of those.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anndata
import foreign_layouts
import numpy as np
import pandas as pd
import pytest
from embedding_lab import write_encoder
from hest_lab import make_hest_lab
from hub_server import HubServer
from PIL import Image
from pointing import forget_connections, point_at_hub

from spam.cli import main
from spam.cli.commands import ENCODER_COMMANDS, MODEL_COMMANDS, PIPELINE
from spam.cli.store_commands import STORE_COMMANDS
from tests.sections.test_vendor_commands import write_outs

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"),
    # of scanpy.pl.spatial, and of scanpy 1.11 with matplotlib 3.11
    pytest.mark.filterwarnings(
        "ignore:Use `squidpy:FutureWarning", "ignore:The set_:PendingDeprecationWarning"
    ),
]
ROOT = Path(__file__).parents[1]

# Pages, and what the commands of each find beside the files of the laboratory.
PAGES = {
    "README.md": (),
    "docs/alignment.md": (),
    "docs/api.md": ("cohort.zarr", "ckpt"),
    "docs/benchmark.md": ("cohort.zarr", "bulb.zarr"),
    "docs/cluster.md": (),
    "docs/clusters.md": ("cohort.zarr", "results"),
    "docs/cohort-size.md": ("cohort.zarr",),
    "docs/experiments.md": (),
    "docs/imported-features.md": (),
    "docs/lab-files.md": ("ckpt",),
    "docs/models.md": ("ckpt",),
    "docs/other_tools.md": ("cohort.zarr", "results"),
    "docs/reports.md": ("results",),
    "docs/tutorials/a-first-prediction.md": ("spam-demo",),
    "docs/tutorials/alignment-stage.md": ("cohort.zarr", "spam-demo"),
    "docs/tutorials/clusters.md": ("spam-demo",),
    "docs/tutorials/instrument-folders.md": (),
    "docs/tutorials/shared-store.md": ("spam-demo",),
    "docs/vendor-folders.md": (),
}
HELP = {
    f"{group}{command.name}": command.example.replace("\\\n", " ").splitlines()
    for group, commands in (
        ("", PIPELINE),
        ("encoders ", ENCODER_COMMANDS),
        ("model ", MODEL_COMMANDS),
        ("store ", STORE_COMMANDS),
    )
    for command in commands
}
_FROM = "spam embed --from {0}/outs --image {0}.tif --section {0} --donor d1 --store cohort.zarr"
_IMPORT = "spam import {0}/outs --image {0}.tif --section {0} --out-dir lab"
_PUSH = "spam model push ckpt hf://org/name"
_PACK = "spam store pack cohort.zarr"
_DEMO = "--store spam-demo/cohort.zarr --sections D1S1,D1S2,D2S1"
# What a page tells the reader to do, or does in a cell, before the commands that run here.
BEFORE = {
    "README.md": [_FROM.format(name) for name in ("C3", "C4", "C5", "C6")],
    **dict.fromkeys(["docs/models.md", "predict", "model info", "model verify", "model pull"], (_PUSH,)),
    **dict.fromkeys(["store verify", "store unpack"], (_PACK,)),
    "finetune": ["spam pretrain --store cohort.zarr --sections C2,C3,C4,C5 --save-dir pretrain"],
    "store merge": [
        f"spam store select cohort.zarr {to}.zarr --sections {name}"
        for to, name in (("a", "A1"), ("b", "C2"))
    ],
    "store pull": ["spam store push cohort.zarr hf://datasets/org/name"],
    "docs/tutorials/alignment-stage.md": [f"spam pretrain {_DEMO} --save-dir aligned"],
    "docs/tutorials/instrument-folders.md": [_IMPORT.format(name) for name in ("C2", "C3", "C4", "C5", "C6")],
    "docs/tutorials/shared-store.md": [
        "spam store select spam-demo/cohort.zarr three.zarr --sections D1S1,D1S2,D2S1"
    ],
}
# Commands that this test leaves out, with the reason.
NOT_RUN = {
    r"^python3 -m venv|^\.venv/bin/": "CI runs the lines of the README and of CONTRIBUTING.md",
    r"^pip install": "needs a network",
    r"^(?!.*--features).*--enc-name (uni2_h|hoptimus0)": "needs gated weights",
    r"^spam encoders check|^spam demo|^spam plan .*uni_v1": "asks the Hub for weights or data, or CI runs it",
    r"^spam inference": "is spam predict; tests/test_published_commands.py runs it",
    r"--with-lora": "takes a minute; tests/cli/test_lab_files.py runs it",
    r"^cut |^done$": "a loop around a command that needs gated weights",
    r" s3://": "needs an object store; tests/store/test_publishing.py pushes to one",
    r"^(docker|apptainer|nextflow|npx) ": "needs another program",
    r"^snakemake ": "tests/test_deploy.py runs it",
    r"\bsq\.|import json, vitessce|import spatialdata": "needs packages that the tests do not install",
    r"^pytest ": "a measurement, which takes minutes",
}
# These pages are left out as a whole, with the reason.
PAGES_NOT_RUN = {
    "docs/experiments-log.md": "a record of earlier experiments, which took hours",
    "docs/tutorials/gpu-cluster.md": "needs SLURM, GPUs and gated weights",
    "docs/index.md": "CI runs this line of the README",
    "CONTRIBUTING.md": "CI runs these tools",
}
# What keeps a run short, for options that a command does not give.
SHORT = {
    "^spam finetune": {"--epochs": "2", "--members": "1"},
    "^spam pretrain": {"--epochs": "2"},
    "^spam benchmark": {"--seeds": "1", "--methods": "tuned ridge,training mean"},
    "^spam benchmark .*--by .*SPAM": {"--shard": "1/4"},
    "^spam plan": {"--probe-s": "1"},
    "^spam adapt": {"--epochs": "1", "--batch-size": "8"},
    "^spam simulate": {"--n-spots": "20", "--n-genes": "30"},
    "^spam embed .*--tile-um .*--tile-um": {"--enc-name": "local:tiny"},
}
PRODUCTS = {"cohort.zarr", "bulb.zarr", "ckpt", "results", "spam-demo"}
DONORS = {"C2": "C", "C3": "C", "C4": "C", "C5": "C", "C6": "C", "A1": "A", "A2": "A"}
DONORS |= {"MOB1": "m1", "MOB2": "m1", "MOB3": "m2", "MOB4": "m2"}
N_SPOTS, N_GENES, MARGIN, TILE_PX = 16, 60, 200, 230


def write_laboratory(shared_data: Path, folder: Path) -> None:
    """Write pieces of a real Visium section as sections of several donors, in each way that the pages read."""
    source = shared_data / "colon_visium"
    whole = anndata.read_h5ad(source / "colon_d0.h5ad")
    n_counts = pd.Series(np.asarray(whole.X.sum(axis=0)).ravel(), whole.var_names)
    whole = whole[:, n_counts.nlargest(N_GENES).index].copy()
    whole.var_names = ["ERBB2", "CD74", *whole.var_names[2:]]  # the genes that the pages draw
    (library,) = whole.uns["spatial"].values()
    (folder / "images").mkdir()
    image, tables, left = Image.open(source / "images" / "colon_d0.jpg"), [], whole
    for name, donor in DONORS.items():
        xy = left.obsm["spatial"]
        from_corner = np.linalg.norm(xy - xy[xy.sum(axis=1).argmin()], axis=1)
        is_here = from_corner <= np.sort(from_corner)[N_SPOTS - 1]
        section, left = left[is_here].copy(), left[~is_here]
        low, high = xy[is_here].min(axis=0) - MARGIN, xy[is_here].max(axis=0) + MARGIN
        low = np.maximum(low, 0).astype(int)
        image.crop((*low, *high.astype(int))).save(folder / "images" / f"{name}.jpg")
        section.obsm["spatial"] = section.obsm["spatial"] - low
        section.obs["section"], section.obs["patient"] = name, donor
        section.obs["label"] = np.where(np.arange(section.n_obs) % 2, "crypt", "muscle")
        section.uns["spatial"] = {
            name: {"metadata": {"mpp": library["metadata"]["mpp"]}, "scalefactors": library["scalefactors"]}
        }
        section.write_h5ad(folder / f"{name}.h5ad")
        write_outs(section, folder / name / "outs")
        (folder / f"{name}.tif").symlink_to(folder / "images" / f"{name}.jpg")
        x, y = section.obsm["spatial"].T
        tables.append(
            pd.DataFrame({"x": x, "y": y, "source_image": f"{name}.jpg", "spot_id": section.obs_names})
        )
    pd.concat(tables).to_csv(folder / "mapping.csv", index=False)
    rows = pd.DataFrame({"section": DONORS.keys(), "donor": DONORS.values(), "csv": "mapping.csv"})
    rows["h5ad"], rows["root"] = rows["section"] + ".h5ad", "images"
    is_bulb = rows["section"].str.startswith("MOB")
    rows[~is_bulb].to_csv(folder / "sections.csv", index=False)
    rows[is_bulb].to_csv(folder / "bulb.csv", index=False)
    rows[~is_bulb].to_csv(folder / "her2st.csv", index=False)
    rows[rows["donor"] == "C"].to_csv(folder / "patient_c.csv", index=False)
    folds = pd.DataFrame({"sample_id": ["C2", "C3", "C6"], "fold_0": ["train", "train", "test"]})
    folds.to_csv(folder / "ids.csv", index=False)


def write_other_inputs(shared_data: Path, folder: Path) -> None:
    """Write the folders of instruments, features of another tool, and what else single pages read."""
    data = folder / "her2st" / "data"
    for part in ("ST-cnts", "ST-spotfiles"):
        (data / part).mkdir(parents=True)
    for name in ("C2", "C3", "C4", "C5", "C6"):
        (data / "ST-imgs" / "C" / name).mkdir(parents=True)
        (data / "ST-imgs" / "C" / name / "HE.jpg").symlink_to(folder / "images" / f"{name}.jpg")
        section = anndata.read_h5ad(folder / f"{name}.h5ad")
        x, y = np.indices((4, 4)).reshape(2, -1)
        pixels = dict(zip(("pixel_x", "pixel_y"), 300 + 100 * np.stack([x, y]), strict=True))
        spots = pd.DataFrame({"x": x, "y": y, "new_x": x, "new_y": y, **pixels, "selected": 1})
        spots.to_csv(data / "ST-spotfiles" / f"{name}_selection.tsv", sep="\t", index=False)
        counts = section.to_df().set_axis([f"{i}x{j}" for i, j in zip(x, y, strict=True)])
        counts.to_csv(data / "ST-cnts" / f"{name}.tsv.gz", sep="\t")
    for name, section in (("brain", "A1"), ("lung", "A2")):
        shutil.copytree(folder / section / "outs", folder / name / "outs")
        (folder / f"{name}_he.tif").symlink_to(folder / "images" / f"{section}.jpg")
    measured = anndata.read_h5ad(folder / "C6.h5ad")
    measured[::4].copy().write_h5ad(folder / "measured.h5ad")
    for name in ("slide", "new_slide"):
        (folder / f"{name}.svs").symlink_to(shared_data / "slides" / "CMU-1-Small-Region.svs")
    trident = folder / "trident" / "features_uni_v2"
    trident.mkdir(parents=True)
    (folder / "C2.h5").symlink_to(trident / "C2.h5")
    random = np.random.default_rng(3)
    for name in ("C2", "C3", "new"):
        section = anndata.read_h5ad(folder / f"{name.replace('new', 'C4')}.h5ad")
        corners = np.round(section.obsm["spatial"] - TILE_PX / 2).astype(np.int64)
        features = random.normal(size=(len(corners), 31)).astype(np.float32)
        coords = foreign_layouts.TRIDENT_COORDS | {"patch_size_level0": TILE_PX}
        foreign_layouts.trident(trident / f"{name}.h5", features, corners, **coords)
    hest = make_hest_lab(folder / "hest")
    hest.bench.rename(folder / "bench_data")
    (folder / "hest" / "features").rename(folder / "ST_data_emb")
    shutil.move(folder / "ST_data_emb" / "IDC" / "resnet50", folder / "ST_data_emb" / "IDC" / "uni_v1")
    write_encoder(folder / "tiny")


def blocks_of(page: str) -> list[tuple[str, str]]:
    """The shell and Python blocks of a page, except the cells of a tutorial."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(bash|python)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def lines_of(page: str) -> list[str]:
    """Commands of a page, and its Python blocks as a whole."""
    lines = []
    for kind, block in blocks_of(page):
        parts = [block] if kind == "python" else block.replace("\\\n", " ").splitlines()
        lines += [part.strip() for part in parts if part.strip()]
    return lines


def is_run(line: str) -> bool:
    return not any(re.search(pattern, line) for pattern in NOT_RUN)


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command as a shell does, in this process, or a block of Python."""
    if not line.startswith("spam "):
        exec(compile(line, "page", "exec"), {"__name__": "page"})
        return
    words = shlex.split(line, comments=True)
    short = [options for pattern, options in SHORT.items() if re.search(pattern, line)]
    for option, value in (item for options in short for item in options.items()):
        words += [] if option in words else [option, value]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (None, 0), line


@pytest.fixture(scope="module")
def prepared(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the pages begin with: files of the laboratory, stores, a checkpoint and results."""
    folder = tmp_path_factory.mktemp("prepared")
    write_laboratory(shared_data, folder)
    write_other_inputs(shared_data, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            "spam embed --manifest sections.csv --store cohort.zarr --licence CC-BY-4.0",
            "spam embed --manifest bulb.csv --store bulb.zarr",
            "spam finetune --store cohort.zarr --sections C2,C3,C4,C5 --save-dir ckpt",
            "spam predict --store cohort.zarr --section C6 --ckpt ckpt/best.safetensors --out-dir results",
            "spam simulate --n-donors 2 --n-sections 2 --out-dir spam-demo/cohort",
            "spam embed --manifest spam-demo/cohort/sections.csv --store spam-demo/cohort.zarr",
        ):
            run_line(line, patch)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    with ExitStack() as stack:
        server = stack.enter_context(HubServer())
        point_at_hub(server, monkeypatch)
        yield server
    forget_connections()


def begin(prepared: Path, folder: Path, products: set[str]) -> None:
    """Copy the prepared folder without some products."""
    shutil.copytree(
        prepared, folder, symlinks=True, ignore=lambda place, _: products if place == str(prepared) else ()
    )


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    begin(prepared, tmp_path / "work", PRODUCTS - set(PAGES[page]))
    monkeypatch.chdir(tmp_path / "work")
    for line in [*BEFORE.get(page, ()), *filter(is_run, lines_of(page))]:
        run_line(line, monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("command", [name for name, lines in HELP.items() if any(map(is_run, lines))])
def test_the_examples_of_the_help_run(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """In their order, but each replaces what it writes: examples of one command are alternatives."""
    begin(prepared, tmp_path / "work", set())
    monkeypatch.chdir(tmp_path / "work")
    for line in [*BEFORE.get(command, ()), *filter(is_run, HELP[command])]:
        for written in re.findall(r"--(?:out|save)-dir (\S+)|^spam embed --[fhm].*--store (\S+)", line):
            shutil.rmtree("".join(written), ignore_errors=True)
        run_line(line, monkeypatch)


def test_every_page_and_every_exception_is_listed() -> None:
    """A new page with commands must be listed, and no exception may outlive its command."""
    pages = [
        "README.md",
        "CONTRIBUTING.md",
        *(page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs").rglob("*.md"))),
    ]
    with_commands = {page for page in pages if lines_of(page)}
    assert with_commands == {*PAGES, *PAGES_NOT_RUN}
    lines = [line for page in pages for line in lines_of(page)] + [
        line for lines in HELP.values() for line in lines
    ]
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, line) for line in lines)] == []
