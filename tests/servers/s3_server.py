"""Moto's S3 on loopback, with one bucket.

A client is pointed at it by `storage_options` (s3fs, fsspec) or by `environment`, which holds for every AWS client. fsspec
keeps file systems by their options, not by the environment: clear `s3fs.S3FileSystem.clear_instance_cache()` between two
servers that are found through the environment.
"""

import os
import urllib.request
from types import TracebackType
from typing import Any, Self

from counting_server import CountingServer
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app


class S3Server(CountingServer):
    """Serve one empty bucket; what was stored is gone when the context closes."""

    def __init__(self, bucket: str = "cohorts") -> None:
        super().__init__(DomainDispatcherApplication(create_backend_app))
        self.bucket = bucket

    def __enter__(self) -> Self:
        super().__enter__()
        self._request("PUT", f"/{self.bucket}")
        self.forget()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse = None
        self._request("POST", "/moto-api/reset")  # moto's memory is the process's, not the server's
        super().__exit__(kind, error, trace)

    @property
    def endpoint_url(self) -> str:
        return self.url

    @property
    def storage_options(self) -> dict[str, Any]:
        """What `fsspec.filesystem("s3", **storage_options)` needs to find the server."""
        return {
            "key": "testing",
            "secret": "testing",
            "endpoint_url": self.endpoint_url,
            "client_kwargs": {"region_name": "us-east-1"},
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as variables, apart from any settings that the user has."""
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _request(self, method: str, path: str) -> None:
        # An empty handler keeps a proxy of the environment away from loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.url + path, method=method)) as answer:
            answer.read()
