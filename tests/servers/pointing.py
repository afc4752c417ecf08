"""Pointing the clients of this process at a server of this folder, for as long as a test runs."""

from contextlib import ExitStack
from pathlib import Path

import fsspec
import huggingface_hub
import pytest
import s3fs
from counting_server import CountingServer
from http_range_server import HttpRangeServer
from hub_models import HubModels
from hub_server import HubServer
from s3_server import S3Server


def point_at_s3(server: S3Server, patch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


def point_at_hub(server: HubServer, patch: pytest.MonkeyPatch, *, token: str | None = None) -> None:
    """Both constants follow from HF_ENDPOINT when huggingface_hub is imported; Xet's threads would outlive the test."""
    patch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    patch.setenv("HF_TOKEN", server.token if token is None else token)
    huggingface_hub.HfFileSystem.clear_instance_cache()


def forget_connections() -> None:
    """fsspec keeps file systems by their options, not by the environment that they read."""
    s3fs.S3FileSystem.clear_instance_cache()
    huggingface_hub.HfFileSystem.clear_instance_cache()
    fsspec.get_filesystem_class("http").clear_instance_cache()


def started(
    kind: str, store: Path, hub_folder: Path, stack: ExitStack, patch: pytest.MonkeyPatch
) -> tuple[CountingServer, str]:
    """Start a server that has a store, without a look at what is sent there; give it with the address of the store."""
    if kind == "http":
        web = stack.enter_context(HttpRangeServer(store.parent))
        return web, f"{web.url}/{store.name}"
    if kind == "s3":
        bucket = stack.enter_context(S3Server())
        point_at_s3(bucket, patch)
        fsspec.filesystem("s3").put(f"{store}/", f"cohorts/{store.name}/", recursive=True)
        bucket.forget()
        return bucket, f"s3://cohorts/{store.name}"
    hub = stack.enter_context(HubServer(hub_folder))
    point_at_hub(hub, patch)
    api = huggingface_hub.HfApi()
    api.create_repo("org/cohort", repo_type="dataset")
    api.upload_folder(repo_id="org/cohort", repo_type="dataset", folder_path=store, path_in_repo="sub")
    hub.forget()
    return hub, "hf://datasets/org/cohort/sub"


def point_at_models(server: HubModels, patch: pytest.MonkeyPatch, cache: Path, *, token: str | None) -> None:
    """Let the Hub's client of this process ask `server` for models, and keep what it gets in `cache`."""
    constants = "huggingface_hub.constants"
    patch.setattr(f"{constants}.ENDPOINT", server.url)
    patch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE",
        f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    )
    patch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
    patch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
    patch.setattr(f"{constants}.HF_TOKEN_PATH", str(cache / "no token"))
    patch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        patch.setenv("HF_TOKEN", token)
