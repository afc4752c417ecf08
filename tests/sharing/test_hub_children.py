"""The Hub's server of `tests/servers` and clients in processes of their own, with the client's settings in variables."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from hub_repository import GIT_ATTRIBUTES
from hub_server import HubServer
from sample_folder import LARGE, contents_of, write_sample

REPO = "org/cohort"
PUSH = """
import sys, huggingface_hub
api = huggingface_hub.HfApi()
print(api.upload_folder(repo_id=sys.argv[1], repo_type="dataset", folder_path=sys.argv[2], delete_patterns="*").oid)
"""
READ = """
import sys, fsspec
with fsspec.open(sys.argv[1]) as file:
    sys.stdout.buffer.write(file.read())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sample(tmp_path / "local")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    """A server with one data set that is empty."""
    with HubServer(tmp_path / "hub") as server:
        huggingface_hub.HfApi(endpoint=server.url, token=server.token).create_repo(REPO, repo_type="dataset")
        yield server


def run(code: str, *arguments: str, environment: dict[str, str]) -> bytes:
    child = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()
    return child.stdout.strip()


def test_only_what_changed_travels_by_xet(server: HubServer, folder: Path, tmp_path: Path) -> None:
    # hf_xet keeps a log and a cache in the user's folder.
    environment = {**server.environment, "HF_HUB_DISABLE_XET": "0", "HF_HOME": str(tmp_path / "home")}
    repository = server.repository(REPO)
    sizes = [0]
    for change in ("all", "one", "none"):
        if change == "one":
            (folder / "C2/obsm/features/c/1/0").write_bytes(np.random.default_rng(2).bytes(LARGE))
        commit = run(PUSH, REPO, str(folder), environment=environment).decode()
        assert commit == repository.resolve("main")
        expected = {**contents_of(folder), ".gitattributes": GIT_ATTRIBUTES}
        assert {name: file.read_bytes() for name, file in repository.files().items()} == expected
        sizes.append(repository.xet.n_bytes)
    # Noise neither compresses nor repeats; Xet adds some bytes to each chunk of about 64 kB.
    np.testing.assert_allclose(np.diff(sizes), [2 * LARGE + 211, LARGE, 0], rtol=2e-3)
    assert len(repository.commits) == 3  # the first is the Hub's own
    assert not any(each.method == "PUT" for each in server.requests)  # nothing by LFS


def test_the_environment_is_enough_without_xet(server: HubServer, folder: Path) -> None:
    run(PUSH, REPO, str(folder), environment=server.environment)
    assert sorted(each.received for each in server.requests if each.method == "PUT") == [211, LARGE, LARGE]
    for name in ("zarr.json", "C2/obsm/features/c/0/0"):
        read = run(READ, f"hf://datasets/{REPO}/{name}", environment=server.environment)
        assert read == (folder / name).read_bytes()
