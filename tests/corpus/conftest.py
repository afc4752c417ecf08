"""One warm process, and one folder of inputs per test file."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the tables of cases

from case_lab import TILE_UM, Bench, write_lab
from command_server import CommandServer
from embedding_lab import write_encoder
from open_cases import OPEN


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = OPEN.get(item.name.partition("[")[2].removesuffix("]"))
        if reason and "corpus" in item.path.parts:
            item.add_marker(pytest.mark.xfail(strict=True, reason=reason))


@pytest.fixture(scope="session")
def server() -> Iterator[CommandServer]:
    started = CommandServer()
    yield started
    started.close()


@pytest.fixture(scope="module")
def lab(server: CommandServer, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """`spam embed` of a small section, with a tiny encoder."""
    folder = tmp_path_factory.mktemp("bench")
    write_lab(folder / "lab")
    encoder = write_encoder(folder / "tiny")
    files = ("embed", "--h5ad", "S1.h5ad", "--csv", "S1.csv", "--root", "images", "--store", "st.zarr")
    quick = ("--enc-name", encoder, "--tile-um", TILE_UM, "--device", "cpu", "--no-overview")
    return Bench(inputs=folder / "lab", command=(*files, *quick), server=server)
