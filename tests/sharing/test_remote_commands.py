"""Every command that reads takes an address: it says what it says of the folder, and fetches what it needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import pytest
from counting_server import CountingServer

from spam.exchange import export
from spam.schemas.store_config import (
    DiffConfig,
    ExportConfig,
    InfoConfig,
    MergeConfig,
    SelectConfig,
    ValidateConfig,
    VerifyConfig,
)
from spam.sharing.comparing import diff
from spam.sharing.describing import describe
from spam.sharing.merging import merge
from spam.sharing.selecting import select
from spam.sharing.validating import validate
from spam.sharing.verifying import verify

pytestmark = pytest.mark.usefixtures("own_cache")

Serve = Callable[[str, Path], tuple[CountingServer, str]]


def sent(server: CountingServer, store: Path) -> set[str]:
    """Files of the store that the server has sent, but for the indexes."""
    paths = {path.removeprefix(f"/{store.name}/") for path, n_bytes in server.sent_by_path.items() if n_bytes}
    return {path for path in paths if path not in ("zarr.json", "C2/zarr.json", "C3/zarr.json")}


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, other: describe(InfoConfig(store=store)),
        lambda store, other: validate(ValidateConfig(store=store)),
        lambda store, other: verify(VerifyConfig(store=store)),
        lambda store, other: diff(DiffConfig(a=store, b=other)),
    ],
    ids=["info", "validate", "verify", "diff"],
)
def test_what_is_said_of_an_address_is_what_is_said_of_the_folder(
    serve: Serve, pristine_store: Path, few_files: Path, ask: Callable[[Path | str, Path], Any]
) -> None:
    _, address = serve("http", pristine_store)
    found, expected = (ask(store, few_files) for store in (address, pristine_store))
    assert found.summary().replace(address, str(pristine_store)) == expected.summary()
    for name in ("store", "a"):
        if name in expected.to_mapping():
            assert found.to_mapping()[name] == address
    assert {**found.to_mapping(), "store": None, "a": None} == {
        **expected.to_mapping(),
        "store": None,
        "a": None,
    }


def test_info_fetches_indexes_alone(serve: Serve, pristine_store: Path) -> None:
    server, address = serve("http", pristine_store)
    describe(InfoConfig(store=address))
    assert sent(server, pristine_store) == set()


def test_one_section_is_verified_from_its_files(serve: Serve, pristine_store: Path) -> None:
    server, address = serve("http", pristine_store)
    assert verify(VerifyConfig(store=address, sections=("C3",))).is_intact
    assert {path.partition("/")[0] for path in sent(server, pristine_store)} == {"C3"}


@pytest.mark.parametrize(
    ("options", "is_needed"),
    [
        ({"sections": ("C3",)}, lambda path: path.startswith("C3/")),
        (
            {"sections": ("C2",), "features": ("tiny_112um",)},
            lambda path: path.startswith("C2/") and "tiny_224um" not in path,
        ),
    ],
    ids=["one section", "one kind of features"],
)
def test_a_selection_is_fetched_and_no_more(
    serve: Serve,
    pristine_store: Path,
    tmp_path: Path,
    tree: Callable[[Path], dict[str, bytes]],
    options: dict[str, Any],
    is_needed: Callable[[str], bool],
) -> None:
    server, address = serve("http", pristine_store)
    select(SelectConfig(store=address, out=tmp_path / "remote", **options))
    asked = sent(server, pristine_store)
    assert asked
    assert [path for path in asked if not is_needed(path)] == []
    select(SelectConfig(store=pristine_store, out=tmp_path / "local", **options))
    assert tree(tmp_path / "remote") == tree(tmp_path / "local")


def test_some_genes_are_selected_from_some_chunks_of_the_counts(
    serve: Serve, pristine_store: Path, tmp_path: Path, tree: Callable[[Path], dict[str, bytes]]
) -> None:
    server, address = serve("http", pristine_store)
    options: dict[str, Any] = {"sections": ("C2",), "genes": ("GENE4", "GENE5")}
    select(SelectConfig(store=address, out=tmp_path / "remote", **options))
    chunks = {path for path in sent(server, pristine_store) if path.startswith("C2/X/data/c/")}
    every = {path for path in tree(pristine_store) if path.startswith("C2/X/data/c/")}
    assert chunks < every
    select(SelectConfig(store=pristine_store, out=tmp_path / "local", **options))
    assert tree(tmp_path / "remote") == tree(tmp_path / "local")


def test_merge_of_addresses(
    serve: Serve, pristine_store: Path, tmp_path: Path, tree: Callable[[Path], dict[str, bytes]]
) -> None:
    _, address = serve("http", pristine_store)
    merge(MergeConfig(out=tmp_path / "all", stores=(address,)))
    assert tree(tmp_path / "all") == tree(pristine_store)


def test_export_of_an_address(serve: Serve, pristine_store: Path, tmp_path: Path) -> None:
    server, address = serve("http", pristine_store)
    for store, name in ((address, "remote"), (pristine_store, "local")):
        export(ExportConfig(store=store, out=tmp_path / name, sections=("C2",), features=("tiny_112um",)))
    found, expected = (anndata.read_h5ad(tmp_path / name / "C2.h5ad") for name in ("remote", "local"))
    assert (found.X != expected.X).nnz == 0
    assert found.obs.equals(expected.obs)
    assert (found.obsm["tiny_112um"] == expected.obsm["tiny_112um"]).all()
    asked = sent(server, pristine_store)
    assert {path.partition("/")[0] for path in asked} == {"C2"}
    assert not any(path.startswith("C2/obsm/tiny_224um/") for path in asked)
