"""The Hub, spoken to for real by a server on loopback: download, gate, absence, no network, offline."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_models import COMMIT, HubModels
from pointing import point_at_models

from spam.encoders import build_encoder, encoder_card, require_reachable
from spam.encoders.encoder import Encoder
from spam.errors import EncoderError

CPU = torch.device("cpu")
TILES = np.arange(3 * 32 * 32 * 3, dtype=np.uint8).reshape(3, 32, 32, 3)


@pytest.fixture
def tiny(hub: HubModels, write_folder: Callable[..., Path]) -> Path:
    """A repository of the Hub with the tiny model."""
    return write_folder(hub.folder / "org" / "tiny")


def built(name: str, revision: str | None = None) -> Encoder:
    return build_encoder(encoder_card(name, revision), device=CPU)


def test_a_model_of_the_hub_gives_the_features_of_its_folder(hub: HubModels, tiny: Path) -> None:
    fetched, local = built("hf-hub:org/tiny"), built(f"local:{tiny}")
    assert fetched.weights_sha256 == local.weights_sha256
    np.testing.assert_array_equal(fetched.embed(TILES), local.embed(TILES))


def test_a_model_that_was_fetched_needs_no_network(hub: HubModels, tiny: Path) -> None:
    first = built("hf-hub:org/tiny").embed(TILES)
    hub.forget()
    again = built("hf-hub:org/tiny@main")
    require_reachable(again.card)
    np.testing.assert_array_equal(again.embed(TILES), first)
    assert hub.requests == []


def test_weights_are_asked_for_once_and_fetched_once(hub: HubModels, tiny: Path) -> None:
    built("hf-hub:org/tiny", COMMIT)
    prefix = f"/org/tiny/resolve/{COMMIT}"
    assert set(hub.asked) == {f"{prefix}/config.json", f"{prefix}/model.safetensors"}
    fetched = [exchange.path for exchange in hub.requests if exchange.path.startswith("/cdn")]
    assert fetched == ["/cdn/org/tiny/model.safetensors"]


def test_a_revision_is_where_the_name_or_the_option_says(hub: HubModels, tiny: Path) -> None:
    hub.revisions.add("v2")
    named, given = encoder_card("hf-hub:org/tiny@v2"), encoder_card("hf-hub:org/tiny", "v2")
    assert named == given
    assert (named.name, named.source, named.revision) == ("hf-hub:org/tiny@v2", "hf-hub:org/tiny", "v2")
    built("hf-hub:org/tiny@v2")
    for name in ("hf-hub:org/tiny@v2+stages", "hf-hub:org/tiny+stages@v2"):
        with pytest.raises(EncoderError, match=r"encoder 'hf-hub:org/tiny@v2' has no stages"):
            encoder_card(name)
    assert {path.split("/")[4] for path in hub.asked} == {"v2"}


def test_a_token_opens_a_gated_model(
    hub: HubModels, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add("org/tiny")
    with pytest.raises(EncoderError, match="is gated: accept the licence"):
        built("hf-hub:org/tiny")
    point_at_models(hub, monkeypatch, tmp_path / "cache", token=hub.token)
    assert built("hf-hub:org/tiny").embed(TILES).shape == (3, 24)


GATED = (
    r"is gated: accept the licence at https://huggingface.co/org/gated .*`hf auth login` \(or set HF_TOKEN to"
)
NOT_GRANTED = r"is gated, and the account of your token was not granted access: accept the licence at https://huggingface.co/org/gated"
NOWHERE = r"no repository at https://huggingface.co/org/nowhere.*check the spelling, or run `hf auth login`"


@pytest.mark.parametrize(
    ("name", "token", "words"),
    [
        ("hf-hub:org/gated", None, GATED),
        ("hf-hub:org/gated", HubModels.stranger_token, NOT_GRANTED),
        (
            "hf-hub:org/gated",
            "hf_old",
            r"refuses your token .*Invalid credentials.*huggingface.co/settings/tokens",
        ),
        ("hf-hub:org/nowhere", None, NOWHERE),
        ("hf-hub:org/nowhere", HubModels.token, NOWHERE),
        ("uni_v1", None, r"'uni_v1': the Hub shows no repository at https://huggingface.co/MahmoodLab/uni:"),
        ("hf-hub:org/empty", None, r"no repository that timm can read.*config\.json"),
        (
            "hf-hub:org/bare",
            None,
            r"no repository that timm can read.*model\.safetensors or pytorch_model\.bin",
        ),
        (
            "hf-hub:org/down",
            None,
            r": http://127.0.0.1:\d+ answered with status 500 .*org/down .*; try again in a few minutes; https://status",
        ),
        (
            "hf-hub:org/busy",
            None,
            r"answered with status 429 .*org/busy .*; try again in a few minutes \(with a token .*`hf auth login`",
        ),
        (
            "hf-hub:org/tiny@v9",
            None,
            r"https://huggingface.co/org/tiny has no revision 'v9'; check --revision",
        ),
    ],
)
def test_each_fault_says_what_to_do(
    hub: HubModels,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    token: str | None,
    words: str,
) -> None:
    for other in ("gated", "bare"):
        shutil.copytree(tiny, hub.folder / "org" / other)
    (hub.folder / "org" / "bare" / "model.safetensors").unlink()
    for other in ("empty", "down", "busy"):
        (hub.folder / "org" / other).mkdir()
    hub.gated.add("org/gated")
    hub.broken |= {"org/down": 500, "org/busy": 429}
    point_at_models(hub, monkeypatch, tmp_path / "cache", token=token)
    with pytest.raises(EncoderError, match=words) as caught:
        built(name)
    assert str(caught.value).startswith(f"encoder {name!r}")
    assert len(hub.questions) <= 5  # nobody tries again and again


@pytest.mark.parametrize("name", ["hf-hub:org/tiny", "timm:test_vit", "uni_v1"])
def test_no_network_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with HubModels(tmp_path) as server:
        point_at_models(server, monkeypatch, tmp_path / "cache", token=None)
    with pytest.raises(
        EncoderError, match=r"are not on this machine, and http://127.0.0.1:\d+ cannot be reached.*proxy"
    ):
        built(name)


@pytest.mark.parametrize("name", ["hf-hub:org/tiny", "timm:test_vit", "uni_v1"])
def test_a_page_that_asks_to_log_in_is_not_the_hub(hub: HubModels, tiny: Path, name: str) -> None:
    hub.is_portal = True
    with pytest.raises(
        EncoderError,
        match=r"are not on this machine.*network and proxy.*\(what answers at http://127.0.0.1:\d+ is not the Hub\)",
    ):
        built(name)
    assert len(hub.questions) == 1  # and nothing of the page is kept as if it were weights


@pytest.mark.parametrize("name", ["hf-hub:org/tiny", "timm:test_vit", "uni_v1"])
def test_offline_is_told_at_once_and_nobody_is_asked(
    hub: HubModels, tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match=r"are not on this machine, and HF_HUB_OFFLINE forbids.*unset it"):
        built(name)
    assert hub.requests == []


def test_a_model_that_was_fetched_is_there_offline(
    hub: HubModels, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = built("hf-hub:org/tiny").embed(TILES)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    np.testing.assert_array_equal(built("hf-hub:org/tiny").embed(TILES), expected)


def test_revisions_are_asked_for_where_there_are_some(
    tmp_path: Path, write_folder: Callable[..., Path]
) -> None:
    assert encoder_card("uni_v1", "main").revision == "main"
    assert encoder_card("timm:test_vit", "v1").revision == "v1"
    folder: Any = write_folder(tmp_path / "tiny")
    for name in ("efficientnet_lite0", f"local:{folder}"):
        with pytest.raises(EncoderError, match=r"has no revisions; leave out --revision 'v1'"):
            encoder_card(name, "v1")
    with pytest.raises(
        EncoderError, match=r"'hf-hub:org/tiny@v1' names its revision, and so does --revision 'v2'"
    ):
        encoder_card("hf-hub:org/tiny@v1", "v2")
