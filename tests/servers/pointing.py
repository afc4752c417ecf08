"""Pointing the clients of this process at a server of this folder for the time of a test."""

from pathlib import Path

import fsspec
import huggingface_hub
import pytest
import s3fs
from hub_models import HubModels
from hub_server import HubServer
from s3_server import S3Server


def point_at_s3(server: S3Server, patch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        patch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


def _point_at(server: HubServer | HubModels, patch: pytest.MonkeyPatch) -> None:
    """Constants that follow from HF_ENDPOINT when huggingface_hub is imported; threads of Xet would outlive the test."""
    constants = "huggingface_hub.constants"
    patch.setattr(f"{constants}.ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)


def point_at_hub(server: HubServer, patch: pytest.MonkeyPatch, *, token: str | None = None) -> None:
    _point_at(server, patch)
    patch.setenv("HF_TOKEN", server.token if token is None else token)
    huggingface_hub.HfFileSystem.clear_instance_cache()


def point_at_models(server: HubModels, patch: pytest.MonkeyPatch, cache: Path, *, token: str | None) -> None:
    """Ask `server` for models, and keep them in `cache`."""
    _point_at(server, patch)
    constants = "huggingface_hub.constants"
    patch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
    patch.setattr(f"{constants}.HF_TOKEN_PATH", str(cache / "no token"))
    patch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        patch.setenv("HF_TOKEN", token)


def forget_connections() -> None:
    """fsspec keeps file systems by their options, not by the environment that they read."""
    s3fs.S3FileSystem.clear_instance_cache()
    huggingface_hub.HfFileSystem.clear_instance_cache()
    fsspec.get_filesystem_class("http").clear_instance_cache()
