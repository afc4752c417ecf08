"""The arrows of docs/architecture.md, held on the source itself: who may import whom, and which package stays where."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LEAVES = {"atomic", "errors", "h5ad_output", "hub", "memory", "typing", "progress", "hardware", "versions"}
MODEL_SIDE = {"store", "graphs", "models", "training", "prediction", "evaluation"}
SLIDE_SIDE = {"sections", "tiles", "encoders"}
ABOVE = {"schemas", *MODEL_SIDE, *SLIDE_SIDE, "embedding", "reports", "predicting", "hest_tasks", "alignment"}
ABOVE |= {
    "exports",
    "reporting",
    "clusters",
    "simulation",
    "diagnosis",
    "model_card",
    "model_sharing",
    "probing",
}
# Room -> the rooms that it may import, beside itself and the leaves.
ARROWS: dict[str, set[str]] = {
    **{leaf: set() for leaf in LEAVES},
    "schemas": set(),
    "sections": {"schemas"},
    "tiles": {"schemas", "sections"},
    "encoders": {"schemas"},
    "store": {"schemas", "sections"},
    "graphs": {"schemas", "store"},
    "embedding": {"schemas", *SLIDE_SIDE, "store", "graphs", "models", "training"},
    "models": {"schemas", "graphs"},
    "training": {"schemas", "store", "graphs", "models"},
    "prediction": {"schemas", "store", "graphs", "models", "training"},
    "reports": {"schemas", "models"},
    "evaluation": {"schemas", "store", "graphs", "models", "training", "prediction", "reports"},
    "model_card": {"schemas", "store", "models", "prediction"},
    "model_sharing": {"schemas", "encoders", "store", "model_card"},
    "predicting": {"schemas", "sections", *MODEL_SIDE, "reports", "reporting"},
    "probing": {"schemas", "embedding", "encoders", "store", "models", "training", "predicting"},
    "alignment": {"schemas", "sections", "tiles", "reports"},
    "hest_tasks": {"schemas", *SLIDE_SIDE, "store", "models", "evaluation"},
    "exports": {"schemas", "sections", "store"},
    "reporting": {"schemas", "exports", "reports"},
    "clusters": {"schemas", "exports", "store", "graphs", "models", "reports", "reporting"},
    "simulation": ABOVE - {"simulation", "diagnosis", "model_card", "model_sharing", "probing"},
    "diagnosis": {"graphs", "encoders"},
    "cli": ABOVE,
    # spam/__init__.py is the door: it names what the rooms offer.
    "spam": ABOVE,
}
# Package -> the folders or files that may import it.
PLACES = {
    "faiss": ("spam/graphs/neighbour_search.py",),
    "timm": ("spam/encoders/timm_models.py",),
    "peft": ("spam/encoders/lora_adapter.py",),
    "zarr": ("spam/store/", "spam/tiles/ome_zarr_slide.py", "spam/sections/feature_matrix.py"),
    "rich": ("cli/",),
    "fsspec": ("spam/store/",),
    "huggingface_hub": (
        "spam/hub.py",
        "spam/encoders/weight_access.py",
        "spam/model_card.py",
        "spam/store/",
    ),
    "matplotlib": ("spam/reports/",),
    "bokeh": ("spam/reports/",),
    "jinja2": ("spam/reports/",),
    "sklearn": ("spam/evaluation/hest_probe.py", "spam/clusters.py"),
    "scanpy": ("spam/clusters.py",),
    "typer": ("cli/",),
    "click": (),
    "cli": (),
    "schemas": (),
}
NEVER = {"store": ("torch", "timm"), "schemas": ("torch", "timm", "numpy", "zarr")}
# A function may import these: what most runs never ask for, and an extra that need not be installed.
LATE_IMPORTS = {
    ("spam/encoders/registry.py", "spam.encoders.timm_models"),
    ("spam/encoders/lora_adapter.py", "peft"),
    ("spam/store/remote.py", "spam.hub"),
    ("spam/store/array_files.py", "torch"),
    ("spam/exports/viewers.py", "spatialdata"),
    *(("spam/clusters.py", name) for name in ("igraph", "scanpy", "sklearn.metrics")),
    ("spam/evaluation/hest_probe.py", "sklearn.decomposition"),
    ("spam/evaluation/hest_probe.py", "sklearn.linear_model"),
    ("spam/evaluation/hest_probe.py", "sklearn.pipeline"),
    ("spam/evaluation/hest_probe.py", "sklearn.preprocessing"),
}
# Imports by name escape this test; these need them, with the reason.
DYNAMIC_IMPORTS = {
    "spam/__init__.py",
    "spam/encoders/__init__.py",
    "spam/embedding/__init__.py",
    "spam/diagnosis.py",
    "spam/sections/spatialdata_folder.py",  # an extra, named once for its message
    "cli/command.py",
}


SOURCES = {
    file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8")
    for folder in ("spam", "cli", "schemas")
    for file in sorted((ROOT / folder).rglob("*.py"))
}


def room_of(path: str) -> str:
    """Name the room of a source file (``spam/store/layout.py``) or of a module written as a path."""
    parts = path.removesuffix(".py").split("/")
    if parts[0] != "spam":
        return parts[0]
    return parts[1] if len(parts) > 1 and parts[1] != "__init__" else "spam"


def imported(tree: ast.AST, path: str) -> Iterator[str]:
    """Yield the full names of the modules that a file imports."""
    package = path.split("/")[:-1]
    package = package if package[0] == "spam" else ["spam", *package]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from spam import store` and `from . import layout` import modules too.
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "spam" else (module,)


def faults_of(sources: dict[str, str]) -> list[str]:
    """List every breach of the architecture in `sources` (path -> text), each naming the file."""
    return [fault for path, text in sources.items() for fault in faults_of_file(path, text)]


@functools.cache
def faults_of_file(path: str, text: str) -> tuple[str, ...]:
    """List the breaches of one file."""
    room = room_of(path)
    if room not in ARROWS:
        fault = f"{path}: room {room!r} is unknown; add it to docs/architecture.md and to this test"
        return (fault,)
    faults: list[str] = []
    tree = ast.parse(text)
    for module in imported(tree, path):
        package = module.split(".")[0]
        if package == "spam":
            target = room_of(module.replace(".", "/"))
            if target not in {room, *LEAVES, *ARROWS[room]}:
                faults.append(f"{path}: {room} must not import {target}")
            if target == "hardware" and room in NEVER:
                faults.append(f"{path}: {room} must not import torch, which hardware does")
        elif package in PLACES and not path.startswith(PLACES[package] or ("nowhere",)):
            faults.append(f"{path}: {package} must not be imported here")
        elif package in NEVER.get(room, ()) and (path, module) not in LATE_IMPORTS:
            faults.append(f"{path}: {room} must not import {package}")
    return (*faults, *late_imports(tree, path))


def late_imports(tree: ast.AST, path: str) -> list[str]:
    """List imports inside functions, and imports by name, where they have no place."""
    faults: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not path.startswith("cli/"):
            late = {module for module in imported(node, path) if (path, module) not in LATE_IMPORTS}
            faults += [f"{path}: {node.name}() imports {module}; imports stand at the top" for module in late]
        names = (
            node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else "",
        )
        if names[0] in ("import_module", "__import__") and path not in DYNAMIC_IMPORTS:
            faults.append(f"{path}: {names[0]} hides an import from this test")
    return faults


def test_source_keeps_the_arrows() -> None:
    assert faults_of(SOURCES) == []


def test_the_map_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [
        room for room in ARROWS if room != "spam" and f"{room}/`" not in text and f"{room}.py`" not in text
    ]
    assert missing == []


PLANTED = [
    ("spam/cabinet/__init__.py", "", "room 'cabinet' is unknown"),
    ("spam/store/planted.py", "import torch", "store must not import torch"),
    ("spam/store/planted.py", "from spam.hardware import resolve_device", "store must not import torch"),
    ("schemas/planted.py", "from spam.store import open_store", "schemas must not import store"),
    ("spam/training/planted.py", "from ..tiles import TileReader", "training must not import tiles"),
    ("spam/training/planted.py", "from spam import sections", "training must not import sections"),
    ("spam/models/planted.py", "import spam.store.layout", "models must not import store"),
    ("spam/evaluation/planted.py", "from spam.cli import main", "evaluation must not import cli"),
    ("spam/__init__.py", "from .cli import main", "must not import cli"),
    ("spam/sections/planted.py", "import schemas.config", "schemas must not be imported here"),
    ("spam/graphs/planted.py", "import zarr", "zarr must not be imported here"),
    ("spam/graphs/planted.py", "import faiss.contrib", "faiss must not be imported here"),
    ("spam/tiles/planted.py", "def read():\n    import PIL\n", "read() imports PIL"),
    ("spam/tiles/planted.py", "import x\nx.import_module('x')", "import_module hides an import"),
]


@pytest.mark.parametrize(("path", "text", "words"), PLANTED)
def test_planted_violation_is_named(path: str, text: str, words: str) -> None:
    found = [fault for fault in faults_of({**SOURCES, path: text}) if words in fault and path in fault]
    assert len(found) == 1
