"""Pointing the clients of this process at a server of this folder, for as long as a test runs."""

import fsspec
import huggingface_hub
import pytest
import s3fs
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
