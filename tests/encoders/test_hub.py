"""The Hub, spoken to for real by a server on loopback: download, gate, absence, no network, offline."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spam.encoders import build_encoder, encoder_card

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"

# Runs apart, since the Hub's client reads its settings when it is imported.
CHILD = """
import json, socket, sys, time, urllib.request
import numpy as np, torch
from spam.encoders import build_encoder, encoder_card
from spam.errors import EncoderError

def is_open(endpoint):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2]))) == 0

answers = {}
for name in sys.argv[2:]:
    if name == "stop":
        while True:  # until connections are refused
            try:
                urllib.request.urlopen(sys.argv[1] + "/stop", timeout=1).read()
            except OSError:
                if not is_open(sys.argv[1]):
                    break
        continue
    start = time.perf_counter()
    try:
        encoder = build_encoder(encoder_card(name), device=torch.device("cpu"))
        tiles = np.arange(3 * 32 * 32 * 3, dtype=np.uint8).reshape(3, 32, 32, 3)
        answers[name] = {"features": encoder.embed(tiles).tolist(), "digest": encoder.weights_sha256}
    except EncoderError as error:
        answers[name] = {"error": str(error)}
    answers[name]["seconds"] = time.perf_counter() - start
print(json.dumps(answers))
"""


def handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    """Serve `folder` as org/tiny, with the endpoints and headers of the Hub."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(is_head=True)

        def do_GET(self) -> None:
            if self.path == "/stop":
                self.reply(200, {}, b"")
                threading.Thread(target=self.stop).start()
                return
            self.answer(is_head=False)

        def stop(self) -> None:
            self.server.shutdown()
            self.server.socket.close()  # connections are refused from now on

        def answer(self, *, is_head: bool) -> None:
            repository, _, rest = self.path.removeprefix("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            is_allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if repository == "org/gated" and not is_allowed:
                return self.reply(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "is gated"}, b"")
            if repository == "org/refused":  # a token, but the licence was not accepted
                return self.reply(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "not accepted"}, b"")
            if repository == "org/down":
                return self.reply(500, {}, b"")
            if repository not in ("org/tiny", "org/empty"):
                return self.reply(404, {"X-Error-Code": "RepoNotFound"}, b"")
            if revision not in ("main", COMMIT):
                return self.reply(404, {"X-Error-Code": "RevisionNotFound"}, b"")
            if repository == "org/empty" or not (folder / name).exists():
                return self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b"")
            content = (folder / name).read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            return self.reply(200, headers, content, is_head=is_head)

        def reply(
            self, status: int, headers: dict[str, str], content: bytes, *, is_head: bool = False
        ) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if not is_head:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    return Hub


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def start_child(endpoint: str, home: Path, *names: str, **settings: str) -> "subprocess.Popen[str]":
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **settings}
    command = [sys.executable, "-P", "-c", CHILD, endpoint, *names]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, write_folder: Callable[..., Path]) -> dict[str, Any]:
    """What happens to each encoder asked for; the last two after the server has gone."""
    folder = write_folder(tmp_path_factory.mktemp("hub") / "tiny")
    home = tmp_path_factory.mktemp("home")
    there = [f"hf-hub:org/{n}" for n in ("tiny", "gated", "refused", "nowhere", "empty", "down", "tiny@v9")]
    gone = ["stop", "hf-hub:org/tiny@main", "hf-hub:org/late", "timm:test_vit"]
    with serving(folder) as endpoint:
        hub = start_child(endpoint, home, *there, "uni_v1", *gone)
        offline = start_child(
            endpoint,
            tmp_path_factory.mktemp("offline"),
            "hf-hub:org/tiny",
            "timm:test_vit",
            HF_HUB_OFFLINE="1",
        )
        found: dict[str, Any] = {"folder": folder}
        for name, child in (("hub", hub), ("offline", offline)):
            output, errors = child.communicate(timeout=120)
            assert child.returncode == 0, errors
            found[name] = json.loads(output)
    return found


def expected_features(folder: Path) -> tuple[np.ndarray, str]:
    encoder = build_encoder(encoder_card(f"local:{folder}"), device=torch.device("cpu"))
    tiles = np.arange(3 * 32 * 32 * 3, dtype=np.uint8).reshape(3, 32, 32, 3)
    return encoder.embed(tiles), encoder.weights_sha256


def test_a_model_of_the_hub_gives_the_features_of_its_folder(answers: dict[str, Any]) -> None:
    features, digest = expected_features(answers["folder"])
    found = answers["hub"]["hf-hub:org/tiny"]
    assert found["digest"] == digest
    np.testing.assert_array_equal(np.array(found["features"], dtype=np.float32), features)


def test_a_model_that_was_fetched_needs_no_network(answers: dict[str, Any]) -> None:
    again = answers["hub"]["hf-hub:org/tiny@main"]
    assert again["features"] == answers["hub"]["hf-hub:org/tiny"]["features"]


@pytest.mark.parametrize(
    ("where", "name", "words"),
    [
        (
            "hub",
            "hf-hub:org/gated",
            r"is gated: accept the licence at https://huggingface.co/org/gated .*`hf auth login`",
        ),
        (
            "hub",
            "hf-hub:org/refused",
            r"is gated: accept the licence at https://huggingface.co/org/refused .*HF_TOKEN",
        ),
        (
            "hub",
            "hf-hub:org/nowhere",
            r"no repository at https://huggingface.co/org/nowhere.*check the spelling",
        ),
        ("hub", "uni_v1", r"'uni_v1': the Hub shows no repository at https://huggingface.co/MahmoodLab/uni:"),
        ("hub", "hf-hub:org/empty", r"no repository that timm can read.*config\.json"),
        ("hub", "hf-hub:org/down", r"http://127.0.0.1:\d+ cannot be reached.*500"),
        ("hub", "hf-hub:org/tiny@v9", r"https://huggingface.co/org/tiny has no such revision"),
        ("hub", "hf-hub:org/late", r"are not on this machine, and http://127.0.0.1:\d+ cannot be reached"),
        ("hub", "timm:test_vit", r"'timm:test_vit.r160_in1k' are not on this machine.*cannot be reached"),
        ("offline", "hf-hub:org/tiny", r"are not on this machine, and HF_HUB_OFFLINE forbids"),
        ("offline", "timm:test_vit", r"'timm:test_vit.r160_in1k' are not .* and HF_HUB_OFFLINE forbids"),
    ],
)
def test_each_fault_says_what_to_do_within_seconds(
    answers: dict[str, Any], where: str, name: str, words: str
) -> None:
    found = answers[where][name]
    assert "features" not in found
    assert found["error"].startswith(f"encoder {name!r}")
    assert re.search(words, found["error"]), found["error"]
    assert found["seconds"] < 15
