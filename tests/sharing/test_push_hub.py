"""Pushing to the Hub's server: one commit of what changed, by LFS and by Xet, and what is refused."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from pointing import point_at_hub
from pushed import section, shared

from spam.errors import StoreError
from spam.store import open_store

REPO = "org/cohort"

# huggingface_hub 2.4 sends large files in a way that httpx2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

Tree = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def store(small_path: Path) -> Path:
    return small_path


class TestHub:
    ADDRESS = f"hf://datasets/{REPO}"

    def files(self, hub: HubServer, revision: str = "main") -> dict[str, bytes]:
        files = hub.repository(REPO).files(revision)
        return {
            name: path.read_bytes()
            for name, path in files.items()
            if name not in (".gitattributes", "README.md")
        }

    def test_one_commit_of_what_changed(
        self,
        hub: HubServer,
        store: Path,
        tree: Tree,
        few_files: Path,
        add_features: Callable[..., np.ndarray],
    ) -> None:
        with pytest.raises(StoreError, match="no such repository"):
            open_store(self.ADDRESS)
        report = shared(store, self.ADDRESS)
        np.testing.assert_array_equal(open_store(self.ADDRESS).section("C2").ids, section(store).ids)
        repository = hub.repository(REPO)
        assert repository.is_private
        assert report.commit == repository.resolve("main")
        assert len(repository.commits) == 2  # the first is the Hub's own
        assert self.files(hub) == tree(store)
        assert f"(commit {report.commit})" in report.summary()

        hub.forget()
        again = shared(store, self.ADDRESS)
        assert (again.n_files, again.commit, len(repository.commits)) == (0, report.commit, 2)

        add_features(section(store), "tiny_224um")
        hub.forget()
        shared(store, self.ADDRESS)
        assert self.files(hub) == tree(store)
        new = {name: data for name, data in tree(store).items() if name.startswith("C2/obsm/tiny_224um/c/")}
        readme = (
            repository.files()["README.md"].stat().st_size
        )  # not ASCII, so large by the rule of the server
        assert sorted(each.received for each in hub.requests if each.method == "PUT") == sorted(
            [*map(len, new.values()), readme]
        )

        shared(few_files, self.ADDRESS)
        assert self.files(hub) == tree(store)
        shared(few_files, self.ADDRESS, without_counts=True, overwrite=True)
        assert not any(name.startswith("C2/X/") for name in self.files(hub))
        assert open_store(self.ADDRESS).section("C2").feature_keys == ("tiny_112um", "tiny_224um")

    def test_a_public_one_in_a_folder_of_a_branch(self, hub: HubServer, store: Path, tree: Tree) -> None:
        shared(store, self.ADDRESS, private=False)
        assert not hub.repository(REPO).is_private
        hub.repository(REPO).branches["v2"] = hub.repository(REPO).resolve("main") or ""
        to = f"{self.ADDRESS}@v2/sub"
        shared(store, to)
        expected = {f"sub/{name}": data for name, data in tree(store).items()}
        assert {name: data for name, data in self.files(hub, "v2").items() if name != "sub/README.md"} == {
            **tree(store),
            **expected,
        }
        assert self.files(hub) == tree(store)
        np.testing.assert_array_equal(open_store(to).section("C2").ids, section(store).ids)

    def test_a_broken_push_goes_on(self, hub: HubServer, store: Path, tree: Tree) -> None:
        hub.refuse = lambda method, path: 403 if "/commit/" in path else None
        with pytest.raises(StoreError, match=r"pushing at .* it is not allowed .*hf auth login") as caught:
            shared(store, self.ADDRESS)
        assert hub.token not in str(caught.value)
        hub.refuse = None
        hub.forget()
        shared(store, self.ADDRESS)
        assert [each for each in hub.requests if each.method == "PUT"] == []
        assert self.files(hub) == tree(store)

    def test_by_xet(self, hub: HubServer, store: Path, tmp_path: Path, tree: Tree) -> None:
        code = (
            "import sys; from spam.sharing.pushing import push; from spam.schemas.store_config import PushConfig;"
            "print(push(PushConfig.from_mapping({'store': sys.argv[1], 'to': sys.argv[2]})).commit)"
        )
        # hf_xet keeps a log and a cache in the user's folder, and its threads as long as the process is there.
        environment = {**hub.environment, "HF_HUB_DISABLE_XET": "0", "HF_HOME": str(tmp_path / "home")}
        hub.forget()
        child = subprocess.run(
            [sys.executable, "-P", "-c", code, str(store), self.ADDRESS],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == 0, child.stderr
        assert child.stdout.strip() == hub.repository(REPO).resolve("main")
        assert self.files(hub) == tree(store)
        assert not any(each.method == "PUT" for each in hub.requests)  # nothing by LFS

    def test_somebody_else_was_faster(self, hub: HubServer, store: Path) -> None:
        shared(store, self.ADDRESS)
        repository = hub.repository(REPO)

        def interfere(method: str, path: str) -> None:
            if "/commit/" in path:
                hub.refuse = None
                repository.commit("main", [b'{"key": "header", "value": {"summary": "s"}}'])

        hub.refuse = interfere  # type: ignore[assignment]
        with pytest.raises(StoreError, match=r"changed by somebody else .*push again"):
            shared(store, self.ADDRESS, without_counts=True, overwrite=True)

    def test_too_many_files(self, hub: HubServer, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("spam.sharing.hub._MOST_FILES", 11)
        with pytest.raises(
            StoreError, match=r"would have \d+ files .*takes fewer than 11; .*spam store select"
        ):
            shared(store, self.ADDRESS)

    def test_no_right_to_make_or_write(
        self, hub: HubServer, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        point_at_hub(hub, monkeypatch, token=hub.stranger_token)
        with pytest.raises(StoreError, match=r"opening the dataset .*not allowed .*hf auth login") as caught:
            shared(store, self.ADDRESS)
        assert hub.stranger_token not in str(caught.value)
        point_at_hub(hub, monkeypatch)
        shared(store, self.ADDRESS, private=False)
        point_at_hub(hub, monkeypatch, token=hub.stranger_token)
        with pytest.raises(StoreError, match=r"not allowed|no such repository"):
            shared(store, self.ADDRESS, without_counts=True, overwrite=True)

    def test_no_network(self, hub: HubServer, store: Path) -> None:
        hub.server.server_close()
        with pytest.raises(StoreError, match=r"opening the dataset .* cannot be reached .*network"):
            shared(store, self.ADDRESS)
